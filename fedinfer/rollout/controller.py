"""What happens now: a pure state machine over one rollout.

    READY -> PUSHING -> JUDGING -> (next wave: READY or PUSHING) ... -> DONE
                           |-> HELD (a person decides)       PAUSED (from any of these, and back)
                           |-> ROLLING_BACK -> ROLLED_BACK   ABORTED

Rules:
* A wave after the first is pushed only after its predecessor's gates passed, or after a person approved a HELD wave
  under their name. A failed wave cannot be approved.
* A failed gate rolls back everybody who has the model; without a model to go back to it is withdrawn, and its devices
  have none.
* After abort, and while paused, nothing is pushed. Abort needs no confirmation and works from every open phase. Devices
  that already have the model keep it until `rollback`, which works from every phase but its own.
* What must be done next is a function of the state (`todo`), so a server that was killed reads its state and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from fedinfer.errors import BadMessage, ConfigError
from fedinfer.rollout.gates import Figure, GateSettings, GroupFigures, Judgement, Verdict, judge
from fedinfer.rollout.waves import Attributes, PlannedWave, Wave, plan_waves, wave_of
from fedinfer.types import DeviceId

INSTALL_FAILURE = "install_failure"
"""Figure that the controller makes itself, from acknowledgements: an exact count, known to the server anyway."""


class Phase(StrEnum):
    """Where a rollout stands."""

    READY = "ready"
    PUSHING = "pushing"
    JUDGING = "judging"
    HELD = "held"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    DONE = "done"


OPEN = frozenset({Phase.READY, Phase.PUSHING, Phase.JUDGING, Phase.HELD, Phase.PAUSED})
"""Phases in which the rollout may still go forward."""


class Approval(StrEnum):
    """When a person has to agree before a wave is pushed."""

    NONE = "none"
    FIRST_WAVE = "first_wave"
    EACH_WAVE = "each_wave"


class Order(StrEnum):
    """What a person can say."""

    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ROLLBACK = "rollback"


class Task(StrEnum):
    """What the server can have to do."""

    PUSH = "push"
    MEASURE = "measure"
    ROLL_BACK = "take_back"


@dataclass(frozen=True, slots=True)
class Command:
    """An order of a person.

    Args:
        order: what shall happen.
        by: name of the person, for the log.
        reason: for the log.
    """

    order: Order
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The push of a wave is as complete as it gets now.

    Args:
        wave: counted from 0.
        installed, failed: acknowledgements of that wave so far, as totals.
    """

    wave: int
    installed: int
    failed: int

    def __post_init__(self) -> None:
        if self.installed < 0 or self.failed < 0:
            raise BadMessage(f"wave {self.wave + 1}: {self.installed} installed, {self.failed} failed")


@dataclass(frozen=True, slots=True)
class Measured:
    """One canary evaluation: released figures of the devices of a wave (or of all that have the model).

    Args:
        wave: counted from 0.
        groups: figures of each group of devices.
    """

    wave: int
    groups: tuple[GroupFigures, ...]


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Every reachable device acknowledged the rollback."""


Event: TypeAlias = Command | Delivered | Measured | RolledBack


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do; doing it twice does no harm.

    Args:
        task: what.
        wave: PUSH, MEASURE: which wave; ROLL_BACK: last wave that may have the model; counted from 0.
        version: PUSH, MEASURE: the new version; ROLL_BACK: the version to go back to, "" when there is none and the new
            version is withdrawn.
    """

    task: Task
    wave: int
    version: str


@dataclass(frozen=True, slots=True)
class RolloutState:
    """All there is to know about a rollout; encodable with fedinfer.wire.

    Args:
        rollout: name.
        version, previous: model to give and model to go back to ("" when there is none).
        waves: planned waves.
        gates: conditions.
        approval: when a person has to agree.
        phase: see the module.
        wave: current wave.
        opened: waves that were pushed (their devices may have the model).
        installed, failed: acknowledgements of the current wave.
        evaluations: figures of the current wave.
        paused: phase to return to.
        reason: why it stands where it stands.
    """

    rollout: str
    version: str
    previous: str
    waves: tuple[PlannedWave, ...]
    gates: GateSettings
    approval: Approval
    phase: Phase
    wave: int = 0
    opened: int = 0
    installed: int = 0
    failed: int = 0
    evaluations: tuple[tuple[GroupFigures, ...], ...] = ()
    paused: Phase = Phase.READY
    reason: str = ""


def begin(
    rollout: str,
    version: str,
    previous: str,
    fleet: Mapping[DeviceId, Attributes],
    waves: Sequence[Wave],
    gates: GateSettings,
    approval: Approval,
) -> RolloutState:
    """A rollout before its first wave.

    Args:
        rollout: name, unique; it also decides (as salt) which devices go first.
        version: model to give.
        previous: model to go back to; "" when there is none.
        fleet: enrolled devices and their attributes.
        waves: in order.
        gates: conditions of every wave.
        approval: when a person has to agree.

    Raises:
        ConfigError: without devices or waves, when no device matches a wave, when name or version is empty, or when
            version and previous are the same.
    """
    if not rollout or not version or version == previous:
        raise ConfigError(f"rollout {rollout!r}: version {version!r} after {previous!r}")
    planned = plan_waves(fleet, waves, rollout)
    return _open_wave(RolloutState(rollout, version, previous, planned, gates, approval, Phase.READY), 0)


def step(state: RolloutState, event: Event) -> tuple[RolloutState, tuple[Action, ...]]:
    """Take in one event.

    Args:
        state: before.
        event: an order or something that happened.

    Returns:
        The state after it and what to do now.

    Raises:
        BadMessage: figures of another wave, or more canary evaluations than allowed.
        ConfigError: an order that makes no sense in this phase.
    """
    if isinstance(event, Command):
        after = _obey(state, event)
    elif isinstance(event, RolledBack):
        after = replace(state, phase=Phase.ROLLED_BACK) if state.phase is Phase.ROLLING_BACK else state
    else:
        # Acknowledgements of a rollout that is over change nothing.
        after = _weigh(_record(state, event)) if state.phase in OPEN else state
    return after, todo(after)


def todo(state: RolloutState) -> tuple[Action, ...]:
    """What has to be done in this state: at most one action.

    Args:
        state: of a rollout that is open or over.

    Returns:
        Nothing when the rollout waits for a person or is over.
    """
    match state.phase:
        case Phase.PUSHING:
            return (Action(Task.PUSH, state.wave, state.version),)
        case Phase.JUDGING:
            return (Action(Task.MEASURE, state.wave, state.version),)
        case Phase.ROLLING_BACK:
            return (Action(Task.ROLL_BACK, state.opened - 1, state.previous),)
        case Phase.READY | Phase.HELD | Phase.PAUSED | Phase.ROLLED_BACK | Phase.ABORTED | Phase.DONE:
            return ()
        case _:
            assert_never(state.phase)


def evidence(state: RolloutState) -> Judgement:
    """The gates of the current wave on all figures so far.

    Args:
        state: of a rollout.

    Returns:
        The verdict, with installation failures among its findings where a gate asks for them.
    """
    judged = state.installed + state.failed
    acknowledged = GroupFigures("", judged, (Figure(INSTALL_FAILURE, float(state.failed), 0.0),))
    return judge(state.gates, ((acknowledged,), *state.evaluations))


def allowed_version(state: RolloutState, device: DeviceId, attributes: Attributes) -> str:
    """Newest version that may be given to a device that comes online now ("" when there is none).

    An offline device of an open wave gets the new version later; after abort or rollback, or while paused, nobody does.

    Args:
        state: of the rollout.
        device: that asks.
        attributes: of that device, for the conditions of the waves.
    """
    halted = state.phase not in OPEN and state.phase is not Phase.DONE
    if halted or state.phase is Phase.PAUSED:
        return state.previous
    wave = wave_of(device, attributes, state.waves, state.rollout)
    return state.version if wave is not None and wave < state.opened else state.previous


def _record(state: RolloutState, event: Delivered | Measured) -> RolloutState:
    if event.wave != state.wave or event.wave >= state.opened:
        raise BadMessage(
            f"rollout {state.rollout!r}: figures of wave {event.wave + 1}, wave {state.wave + 1} is current, "
            f"{state.opened} waves were pushed"
        )
    if isinstance(event, Delivered):
        phase = Phase.JUDGING if state.phase is Phase.PUSHING else state.phase
        paused = Phase.JUDGING if state.paused is Phase.PUSHING else state.paused
        return replace(state, installed=event.installed, failed=event.failed, phase=phase, paused=paused)
    if len(state.evaluations) >= state.gates.evaluations:
        raise BadMessage(
            f"rollout {state.rollout!r}: all {state.gates.evaluations} canary evaluations of wave {state.wave + 1} "
            "are used"
        )
    return replace(state, evaluations=(*state.evaluations, event.groups))


def _weigh(state: RolloutState) -> RolloutState:
    """Let the gates decide. While paused only a failure counts: safety does not wait for a person."""
    if state.phase is Phase.READY:
        return state
    judgement = evidence(state)
    going_on = state.phase not in (Phase.PAUSED, Phase.PUSHING)
    match judgement.verdict:
        case Verdict.FAIL:
            return _roll_back(state, judgement.reason)
        case Verdict.PASS:
            return _next_wave(state, judgement.reason) if going_on else state
        case Verdict.HOLD:
            wait = Phase.JUDGING if _more_to_measure(state) else Phase.HELD
            return replace(state, phase=wait, reason=judgement.reason) if going_on else state
        case _:
            assert_never(judgement.verdict)


def _more_to_measure(state: RolloutState) -> bool:
    asked = any(gate.figure != INSTALL_FAILURE for gate in state.gates.gates)
    return asked and len(state.evaluations) < state.gates.evaluations


def _next_wave(state: RolloutState, reason: str) -> RolloutState:
    if state.wave + 1 == len(state.waves):
        return replace(state, phase=Phase.DONE, reason=reason)
    return replace(_open_wave(state, state.wave + 1), reason=reason)


def _open_wave(state: RolloutState, wave: int) -> RolloutState:
    waits = _waits(state.approval, wave)
    state = replace(state, wave=wave, installed=0, failed=0, evaluations=())
    return replace(state, phase=Phase.READY) if waits else replace(state, phase=Phase.PUSHING, opened=wave + 1)


def _waits(approval: Approval, wave: int) -> bool:
    """True when a person has to agree before this wave, counted from 0."""
    match approval:
        case Approval.EACH_WAVE:
            return True
        case Approval.FIRST_WAVE:
            return wave == 0
        case Approval.NONE:
            return False
        case _:
            assert_never(approval)


def _roll_back(state: RolloutState, reason: str) -> RolloutState:
    if not state.opened:
        return replace(state, phase=Phase.ROLLED_BACK, reason=reason)
    if not state.previous:
        reason = f"{reason}; there is no model to go back to, so devices are left without one"
    return replace(state, phase=Phase.ROLLING_BACK, reason=reason)


def _obey(state: RolloutState, command: Command) -> RolloutState:
    reason = f"{command.order} by {command.by}: {command.reason}"
    allowed: dict[Order, frozenset[Phase]] = {
        Order.APPROVE: frozenset({Phase.READY, Phase.HELD}),
        Order.PAUSE: OPEN - {Phase.PAUSED},
        Order.RESUME: frozenset({Phase.PAUSED}),
        Order.ABORT: OPEN | {Phase.ABORTED},
        Order.ROLLBACK: OPEN | {Phase.ABORTED, Phase.DONE},
    }
    if state.phase not in allowed[command.order]:
        raise ConfigError(f"rollout {state.rollout!r} is {state.phase}: {command.order} is not possible now")
    match command.order:
        case Order.APPROVE:
            return _approve(state, reason)
        case Order.PAUSE:
            return replace(state, phase=Phase.PAUSED, paused=state.phase, reason=reason)
        case Order.RESUME:
            return _weigh(replace(state, phase=state.paused, reason=reason))
        case Order.ABORT:
            return replace(state, phase=Phase.ABORTED, reason=reason)
        case Order.ROLLBACK:
            return _roll_back(state, reason)
        case _:
            assert_never(command.order)


def _approve(state: RolloutState, reason: str) -> RolloutState:
    if state.phase is Phase.HELD:
        return _next_wave(state, reason)
    return replace(state, phase=Phase.PUSHING, opened=state.wave + 1, reason=reason)
