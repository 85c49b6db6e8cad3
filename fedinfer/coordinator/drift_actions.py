"""What the watch may do besides training: go back to the model before, or ask a person."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedinfer.artifact import ChosenFile
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.drift import Watch, in_service
from fedinfer.coordinator.push.withdrawal import withdraw
from fedinfer.coordinator.released import CHECKPOINTS, mark_released
from fedinfer.drift import monitor, policy, reuse
from fedinfer.errors import ConfigError
from fedinfer.training import load_checkpoint
from fedinfer.types import Json

SUGGESTED, ANSWER = "drift-suggested.json", "drift-answer.json"
"""Files in the run folder: a round that waits for a person, and what the person said."""


def roll_back(server: Server, progress: Progress, watch: Watch, decision: policy.Decision) -> None:
    """Withdraw the newest version: the repository signs that, and devices go back to the one before.

    Costs no epsilon. Training goes on from the weights of the version before.

    Args:
        server: wiring of the run.
        progress: of the run; its weights become those of the version before.
        watch: its monitor forgets the reference; its policy does not roll back twice in a row.
        decision: of the policy, with its reason.
    """
    newest, previous = in_service(server.repository.versions(), progress)
    outcomes = withdraw(server.repository, server.fleet, server.emit, newest, sorted(server.devices))
    weights = load_checkpoint(server.folder / CHECKPOINTS / f"v{previous}.npz").arrays["weights"]
    progress.weights = weights.astype(np.float32)
    progress.newest = ChosenFile.of(server.repository.manifest(previous), server.repository.model_files(previous))
    progress.calibration = None  # of the version that is gone
    mark_released(server.folder, previous)
    went_back = sum(not reason for reason in outcomes.values())
    figures = {"window": decision.window, "reason": decision.reason, "version": newest, "to": previous}
    server.emit("rolled_back", figures | {"devices": went_back})
    watch.state = monitor.reset(watch.plan, watch.state, keep=())
    watch.policy = policy.rolled_back(watch.policy)
    watch.worlds = reuse.without(watch.worlds, previous)


def suggest(folder: Path, decision: policy.Decision) -> None:
    """Keep a suggested round where `fedinfer drift approve` finds it.

    Args:
        folder: of the run.
        decision: SUGGEST_ROUND, with its reason.
    """
    (folder / SUGGESTED).write_text(json.dumps(decision.to_json()) + "\n", encoding="utf-8")


def answer_suggestion(folder: Path, *, approved: bool) -> Json:
    """Answer the round that a run suggests.

    Args:
        folder: of the run.
        approved: False declines it.

    Returns:
        What was suggested: `action`, `reason`, `window`.

    Raises:
        ConfigError: no round waits in this folder, or it was answered already.
    """
    path = folder / SUGGESTED
    if not path.exists():
        raise ConfigError(
            f"{folder}: no round waits for an answer", hint="a run suggests one with drift.mode = 'suggest'"
        )
    if (folder / ANSWER).exists():
        raise ConfigError(f"{folder}: the suggested round was answered", hint="the run reads it after its next window")
    suggested: Json = json.loads(path.read_text(encoding="utf-8"))
    part = folder / f"{ANSWER}.part"
    part.write_text(json.dumps({"approved": approved}) + "\n", encoding="utf-8")
    part.replace(folder / ANSWER)  # whole or not at all: the run may look at any moment
    return suggested


def answered(folder: Path, watch: Watch) -> policy.Decision | None:
    """What a person has said about the suggested round since the last window.

    Args:
        folder: of the run.
        watch: its policy cools down where the round was declined.

    Returns:
        ROUND when it was approved; None when nobody has answered, it was declined, or none waits.
    """
    if watch.policy.phase is not policy.WatchPhase.ROUND_PENDING or not (folder / ANSWER).exists():
        return None
    suggested, answer = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (SUGGESTED, ANSWER))
    for name in (SUGGESTED, ANSWER):
        (folder / name).unlink()
    if not answer["approved"]:
        watch.policy = policy.finished(watch.settings, watch.policy)
        return None
    watch.policy, decision = policy.approve(watch.settings, watch.policy)
    return replace(decision, window=suggested["window"], reason=f"{suggested['reason']}; {decision.reason}")
