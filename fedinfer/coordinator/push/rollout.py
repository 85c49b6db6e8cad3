"""One rollout, driven by what rollout.sqlite says has to be done: push, evaluate, judge, next wave, or roll it back.

Every step is kept before the next one starts, and doing a step twice does no harm. So a coordinator that was killed
opens the store and calls `drive` again: devices that have answered are not asked again, and a canary evaluation that
was charged and not finished is not repeated (its budget is spent): that wave is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from fedinfer.config import RolloutSection
from fedinfer.coordinator.context import Fleet, Progress, Server
from fedinfer.coordinator.plan.canary import WRONG_PASS_RATE, WRONG_STOP_RATE
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.canary import evaluate_canaries
from fedinfer.coordinator.push.delivery import Delivery, deliver
from fedinfer.coordinator.push.orders import attended
from fedinfer.coordinator.push.withdrawal import withdraw
from fedinfer.coordinator.record import CanaryRecord, HoldRecord, RolloutRecord, WaveRecord, sent_by_kind
from fedinfer.errors import BadMessage, TransportError
from fedinfer.messages import GateWork, HealthReply, HealthRequest, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.rollout import (
    INSTALL_FAILURE,
    WENT_BACK,
    Action,
    Approval,
    Bound,
    Command,
    Gate,
    GateScope,
    GateSettings,
    Order,
    Phase,
    RolledBack,
    RolloutState,
    Task,
    Wave,
    begin,
    evidence,
    gates_of,
    members,
    todo,
)
from fedinfer.types import DeviceId, Json
from fedinfer.wire import decode, encode

OPERATOR = "coordinator"
ON_HOLD = "[rollout] on_hold"
"""Who approves a held wave when the scenario says `proceed`; the audit log shows this name."""


class Steps:
    """What this process saw of one rollout, step by step, and how it ended."""

    def __init__(self) -> None:
        self._steps: list[WaveRecord | CanaryRecord | HoldRecord] = []
        self._phase, self._devices_active = "", 0

    def add(self, step: WaveRecord | CanaryRecord | HoldRecord) -> None:
        """Record one more step.

        Args:
            step: a wave that was pushed, a canary evaluation, or a hold that went on.
        """
        self._steps.append(step)

    def end(self, phase: Phase, devices_active: int) -> None:
        """Record that the rollout rests.

        Args:
            phase: in which it rests.
            devices_active: number of devices that serve the version.
        """
        self._phase, self._devices_active = str(phase), devices_active

    def record(self) -> RolloutRecord:
        """Everything so far."""
        return RolloutRecord(self._phase, tuple(self._steps), self._devices_active)


def roll_out(
    server: Server, plan: RunPlan, progress: Progress, previous: int, active: Mapping[DeviceId, int], steps: Steps
) -> RolloutState:
    """Bring the present version to every device that can be reached, or roll back those that have it.

    A rollout of this version that is in the store already is gone on with.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; its version is raised by a rollback.
        previous: version to roll back to; 0 when there is none.
        active: devices that can be reached, and the version that each of them says it runs.
        steps: takes what happens.

    Returns:
        The state in which the rollout rests; anything but done: it did not reach the whole fleet.

    Raises:
        BudgetExceeded: the server's budget does not cover a canary evaluation.
        StoreError: rollout.sqlite cannot be written.
    """
    fleet: dict[DeviceId, dict[str, str]] = {device: {} for device in active}
    waves = [Wave(fraction) for fraction in server.scenario.rollout.waves]
    name, before = f"{server.run_id}-v{progress.version}", str(previous or "")
    settings = settings_of(server.scenario.rollout, plan, compared=previous > 0)
    if name not in server.rollouts.names():
        state = begin(name, str(progress.version), before, fleet, waves, settings, Approval.NONE)
        server.rollouts.start(state, OPERATOR, server.clock.now())
    state = drive(server, plan, progress, name, active, steps)
    installed = 0 if state.phase is Phase.ROLLED_BACK else len(server.rollouts.installed(name))
    steps.end(state.phase, installed)
    return state


def drive(
    server: Server, plan: RunPlan, progress: Progress, name: str, fleet: Mapping[DeviceId, int], steps: Steps
) -> RolloutState:
    """Do what the kept state of a rollout says until there is nothing left to do.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run.
        name: a rollout in the store, new or begun by a process that is gone.
        fleet: devices that can be reached, and the version that each of them says it runs.
        steps: takes what happens.

    Returns:
        The state in which the rollout rests: done, held, rolled back or aborted.

    Raises:
        BudgetExceeded: the server's budget does not cover a canary evaluation.
        StoreError: rollout.sqlite cannot be read or written.
    """
    state = _settled(server, name, steps)
    while actions := todo(state):
        action = actions[0]
        match action.task:
            case Task.PUSH:
                state = _push_wave(server, state, action, fleet, steps)
            case Task.MEASURE:
                state = _evaluate_wave(server, plan, progress, state, action, steps)
            case Task.ROLL_BACK:
                state = take_back(server, progress, state)
            case _:
                assert_never(action.task)
        state = _settled(server, name, steps)
    return state


def reachable(fleet: Fleet, version: int) -> dict[DeviceId, int]:
    """Devices that answer now, and which version each of them runs; the others get the newest one when they are back.

    Args:
        fleet: all devices are asked.
        version: that is about to be pushed, >= 1.

    Returns:
        Version by device, sorted by name; 0: none or unknown.

    Raises:
        TransportError: nobody answers.
    """
    common = encode(HealthRequest(version))
    asks = [Ask(device, Kind.HEALTH, common) for device in sorted(fleet.devices)]
    answers = fleet.ask(asks)
    found = {answer.device: _version_in(answer) for answer in answers if not answer.error}
    if not found:
        raise TransportError(f"none of {len(asks)} devices can be reached for version {version}")
    return dict(sorted(found.items()))


def _version_in(answer: Answer) -> int:
    """0 when its answer cannot be read: the device gets the whole model."""
    try:
        return decode(HealthReply, answer.body).version
    except BadMessage:
        return 0


def settings_of(section: RolloutSection, plan: RunPlan, *, compared: bool) -> GateSettings:
    """Gates of a rollout: acknowledged installs, an exact count, and the figures of canary evaluations.

    Args:
        section: limits and the least number of devices that judge.
        plan: of the run; without canary evaluations in its budget installs alone decide.
        compared: whether there is a previous model to compare with.
    """
    figures = gates_of(section, compared=compared) if plan.gates else ()
    gates = (installs_gate(section), *figures)
    return GateSettings(gates, section.min_judged, WRONG_PASS_RATE, WRONG_STOP_RATE, 1)


def installs_gate(section: RolloutSection) -> Gate:
    """The gate on acknowledged installs.

    Args:
        section: with the largest part of failed ones.
    """
    limit = section.max_failure_rate
    return Gate(INSTALL_FAILURE, Bound.AT_MOST, limit, limit, 0.0, 1.0, GateScope.WAVE)


def _push_wave(
    server: Server, state: RolloutState, action: Action, fleet: Mapping[DeviceId, int], steps: Steps
) -> RolloutState:
    name, everyone = state.rollout, {device: dict[str, str]() for device in fleet}
    devices = server.rollouts.waiting(name, action.wave, members(everyone, state.waves, name, action.wave))
    delivery = deliver(
        server.repository, server.fleet, int(action.version), {device: fleet[device] for device in devices}
    )
    now = server.clock.now()
    server.rollouts.acknowledge(name, action.wave, dict.fromkeys(delivery.installed, "") | dict(delivery.failed), now)
    delivered = server.rollouts.delivered(name, action.wave)
    after, _ = server.rollouts.apply(name, delivered, now)
    record = WaveRecord(
        version=int(action.version),
        wave=action.wave + 1,
        installed=delivered.installed,
        failed=delivered.failed,
        first_failure=next(iter(delivery.failed.values()), ""),
        sent=tuple(delivery.sent.values()),
        state=str(after.phase),
        reason=after.reason,
    )
    steps.add(record)
    server.emit("wave", record.to_json())
    return after


def _evaluate_wave(
    server: Server, plan: RunPlan, progress: Progress, state: RolloutState, action: Action, steps: Steps
) -> RolloutState:
    devices, version = server.rollouts.installed(state.rollout, action.wave), int(action.version)
    work = GateWork(version, progress.window)
    found = evaluate_canaries(server, plan, work, action.wave, devices, compared=state.previous != "")
    findings = evidence(replace(state, evaluations=(*state.evaluations, found.measured.groups))).findings
    bounds = {f.figure: {"lower": f.lower, "upper": f.upper, "verdict": str(f.verdict)} for f in findings}
    after, _ = server.rollouts.apply(state.rollout, found.measured, server.clock.now())
    record = CanaryRecord(
        version=version,
        wave=action.wave + 1,
        judged=found.judged,
        figures={name: reported | bounds.get(name, {"verdict": "told"}) for name, reported in found.reported().items()},
        detail=found.detail,
        epsilon=found.epsilon,
        state=str(after.phase),
        reason=after.reason,
    )
    steps.add(record)
    server.emit("gate", record.to_json())
    return after


def _settled(server: Server, name: str, steps: Steps) -> RolloutState:
    """The state after what operators ordered meanwhile, and past a hold where the scenario says so."""
    while True:
        state = attended(server, name)
        after = _past_hold(server, state, steps)
        if after == state:
            return after


def _past_hold(server: Server, state: RolloutState, steps: Steps) -> RolloutState:
    """A held wave waits for an operator, unless the scenario said beforehand that it may go on."""
    if state.phase is not Phase.HELD or server.scenario.rollout.on_hold == "stop":
        return state
    order = Command(Order.APPROVE, ON_HOLD, f'on_hold = "proceed": {state.reason}')
    after, _ = server.rollouts.apply(state.rollout, order, server.clock.now())
    held = HoldRecord(int(state.version), state.wave + 1, state.reason)
    steps.add(held)
    server.emit("proceeded", held.to_json())
    return after


def take_back(server: Server, progress: Progress, state: RolloutState) -> RolloutState:
    """The files of the version before go out again under a new number: versions never fall on a device.

    The first version of all has none before it: it is withdrawn. A device that is not reached learns either from the
    signed metadata of the repository.

    Args:
        server: wiring of the run.
        progress: of the run; its version is raised where there is one to go back to.
        state: of a rollout that rolls back.

    Returns:
        The state after it.

    Raises:
        StoreError: rollout.sqlite or the repository cannot be written.
    """
    name, devices = state.rollout, server.rollouts.installed(state.rollout)
    if state.previous:
        previous = int(state.previous)
        manifest = server.repository.reissue(previous, server.clock.now())
        progress.version = manifest.version
        delivery = deliver(
            server.repository, server.fleet, manifest.version, dict.fromkeys(devices, int(state.version))
        )
        server.emit("rolled_back", {"to": previous, "as": manifest.version, **_outcome(delivery)})
        outcomes = dict.fromkeys(delivery.installed, "") | dict(delivery.failed)
    else:
        outcomes = withdraw(server.repository, server.fleet, server.emit, int(state.version), devices)
    server.rollouts.acknowledge(name, WENT_BACK, outcomes, server.clock.now())
    return server.rollouts.apply(name, RolledBack(), server.clock.now())[0]


def _outcome(delivery: Delivery) -> Json:
    pushed = sent_by_kind(tuple(delivery.sent.values()))
    return {"devices": len(delivery.installed), "failed": dict(delivery.failed), "pushed": pushed}


def hint_of(state: RolloutState) -> str:
    """What would let a held rollout go on.

    Args:
        state: in which a rollout rests.

    Returns:
        A hint for the operator; empty when the rollout is not held.
    """
    if state.phase is not Phase.HELD:
        return ""
    return (
        'raise [rollout] canary_epsilon, let more devices into a wave, or widen the limits; on_hold = "proceed" goes '
        'on all the same, unjudgeable = "acknowledge" leaves canary evaluations out where the plan shows that they '
        "decide nothing"
    )
