"""Going on with a run that a process began that is gone.

A step that was over is never repeated: its state was kept. What was under way is settled by what the stores say:

* a training round or a window that the ledger was charged for counts as aborted: it is charged once and not repeated,
  because the budget was planned without it, and its devices answer once. A simulation has no such step: its whole world
  goes back to the end of the last one;
* a rollout goes on where `rollout.sqlite` says it was; a canary evaluation that was charged and not finished is not
  repeated, and its wave is held;
* a version that was signed and not recorded is not pushed; the weights get the next number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedinfer.artifact import ChosenFile
from fedinfer.coordinator import drift as drift_loop
from fedinfer.coordinator import run_json
from fedinfer.coordinator.agenda import RunStep, after
from fedinfer.coordinator.checkpoint import RunState, from_checkpoint
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.record import RoundRecord, WindowRecord
from fedinfer.coordinator.train.round import start_schedule
from fedinfer.drift import Decision, WatchAction
from fedinfer.errors import ConfigError
from fedinfer.training import Checkpoint

if TYPE_CHECKING:
    from fedinfer.artifact import Repository

INTERRUPTED = "the coordinator was stopped meanwhile; what it charged stays spent, and nothing is repeated"


def take_up(server: Server, plan: RunPlan, kept: Checkpoint) -> RunState:
    """The state with which a run goes on.

    Args:
        server: wiring of the run; its stores are those of the process that is gone.
        plan: of the run, the same as before.
        kept: state after the last step.

    Raises:
        ConfigError: the state is of another run.
    """
    watch = drift_loop.start_watch(server.scenario, plan) if plan.windows else None
    schedule = start_schedule(server.devices, server.generator, plan)
    state = from_checkpoint(kept, watch, schedule)
    progress = state.progress
    if len(progress.weights) != len(server.trainer.initial()):
        raise ConfigError(f"the kept state has {len(progress.weights)} weights, this model has another number")
    progress.newest = _newest(server.repository, progress)
    reached = {"round": progress.round, "window": progress.window, "version": progress.version}
    if "lines" in kept.header:  # a simulation: what the log says after them has not happened
        reached["lines"] = int(kept.header["lines"])
    server.emit("started", run_json.opening(server, plan) | {"resumed": reached})
    _settle(server, state)
    return state


def _newest(repository: Repository, progress: Progress) -> ChosenFile | None:
    version, _ = drift_loop.in_service(repository.versions(), progress)
    return ChosenFile.of(repository.manifest(version), repository.model_files(version)) if version else None


def _settle(server: Server, state: RunState) -> None:
    """Record the round or window that was charged and not finished."""
    progress = state.progress
    match state.agenda.next:
        case RunStep.ROUND if server.account.charged(f"round-{progress.round + 1:04d}"):
            progress.round += 1
            progress.rounds.append(_lost_round(server, progress, state.agenda.reason))
            server.emit("round", progress.rounds[-1].to_json())
        case RunStep.WINDOW if server.account.charged(f"window-{progress.window + 1:04d}"):
            progress.window += 1
            progress.window_metrics.append(math.nan)
            progress.windows.append(_lost_window(progress, state))
            server.emit("window", progress.windows[-1].to_json())
        case _:
            return
    state.agenda = after(state.agenda)


def _lost_round(server: Server, progress: Progress, reason: str) -> RoundRecord:
    return RoundRecord(
        round=progress.round,
        reason=reason,
        cohort=0,
        survivors=0,
        refused=0,
        groups=0,
        groups_released=0,
        released=False,
        detail=INTERRUPTED,
        metric=str(server.judged_by.metric),
        metrics=server.trainer.evaluate(progress.weights, *server.judged(progress.window)),
        clipping_norm=progress.clipping_norm,
        unclipped=None,
        epsilon=server.account.spent().epsilon,
        seconds=0.0,
        bytes_up=0,
        bytes_down=0,
    )


def _lost_window(progress: Progress, state: RunState) -> WindowRecord:
    return WindowRecord(
        window=progress.window,
        metric=None,
        latency_us=None,
        report=None,
        state="" if state.watch is None else str(state.watch.policy.phase),
        decision=Decision(WatchAction.NONE, INTERRUPTED, progress.window),
    )
