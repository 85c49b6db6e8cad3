"""The whole run in reading order: weights -> rounds -> artifact -> push -> windows -> (alarm -> rounds -> push).

An alarm may also bring back an earlier version, or withdraw the newest one.

`agenda` knows which step is next; after every step the state is kept, and a process that was killed leaves a run that
another process goes on with (docs/adr/0014).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import assert_never

from fedinfer.config import Scenario
from fedinfer.coordinator import drift as drift_loop
from fedinfer.coordinator import drift_actions, run_json
from fedinfer.coordinator.agenda import Agenda, RunStep, after, retrained, whole_run
from fedinfer.coordinator.checkpoint import RunState, to_checkpoint
from fedinfer.coordinator.context import LEDGER_OWNER, Progress, Server
from fedinfer.coordinator.judging import pooled_figures
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.attention import attentive, heed
from fedinfer.coordinator.push.publish import publish_version, push_version
from fedinfer.coordinator.released import start_of
from fedinfer.coordinator.resume import take_up
from fedinfer.coordinator.reuse import reuse_version
from fedinfer.coordinator.train.round import start_schedule, training_round
from fedinfer.drift import WatchAction
from fedinfer.errors import (
    ArtifactRejected,
    BudgetExceeded,
    FedInferError,
    ProtocolAbort,
    TooFewSurvivors,
    TransportError,
)
from fedinfer.privacy import Budget
from fedinfer.training import Checkpoint
from fedinfer.types import Json, Unit


def carry_out(server: Server, plan: RunPlan, kept: Checkpoint | None = None) -> Json:
    """Run a scenario to its end and write run.json, whatever the end is.

    Args:
        server: wiring of the run; its ledger has no account of the run yet, or one with the same budget.
        plan: of the run.
        kept: state of a run that a process began that is gone; None: the run begins.

    Returns:
        The run record (schema 1).

    Raises:
        FedInferError: the run did not complete; the record is written first, with the status.
        ConfigError: the kept state is of another run.
    """
    began = server.clock.seconds()
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget_of(server.scenario))
    state = _first_state(server, plan) if kept is None else take_up(server, plan, kept)
    earlier, failure = state.seconds, None
    try:
        while (step := state.agenda.next) is not None:
            _one_step(server, plan, state, step)
            state.seconds = earlier + server.clock.seconds() - began
            server.keeper.keep(step, to_checkpoint(state))
            if step is RunStep.ROLL_OUT:
                run_json.write_unfinished(server, plan, state.progress, state.seconds)
        state.progress.pooled = pooled_figures(server, state.progress)
    except (BudgetExceeded, ProtocolAbort, ArtifactRejected, TransportError) as error:
        failure = error
        server.emit("stopped", {"error": type(error).__name__, "message": str(error), "hint": error.hint})
    status = status_of(failure, simulated=server.simulated)
    seconds = earlier + server.clock.seconds() - began
    result = run_json.closing(server, plan, state.progress, status, seconds)
    run_json.write(server.folder, result)
    server.emit("finished", {"status": status})
    if status != run_json.UNFINISHED:
        server.keeper.end()
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
    """Start weights: those of the newest released version, the model's own, or pre-trained on public rows.

    Args:
        server: wiring of the run.
        plan: of the run.

    Raises:
        ConfigError: `[training] start` names weights of another model.
    """
    from fedinfer.training import init_optimizer

    start = start_of(server)
    weights = server.trainer.initial() if start.weights is None else start.weights
    if start.weights is not None:
        figures = server.trainer.evaluate(weights, *server.judged(0))
        server.emit("continued", {"start": start.source, "metrics": figures})
    elif server.scenario.training.pretrain:
        x, y = server.public
        weights = server.trainer.pretrain(weights, x, y, server.generator("pretrain"))
        server.emit("pretrained", {"rows": len(y), "metrics": server.trainer.evaluate(weights, *server.judged(0))})
    # Versions only grow, also over several runs of one task on the same devices.
    newest = server.repository.newest_version
    optimizer = init_optimizer(plan.optimizer, server.trainer.dimension)
    norm = server.scenario.privacy.clipping_norm
    return Progress(
        weights,
        optimizer,
        norm,
        version=newest,
        start=start.source,
        schedule=start_schedule(server.devices, server.generator, plan),
    )


def status_of(failure: FedInferError | None, *, simulated: bool) -> str:
    """How a run ended; a deployment whose devices could not be reached is not over: the next process goes on with it.

    Args:
        failure: why it ended early; None: it did not.
        simulated: devices are simulated; they are as unreachable the next time.
    """
    if failure is None:
        return "completed"
    if isinstance(failure, TransportError) and not simulated:
        return run_json.UNFINISHED
    return "budget_exhausted" if isinstance(failure, BudgetExceeded) else "aborted"


def _first_state(server: Server, plan: RunPlan) -> RunState:
    server.emit("started", run_json.opening(server, plan))
    progress = first_progress(server, plan)
    watch = drift_loop.start_watch(server.scenario, plan) if plan.windows else None
    state = RunState(whole_run(plan.rounds, plan.windows), progress, watch, server.population)
    run_json.write_unfinished(server, plan, progress, 0.0)
    server.keeper.keep(None, to_checkpoint(state))
    return state


def _one_step(server: Server, plan: RunPlan, state: RunState, step: RunStep) -> None:
    progress = state.progress
    state.agenda, agenda = after(state.agenda), state.agenda
    match step:
        case RunStep.ROUND:
            training_round(server, plan, progress, agenda.reason, state.agenda.rounds)
        case RunStep.PUBLISH:
            _check_released(agenda, progress)
            publish_version(server, plan, progress)
        case RunStep.ROLL_OUT:
            push_version(server, plan, progress)
            if state.watch is not None and progress.window:
                _, replaced = drift_loop.in_service(server.repository.versions(), progress)
                drift_loop.relearn(state.watch, replaced)
        case RunStep.WINDOW:
            _window(server, plan, state)
        case RunStep.REUSE:
            if state.watch is None:
                raise RuntimeError("a run without a watch reuses nothing")
            reuse_version(server, plan, progress, state.watch, agenda.reuse)
        case _:
            assert_never(step)


def _check_released(agenda: Agenda, progress: Progress) -> None:
    """Of rounds that belong together at least one must be released: weights that nobody trained are not published.

    Raises:
        TooFewSurvivors: when all of them aborted.
    """
    recent = progress.rounds[-agenda.together :] if agenda.together else []
    if recent and not any(row.released for row in recent):
        raise TooFewSurvivors(
            f"all {agenda.together} rounds aborted, the last one: {recent[-1].detail}",
            hint="lower fleet.dropout, enlarge the cohort, or raise secure_aggregation.dropout_rate (more noise)",
        )


def _window(server: Server, plan: RunPlan, state: RunState) -> None:
    """One window; an alarm adds rounds, a push and some windows after it, or goes back first."""
    if state.watch is None:
        raise RuntimeError("a run without a watch has no windows")
    heed(server, plan, state.progress)
    decision = drift_loop.window(attentive(server, plan, state.progress), plan, state.progress, state.watch)
    decision = drift_actions.answered(server.folder, state.watch) or decision
    match decision.action:
        case WatchAction.ROUND:
            state.agenda, more = retrained(state.agenda, plan.retrain_rounds, plan.after_windows)
            state.progress.triggered += 1
            why = {"window": decision.window, "reason": decision.reason}
            server.emit("triggered", {**why, "rounds": plan.retrain_rounds, "windows": more})
        case WatchAction.NONE | WatchAction.WARN | WatchAction.DEFER:
            pass
        case WatchAction.ROLLBACK:
            drift_actions.roll_back(server, state.progress, state.watch, decision)
        case WatchAction.REUSE:
            state.agenda = replace(state.agenda, reuse=decision.version)
        case WatchAction.SUGGEST_ROUND:
            drift_actions.suggest(server.folder, decision)
            server.emit("suggested", decision.to_json())
        case _:
            assert_never(decision.action)
