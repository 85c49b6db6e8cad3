"""The whole run in reading order: weights -> rounds -> artifact -> push -> windows -> (alarm -> rounds -> push)."""

from __future__ import annotations

import math
from typing import assert_never

from fedinfer.config import Scenario
from fedinfer.coordinator import drift as drift_loop
from fedinfer.coordinator import run_json
from fedinfer.coordinator.context import LEDGER_OWNER, Progress, Server
from fedinfer.coordinator.drift import Watch
from fedinfer.coordinator.judging import pooled_figures
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.publish import publish_and_push
from fedinfer.coordinator.train.round import start_schedule, training_round
from fedinfer.drift import Decision, WatchAction
from fedinfer.errors import (
    ArtifactRejected,
    BudgetExceeded,
    FedInferError,
    ProtocolAbort,
    TooFewSurvivors,
    TransportError,
)
from fedinfer.privacy import Budget
from fedinfer.types import Json, Unit


def carry_out(server: Server, plan: RunPlan) -> Json:
    """Run a scenario to its end and write run.json, whatever the end is.

    Args:
        server: wiring of the run; its ledger has no account of the run yet, or one with the same budget.
        plan: of the run.

    Returns:
        The run record (schema 1).

    Raises:
        FedInferError: the run did not complete; the record is written first, with the status.
    """
    started = server.clock.seconds()
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget_of(server.scenario))
    server.emit("started", run_json.opening(server, plan))
    progress = first_progress(server, plan)
    failure: FedInferError | None = None
    try:
        _all_steps(server, plan, progress)
    except (BudgetExceeded, ProtocolAbort, ArtifactRejected, TransportError) as error:
        failure = error
        server.emit("stopped", {"error": type(error).__name__, "message": str(error), "hint": error.hint})
    status = _status(failure)
    result = run_json.closing(server, plan, progress, status, server.clock.seconds() - started)
    run_json.write(server.folder, result)
    server.emit("finished", {"status": status})
    if failure is not None:
        raise failure
    return result


def budget_of(scenario: Scenario) -> Budget:
    """Budget of a run; without a privacy unit there is nothing to limit, and every epsilon is infinite.

    Args:
        scenario: with its [privacy] section.
    """
    privacy = scenario.privacy
    return Budget(math.inf if privacy.unit is Unit.NONE else privacy.epsilon, privacy.delta)


def first_progress(server: Server, plan: RunPlan) -> Progress:
    """Start weights: the model's own, or pre-trained on the rows the server may hold.

    Args:
        server: wiring of the run.
        plan: of the run.
    """
    from fedinfer.training import init_optimizer

    weights = server.trainer.initial()
    x, y = server.public
    if server.scenario.training.pretrain:
        weights = server.trainer.pretrain(weights, x, y, server.generator("pretrain"))
        server.emit("pretrained", {"rows": len(y), "metrics": server.trainer.evaluate(weights, *server.judged(0))})
    # Versions only grow, also over several runs of one task on the same devices.
    newest = server.repository.newest_version
    optimizer = init_optimizer(plan.optimizer, server.trainer.dimension)
    norm = server.scenario.privacy.clipping_norm
    return Progress(
        weights, optimizer, norm, version=newest, schedule=start_schedule(server.devices, server.generator, plan)
    )


def _all_steps(server: Server, plan: RunPlan, progress: Progress) -> None:
    _rounds(server, plan, progress, "initial", plan.rounds)
    publish_and_push(server, plan, progress)
    if plan.windows:
        _watch(server, plan, progress)
    progress.pooled = pooled_figures(server, progress)


def _rounds(server: Server, plan: RunPlan, progress: Progress, reason: str, count: int) -> None:
    """Rounds of which at least one must be released: weights that nobody trained are not published.

    Raises:
        TooFewSurvivors: when all of them aborted.
    """
    for _ in range(count):
        training_round(server, plan, progress, reason)
    recent = progress.rounds[-count:] if count else []
    if recent and not any(row.released for row in recent):
        raise TooFewSurvivors(
            f"all {count} rounds aborted, the last one: {recent[-1].detail}",
            hint="lower fleet.dropout, enlarge the cohort, or raise secure_aggregation.dropout_rate (more noise)",
        )


def _watch(server: Server, plan: RunPlan, progress: Progress) -> None:
    """All windows; an alarm adds rounds, a push and some windows after it."""
    watch, left = drift_loop.start_watch(server.scenario, server.schema.classes, plan), plan.windows
    while left > 0:
        left -= 1
        decision = drift_loop.window(server, plan, progress, watch)
        match decision.action:
            case WatchAction.ROUND:
                more = max(plan.after_windows - left, 0)
                left += more
                _retrain(server, plan, progress, watch, decision, more)
            case WatchAction.NONE | WatchAction.WARN | WatchAction.DEFER:
                pass
            case WatchAction.ROLLBACK | WatchAction.SUGGEST_ROUND:  # start_watch rules both out
                raise RuntimeError(f"the policy of this run does not allow {decision.action}")
            case _:
                assert_never(decision.action)


def _retrain(
    server: Server, plan: RunPlan, progress: Progress, watch: Watch, decision: Decision, more_windows: int
) -> None:
    progress.triggered += 1
    trigger = {"window": decision.window, "reason": decision.reason}
    server.emit("triggered", {**trigger, "rounds": plan.retrain_rounds, "windows": more_windows})
    _rounds(server, plan, progress, "drift", plan.retrain_rounds)
    publish_and_push(server, plan, progress)
    drift_loop.relearn(watch)


def _status(failure: FedInferError | None) -> str:
    if failure is None:
        return "completed"
    return "budget_exhausted" if isinstance(failure, BudgetExceeded) else "aborted"
