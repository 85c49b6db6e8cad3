"""From weights to a model on every device: build, check, sign, push in waves, judge each wave before the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedinfer.artifact import (
    Baseline,
    Built,
    Evidence,
    Judging,
    OutputHead,
    add_deltas,
    build_artifact,
    choose,
    mirror,
    rounds_inputs,
    synthetic_rows,
)
from fedinfer.coordinator.agenda import INITIAL
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.given import PRIVACY
from fedinfer.coordinator.judging import confidence_calibration, judge_model
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.rollout import Steps, hint_of, reachable, roll_out
from fedinfer.coordinator.push.threshold import choose_log_odds
from fedinfer.coordinator.record import ModelRecord
from fedinfer.coordinator.released import RELEASED, check_not_worse, mark_released, save_version
from fedinfer.errors import GateFailed
from fedinfer.manifest import Manifest, Privacy
from fedinfer.metrics import EVEN
from fedinfer.privacy import at_most
from fedinfer.rollout import Phase, RolloutState
from fedinfer.types import DeviceId, FloatVector, Unit

if TYPE_CHECKING:
    from fedinfer.artifact import Repository

SYNTHETIC_ROWS = 256
FEWEST_PUBLIC_ROWS = 32
"""With fewer public rows calibration and self-check rows are drawn from the public ranges."""


def publish_version(server: Server, plan: RunPlan, progress: Progress) -> None:
    """Build the present weights as the next version, check it and sign it; no device is sent it yet.

    A version that was signed by a process that is gone, and not recorded, is left alone: its number is not used again.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; its version is raised and the model is recorded in it.

    Raises:
        GateFailed: the artifact does not pass its gates, or is worse than what devices run.
        TransportError: no device can be reached.
    """
    # Never a withdrawn one: a rollback would go to it.
    progress.previous = max((v for v in server.repository.versions() if v <= progress.version), default=0)
    progress.version = max(progress.version, server.repository.newest_version) + 1
    reason = progress.rounds[-1].reason if progress.rounds else INITIAL
    save_version(server, progress.version, reason, progress.weights)
    progress.log_odds = choose_log_odds(server, plan, progress)
    server.emit("phase", {"phase": f"export, quantization and gates of version {progress.version}"})
    built = build(server, progress)
    if (
        progress.previous
        and reason == INITIAL
        and (unjudged := check_not_worse(server, progress.previous, built.chosen_file))
    ):
        progress.notices.append(unjudged)
        server.emit("unjudged", {"version": progress.version, "active": progress.previous, "reason": unjudged})
    manifest = built.manifest(
        PRIVACY if server.given else _guarantee(server),
        server.clock.now().isoformat(timespec="seconds"),
    )
    progress.active = reachable(server.fleet, progress.version)
    publish(server.repository, manifest, built.targets(), progress.active)
    progress.models.append(ModelRecord(progress.version, reason, progress.window, built.to_json()))
    progress.newest = built.chosen_file
    server.emit("built", progress.models[-1].to_json())
    progress.judgement = judge_model(server, progress, built)
    progress.calibration = confidence_calibration(server.schema, server.judged(progress.window), built.chosen_file)


def push_version(server: Server, plan: RunPlan, progress: Progress) -> None:
    """Bring the newest version to the fleet; a rollout that a process began that is gone goes on where it was.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; how the version came to the devices is recorded in it.

    Raises:
        GateFailed: the rollout did not reach the whole fleet; what is installed stays or goes back to the version
            before.
        TransportError: no device can be reached.
        BudgetExceeded: the server's budget does not cover a canary evaluation.
    """
    active, previous = progress.active or reachable(server.fleet, progress.version), progress.previous
    server.emit("phase", {"phase": f"push of version {progress.version} to {len(active)} devices"})
    steps = Steps()
    try:
        state = roll_out(server, plan, progress, previous, active, steps)
    finally:  # an interrupted rollout is in the record as far as it came
        record = replace(progress.models[-1], rollout=steps.record())
        progress.models[-1] = record
    if not server.simulated:
        offer(server.folder, state)
    if state.phase is not Phase.DONE:
        raise GateFailed(
            f"version {state.version} was {state.phase} in wave {state.wave + 1}: {state.reason}", hint=hint_of(state)
        )
    mark_released(server.folder, progress.version)
    server.emit("pushed", record.to_json())
    # The newest is never pruned; these are what one may have to go back to, and what devices may still run.
    server.repository.prune(server.scenario.rollout.keep_versions, {previous, *active.values()})


def offer(folder: Path, state: RolloutState) -> None:
    """Copy what a rollout ended with for devices that belong to no wave.

    Args:
        folder: of the server's runs.
        state: of a rollout; nothing is copied of one that did not reach everybody, or was not taken back.
    """
    if state.phase in (Phase.DONE, Phase.ROLLED_BACK):
        mirror(folder / "artifacts", folder / RELEASED)


def publish(
    repository: Repository, manifest: Manifest, files: Mapping[str, bytes], active: Mapping[DeviceId, int]
) -> None:
    """Sign a version, with patches from the versions that devices say they run, the most frequent ones first.

    Args:
        repository: signs and keeps it.
        manifest: of the version.
        files: contents by name, as the manifest lists them.
        active: version that each device runs, 0: none or unknown.
    """
    versions = [version for version, _ in Counter(active.values()).most_common()]
    bases = [repository.model_files(version) for version in versions]
    repository.publish(*add_deltas(manifest, files, [manifest.chosen], bases))


def build(server: Server, progress: Progress) -> Built:
    """Export, quantize and check the present weights; with `pruning` or `qat_steps` a compressed file beside them.

    Pruning and fine-tuning change the pushed file only: the next round starts from all weights, unrounded.

    Args:
        server: wiring of the run.
        progress: of the run: weights, version and window.

    Raises:
        GateFailed: no file is as good as the gates of [artifact] ask; the message has the figures.
    """
    rng = server.generator(f"calibration {progress.version}")
    public_x, public_y = server.public
    asked = server.scenario.training.threshold
    judging = Judging(server.judged_by.metric, EVEN if asked == "private" else asked, progress.log_odds)
    enough = len(public_y) >= FEWEST_PUBLIC_ROWS
    calibration = public_x if enough else synthetic_rows(server.schema, SYNTHETIC_ROWS, rng)
    held_x, held_y = server.judged(progress.window)
    evidence = Evidence(
        held_x,
        held_y,
        np.ascontiguousarray(calibration[:SYNTHETIC_ROWS]),
        public_x,
        public_y,
        unseen=not server.scenario.training.pretrain,
    )
    task = server.scenario.scenario.name
    section, terms = server.scenario.artifact, server.trainer.terms
    head = OutputHead(server.schema, 1.0, task, progress.version, section.top, section.abstain_below, terms=terms)
    if server.given is not None:
        return server.given.build(head, evidence, judging)
    make = partial(_exported, server, head, evidence, judging)
    plain = make(progress.weights, None)
    if not (section.pruning or section.qat_steps):
        return plain
    return choose(
        plain, lambda float_model: make(_compressed(server, progress, plain), float_model), section, server.clock
    )


def _exported(
    server: Server,
    head: OutputHead,
    evidence: Evidence,
    judging: Judging,
    weights: FloatVector,
    float_model: Baseline | None,
) -> Built:
    section, module = server.scenario.artifact, server.trainer.module(weights)
    return build_artifact(module, head, evidence, section, server.templates, server.clock, float_model, judging)


def _compressed(server: Server, progress: Progress, plain: Built) -> FloatVector:
    """The present weights pruned and fine-tuned for the plain file's quantization scheme, on public rows."""
    from fedinfer.training import CompressionPlan, Rounded

    section, rng = server.scenario.artifact, server.generator(f"slimming {progress.version}")
    rounded = Rounded.INPUTS if rounds_inputs(plain.chosen.recipe, plain.family) else Rounded.WEIGHTS
    asked = CompressionPlan(section.pruning, section.qat_steps, server.scenario.training.batch_size, rounded)
    return server.trainer.compress(progress.weights, server.public[0], asked, rng)


def _guarantee(server: Server) -> Privacy:
    """What the manifest says about the training data: what was spent up to this version, and what the run claims."""
    statement, spent = server.statement, server.account.spent()
    if server.scenario.privacy.unit is Unit.NONE:
        return Privacy("inf", "1", statement.sentence(), statement)
    return Privacy(at_most(spent.epsilon, 6), at_most(spent.delta, 6), statement.sentence(), statement)
