"""Inference windows and the watch over them: infer -> private report -> noise-aware test -> policy."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedinfer.config import DriftSection, Scenario
from fedinfer.coordinator.aggregate.promise import sum_plans
from fedinfer.coordinator.aggregate.release import Release, noise_std, release_groups
from fedinfer.coordinator.context import Fleet, Progress, RunAccount, Server
from fedinfer.coordinator.judging import window_score
from fedinfer.coordinator.patience import ASKED_ONCE, Patience
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.drift import monitor_plan, plan_drift
from fedinfer.coordinator.plan.drift import windows as reported_windows
from fedinfer.coordinator.plan.robust import PLAIN_MEAN
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.coordinator.record import AlarmRecord, ReportRecord, WindowRecord
from fedinfer.drift import (
    CONFIDENCE,
    ERRORS,
    AccuracyEstimate,
    MonitorState,
    NoisySum,
    WindowResult,
    Worlds,
    estimate_accuracy,
    labelled_accuracy,
    monitor,
    policy,
    reuse,
    smallest_shift,
    split,
)
from fedinfer.errors import BadMessage, ConfigError, TooFewSurvivors
from fedinfer.messages import Kind, Purpose, ReportWork, WindowReply, WindowRequest
from fedinfer.metrics import Metric
from fedinfer.ports import Answer, Ask
from fedinfer.schema import Schema
from fedinfer.types import DeviceId, Unit
from fedinfer.wire import decode, encode


@dataclass(slots=True)
class Watch:
    """The state of the monitor and the policy, and the settings that they hold to.

    Args:
        plan: channels, windows and false alarm rate of the monitor.
        state: of the monitor; replaced by every report.
        settings: of the policy.
        policy: its state; replaced by every decision.
        worlds: what windows looked like while earlier versions served.
    """

    plan: monitor.MonitorPlan
    state: MonitorState
    settings: policy.PolicySettings
    policy: policy.PolicyState
    worlds: Worlds = field(default_factory=Worlds)


def start_watch(scenario: Scenario, plan: RunPlan) -> Watch:
    """Monitor and policy before the first window.

    Args:
        scenario: with its [drift] section.
        plan: of the run.
    """
    drift, watched = scenario.drift, monitor_plan(scenario, plan.channels)
    settings = policy.PolicySettings(
        mode=policy.Mode(drift.mode),
        max_triggers=drift.max_triggers,
        rollback_windows=drift.rollback_windows,
        cooldown_windows=drift.reference_windows,
        calm_windows=2,
        least_devices=plan.train.groups * plan.train.min_survivors,
        settle_windows=drift.settle_windows,
        reuse=drift.reuse,
    )
    return Watch(watched, monitor.begin(watched), settings, policy.PolicyState())


def least_seen(scenario: Scenario, devices: int, plan: RunPlan, silent: int = 0) -> float:
    """The least part of the answers whose lasting change the watch of a run finds with probability 0.9.

    Args:
        scenario: with its [drift] section.
        devices: that report in a window.
        plan: of the run.
        silent: of these devices, those without rows: they send noise alone.

    Returns:
        In (0, 1]; inf when nothing is watched, or no change of the answers would be seen.
    """
    if plan.drift is None or plan.windows <= scenario.drift.reference_windows:
        return math.inf
    watch = monitor_plan(scenario, plan.channels)
    size = (devices - silent) * watch.unit.counted(scenario.drift.window)
    return smallest_shift(watch, size, noise_std(scenario, plan.drift, devices))


@dataclass(frozen=True, slots=True)
class PlannedWatch:
    """A watch before its first window.

    Args:
        plan: of the monitor.
        noise_std: of the sum of one window when every device reports, per bin.
        noise_multiplier: that the reports are charged for.
        epsilon: of all reports together; inf without noise.
        reports: how many there are at most.
    """

    plan: monitor.MonitorPlan
    noise_std: float
    noise_multiplier: float
    epsilon: float
    reports: int


def planned_watch(scenario: Scenario, population: Population) -> PlannedWatch:
    """What a run of a scenario would watch, and with which noise.

    Args:
        scenario: with its [drift] section.
        population: with the schema of the task.

    Raises:
        ConfigError: nothing is watched, or the reports cannot be planned.
    """
    drift = plan_drift(scenario, population)
    if drift.settings is None:
        raise ConfigError("this scenario watches nothing", hint="set drift.enabled = true and drift.windows")
    epsilon = math.inf if scenario.privacy.unit is Unit.NONE else drift.epsilon
    noise = noise_std(scenario, drift.settings, population.devices)
    watched = monitor_plan(scenario, drift.channels)
    return PlannedWatch(watched, noise, drift.noise_multiplier, epsilon, reported_windows(scenario))


def window(server: Server, plan: RunPlan, progress: Progress, watch: Watch) -> policy.Decision:
    """One window: every device infers, the fleet reports privately, the policy decides.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; the window is recorded in it.
        watch: state of the monitor and the policy; a report moves both.

    Returns:
        What the policy decided; no action when nobody reported or the report aborted.

    Raises:
        BudgetExceeded: the server's budget does not cover the report; no device was asked for one.
    """
    progress.window += 1
    before = len(progress.latencies_us)
    ready = _infer(server, progress, _patience(server.scenario.drift, plan, watch, simulated=server.simulated))
    if server.judged_by.metric is not Metric.ACCURACY:  # what devices count says nothing about it
        score = window_score(server.witness, server.judged_by.metric, progress)
        progress.window_metrics[-1] = math.nan if score is None else score
    decision, report = policy.Decision(policy.WatchAction.NONE, "", progress.window), None
    if plan.drift is not None and ready:
        decision, report = _report(server, plan.drift, progress, watch, ready)
    record = WindowRecord(
        window=progress.window,
        metric=_window_metric(progress),
        latency_us=_window_latency(progress, before),
        report=report,
        state=str(watch.policy.phase),
        decision=decision,
    )
    progress.windows.append(record)
    server.emit("window", record.to_json())
    return decision


def relearn(watch: Watch, replaced: int) -> None:
    """A new model is on the devices: its outputs need a new reference.

    Args:
        watch: its monitor forgets the reference, its policy starts the cooldown.
        replaced: version that served before, whose world is remembered.
    """
    watch.worlds = reuse.remember(watch.plan, watch.worlds, replaced, watch.state)
    watch.state = monitor.reset(watch.plan, watch.state, keep=())
    watch.policy = policy.pushed(policy.finished(watch.settings, watch.policy))


def _patience(drift: DriftSection, plan: RunPlan, watch: Watch, *, simulated: bool) -> Patience:
    if simulated or plan.drift is None:
        return ASKED_ONCE
    return Patience(watch.settings.least_devices, drift.wait_seconds, drift.poll_seconds)


def _infer(server: Server, progress: Progress, patience: Patience) -> tuple[DeviceId, ...]:
    """All devices finish their window; returns those that have a report, at the latest when patience ends."""
    common, began, waiting = encode(WindowRequest(progress.window)), server.clock.seconds(), False
    ready: set[DeviceId] = set()
    while True:
        replies = _replies(server.fleet, sorted(set(server.fleet.devices) - ready), common)
        ready |= {device for device, reply in replies.items() if reply.ready}
        idle = sum(reply.version > 0 and not reply.ready for reply in replies.values())
        pause = patience.pause(len(ready), idle, server.clock.seconds() - began)
        if pause is None:
            break
        if not waiting:
            facts = {"ready": len(ready), "idle": idle, "least": patience.least, "seconds": patience.limit_seconds}
            server.emit("waiting", {"window": progress.window, **facts})
            waiting = True
        server.rest(pause)
    # Nobody can check what a real device says about its rows and times.
    _note_simulated(progress, replies.values() if server.simulated else ())
    return tuple(sorted(ready))


def _replies(fleet: Fleet, devices: Sequence[DeviceId], common: bytes) -> dict[DeviceId, WindowReply]:
    """What devices say about their window; one that failed, or sent something else, is left out."""
    answers = fleet.ask([Ask(device, Kind.WINDOW, common) for device in devices])
    read = {answer.device: _read(answer) for answer in answers}
    return {device: reply for device, reply in read.items() if reply is not None}


def _note_simulated(progress: Progress, replies: Iterable[WindowReply]) -> None:
    rows = correct = 0
    for reply in replies:
        rows += reply.simulated_rows
        correct += reply.simulated_correct
        progress.latencies_us.extend(reply.simulated_latencies_us)
    progress.predictions += rows
    progress.correct += correct
    progress.window_metrics.append(correct / rows if rows else math.nan)


def _read(answer: Answer) -> WindowReply | None:
    """None for a device that failed or sent something else: the others' windows go on."""
    try:
        return None if answer.error else decode(WindowReply, answer.body)
    except BadMessage:
        return None


def _report(
    server: Server, settings: SumSettings, progress: Progress, watch: Watch, ready: Sequence[DeviceId]
) -> tuple[policy.Decision, ReportRecord | None]:
    """One private report of the ready devices, tested; nothing is decided without one."""
    work = encode(ReportWork(progress.window))
    round_id = f"window-{progress.window:04d}"
    try:
        promises = sum_plans(server, settings, Purpose.DRIFT, round_id, tuple(ready), work)
    except TooFewSurvivors as error:
        return policy.Decision(policy.WatchAction.NONE, f"no report: {error}", progress.window), None
    released, sums = release_groups(server, round_id, promises, work, PLAIN_MEAN)
    spent = server.account.spent().epsilon
    result, estimated, labelled, decision = (
        None,
        None,
        None,
        policy.Decision(policy.WatchAction.NONE, "the report aborted: too few survivors", progress.window),
    )
    if released is not None:
        summed = _window_sum(server.scenario, settings, progress.window, released)
        watch.state, result = monitor.observe(watch.plan, watch.state, summed)
        estimated, labelled = _accuracies(
            server.scenario, settings, watch, progress, released, number=server.schema.label_range is not None
        )
        alarms = [AlarmRecord.of(progress.window, channel) for channel in result.alarms]
        progress.alarms.extend(alarms)
        for alarm in alarms:
            server.emit("alarm", alarm.to_json())
        rounds = server.scenario.drift.rounds
        situation = replace(
            _situation(server.account, in_service(server.repository.versions(), progress), rounds, ready),
            earlier=_reusable(server.repository.versions(), watch, summed) if result.alarms else (),
        )
        decision = _decide(server.schema, progress, watch, result, situation)
    figures = (len(sums.survivors), len(sums.groups), len(sums.summed), spent)
    return decision, ReportRecord(*figures, result, estimated, labelled)


_STARTING = (policy.WatchAction.ROUND, policy.WatchAction.SUGGEST_ROUND)


def _decide(
    schema: Schema, progress: Progress, watch: Watch, result: WindowResult, situation: policy.Situation
) -> policy.Decision:
    """The policy's word on a window; where rounds start, what they are to bring back is kept."""
    watch.policy, decision = policy.decide(watch.settings, watch.policy, result, situation)
    known = _reference_accuracy(schema, watch, progress)
    if decision.action in _STARTING:
        watch.policy = policy.expect(watch.policy, known)
    elif known is not None and policy.is_due(watch.policy, decision):
        watch.policy, decision = policy.recheck(watch.settings, watch.policy, known, result.window, situation)
    return decision


def _reference_accuracy(schema: Schema, watch: Watch, progress: Progress) -> AccuracyEstimate | None:
    """Of all reference windows together, with labels where there are any; None before the last of them."""
    plan, found = watch.plan, None
    for channel, state in zip(plan.channels, watch.state.channels, strict=True):
        if state.reference.windows < plan.reference_windows:
            continue
        if channel.name == ERRORS and schema.label_range is None:
            return labelled_accuracy(channel, plan.unit, state.reference.sum)
        if channel.name == CONFIDENCE and progress.calibration is not None:
            found = estimate_accuracy(progress.calibration, state.reference.sum)
    return found


def _accuracies(
    scenario: Scenario, settings: SumSettings, watch: Watch, progress: Progress, released: Release, *, number: bool
) -> tuple[AccuracyEstimate | None, AccuracyEstimate | None]:
    """Accuracy without labels and with them, from released histograms: they cost nothing more, and decide nothing."""
    plan, reporters = watch.plan, len(released.survivors)
    pieces = split(released.total.astype(np.float64), plan.channels)
    size = reporters * plan.unit.counted(scenario.drift.window)
    noise = noise_std(scenario, settings, reporters)
    sums = {channel.name: (channel, NoisySum(pieces[channel.name], size, noise**2)) for channel in plan.channels}
    estimated = labelled = None
    if progress.calibration is not None and CONFIDENCE in sums:
        estimated = estimate_accuracy(progress.calibration, sums[CONFIDENCE][1])
    if ERRORS in sums and not number:  # a number is not right or wrong
        channel, errors = sums[ERRORS]
        labelled = labelled_accuracy(channel, plan.unit, errors)
    return estimated, labelled


def _window_sum(scenario: Scenario, settings: SumSettings, window: int, released: Release) -> monitor.WindowSum:
    return monitor.WindowSum(
        window,
        released.total.astype(np.float64),
        released.survivors,
        scenario.drift.window,
        noise_std(scenario, settings, len(released.survivors)),
    )


def _reusable(held: Collection[int], watch: Watch, summed: monitor.WindowSum) -> tuple[int, ...]:
    """Versions whose world may be back, and which the repository still holds; none where nobody asks for them."""
    if not watch.settings.reuse:
        return ()
    return tuple(version for version in reuse.possible(watch.plan, watch.worlds, summed) if version in held)


def _situation(
    account: RunAccount, versions: tuple[int, int], rounds: int, ready: Sequence[DeviceId]
) -> policy.Situation:
    # The rounds of every allowed trigger are part of the plan, so what is left is enough unless something else spent.
    needed = account.price_of_more(f"{Purpose.TRAIN} ", rounds)
    serves, before = versions
    return policy.Situation(account.remaining(), needed, len(ready), before > 0, serves)


def in_service(held: Collection[int], progress: Progress) -> tuple[int, int]:
    """The version that serves, and the one that an alarm may go back to; a withdrawn one is neither.

    Args:
        held: versions that the repository offers or keeps; withdrawn ones are not among them.
        progress: of the run.

    Returns:
        0 where there is none.
    """
    versions = [0, 0, *(model.version for model in progress.models if model.version in held)]
    return versions[-1], versions[-2]


def _window_metric(progress: Progress) -> float | None:
    value = progress.window_metrics[-1]
    return None if math.isnan(value) else value


def _window_latency(progress: Progress, before: int) -> float | None:
    new = progress.latencies_us[before:]
    return float(np.median(new)) if new else None
