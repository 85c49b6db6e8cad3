"""What to do about a verdict: a pure state machine.

    OK -> WARN -> ALARM -> ROUND_PENDING -> COOLDOWN -> OK

Rules:
* Drift of inputs alone warns; it starts nothing. Outputs, flags and errors can alarm.
* An alarm soon after a push of a new model rolls back first: that costs no privacy.
* Where an earlier version served in a world that may have come back, it is reused: that costs no privacy either. Each
  is tried once; when none is left, rounds start.
* A round is started only when the budget, the ready devices, the cooldown and the number of triggers allow it;
  otherwise the decision is DEFER and says why, window after window, until the alarm is over or the reason is gone.
* WARN and ALARM are left only after `calm_windows` windows below the warning level.
* In mode `suggest` a person approves the round.
* Rounds are trained on the data of their time. When the change went on while they were trained, the new reference would
  be learned from what is wrong with them, so the fleet's accuracy is compared once with that before the alarm: where it
  is surely lower, the rounds are started again, on the same conditions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from fedinfer.drift.channels import Source
from fedinfer.drift.estimate import AccuracyEstimate
from fedinfer.drift.verdict import WindowResult
from fedinfer.errors import ConfigError
from fedinfer.types import Json


class WatchPhase(StrEnum):
    """Where the watch stands."""

    OK = "ok"
    WARN = "warn"
    ALARM = "alarm"
    ROUND_PENDING = "round_pending"
    COOLDOWN = "cooldown"


class Mode(StrEnum):
    """Who starts a round."""

    SUGGEST = "suggest"
    AUTO = "auto"


class WatchAction(StrEnum):
    """What the caller has to do now."""

    NONE = "none"
    WARN = "warn"
    ROLLBACK = "rollback"
    REUSE = "reuse"
    ROUND = "round"
    SUGGEST_ROUND = "suggest_round"
    DEFER = "defer"


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What is allowed.

    Args:
        mode: who starts a round.
        max_triggers: rounds of retraining that drift may start in all, >= 0.
        rollback_windows: an alarm within so many windows after a push rolls back first; 0: never.
        cooldown_windows: windows without a new trigger after a round, >= 0; at least the reference windows is sensible.
        calm_windows: windows below the warning level that end a warning or an alarm, >= 1.
        least_devices: devices that must be ready for a round, >= 1.
        settle_windows: windows between an alarm and its rounds, >= 0: a change that still grows is not trained on
            halfway.
        reuse: earlier versions are tried before rounds.
    """

    mode: Mode
    max_triggers: int
    rollback_windows: int
    cooldown_windows: int
    calm_windows: int
    least_devices: int
    settle_windows: int = 0
    reuse: bool = False

    def __post_init__(self) -> None:
        if min(self.max_triggers, self.rollback_windows, self.cooldown_windows, self.settle_windows) < 0:
            raise ConfigError("drift policy: triggers and windows must not be negative")
        if min(self.calm_windows, self.least_devices) < 1:
            raise ConfigError("drift policy: calm_windows and least_devices must be at least 1")


@dataclass(frozen=True, slots=True)
class Situation:
    """What the caller knows when a verdict arrives.

    Args:
        epsilon_left: what the tightest ledger still allows.
        epsilon_needed: what retraining would cost.
        ready_devices: devices that could take part now.
        previous_model: True when devices hold an older model to go back to.
        version: that devices run.
        earlier: versions whose world may have come back, the likeliest first.
    """

    epsilon_left: float
    epsilon_needed: float
    ready_devices: int
    previous_model: bool
    version: int = 0
    earlier: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What the policy remembers.

    Args:
        phase: see the module.
        since_push: windows since the last push.
        calm: windows in a row below the warning level.
        cooldown: windows of cooldown left.
        triggers: rounds of retraining started so far.
        since_alarm: windows since the alarm that lasts.
        rolled_back: True when the present model is one that was rolled back to, or reused.
        healthy, healthy_error: accuracy of the fleet before the alarm that started the last rounds, and half the width
            of its interval; 0 when there is nothing to get back.
        tried: versions that do not fit the present world: they served when it alarmed, or were reused.
    """

    phase: WatchPhase = WatchPhase.OK
    since_push: int = 0
    calm: int = 0
    cooldown: int = 0
    triggers: int = 0
    since_alarm: int = 0
    rolled_back: bool = False
    healthy: float = 0.0
    healthy_error: float = 0.0
    tried: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do and why, with figures.

    Args:
        action: what to do.
        reason: one sentence with numbers; empty for NONE.
        window: window that led to it.
        version: that is reused; 0 for other actions.
    """

    action: WatchAction
    reason: str
    window: int
    version: int = 0

    def to_json(self) -> Json:
        """For events and reports."""
        row: Json = {"action": str(self.action), "reason": self.reason, "window": self.window}
        return row | {"version": self.version} if self.version else row


def decide(
    settings: PolicySettings, state: PolicyState, result: WindowResult, situation: Situation
) -> tuple[PolicyState, Decision]:
    """Take in the verdict on one window.

    Args:
        settings: what is allowed.
        state: before the window.
        result: verdict of the monitor.
        situation: budget and devices.

    Returns:
        The state after it and what to do.
    """
    state = replace(
        state,
        since_push=state.since_push + 1,
        calm=0 if result.warning else state.calm + 1,
        cooldown=max(state.cooldown - 1, 0),
    )
    if state.phase is WatchPhase.ROUND_PENDING:
        return state, Decision(WatchAction.NONE, "", result.window)
    if state.phase is WatchPhase.COOLDOWN and state.cooldown == 0:
        state = replace(state, phase=WatchPhase.OK)
    acting = [channel for channel in result.alarms if _may_act(channel.source)]
    lasting = state.phase is WatchPhase.ALARM and state.calm < settings.calm_windows and result.channels
    if acting or lasting:
        return _alarmed(settings, state, result, situation)
    return _quiet(settings, state, result)


def approve(settings: PolicySettings, state: PolicyState) -> tuple[PolicyState, Decision]:
    """A person agrees to the suggested round.

    Args:
        settings: what is allowed.
        state: with a suggested round.

    Returns:
        The same state and the decision ROUND, of window -1.

    Raises:
        ConfigError: when no round is waiting for approval.
    """
    if state.phase is not WatchPhase.ROUND_PENDING or settings.mode is not Mode.SUGGEST:
        raise ConfigError(f"no suggested round waits for approval (phase {state.phase}, mode {settings.mode})")
    return state, Decision(WatchAction.ROUND, "approved", -1)


def finished(settings: PolicySettings, state: PolicyState) -> PolicyState:
    """The pending round is over (released, aborted or declined): cool down.

    Args:
        settings: what is allowed.
        state: with a pending round.
    """
    phase = WatchPhase.COOLDOWN if settings.cooldown_windows else WatchPhase.OK
    return replace(state, phase=phase, cooldown=settings.cooldown_windows, calm=0)


def expect(state: PolicyState, before: AccuracyEstimate | None) -> PolicyState:
    """Remember what rounds are to bring back.

    Args:
        state: with a pending round.
        before: accuracy of the fleet in the reference windows; None when nothing is known of it.
    """
    if before is None:
        return replace(state, healthy=0.0, healthy_error=0.0)
    # A second alarm, or an unhealed fleet, has a lower reference: what was lost at first is still to be got back.
    if before.value <= state.healthy:
        return state
    return replace(state, healthy=before.value, healthy_error=before.error)


def is_due(state: PolicyState, decision: Decision) -> bool:
    """Whether `recheck` has something to compare and the window asks for nothing else.

    Args:
        state: after the window.
        decision: of `decide`.
    """
    idle = decision.action is WatchAction.NONE and state.phase is not WatchPhase.ROUND_PENDING
    return idle and state.healthy > 0.0


def recheck(
    settings: PolicySettings, state: PolicyState, now: AccuracyEstimate, window: int, situation: Situation
) -> tuple[PolicyState, Decision]:
    """Whether rounds that drift started have brought the accuracy back; asked once per push.

    Args:
        settings: what is allowed.
        state: after the first windows with the new model; `healthy` is above 0.
        now: accuracy of the fleet in those windows.
        window: the last of them.
        situation: budget and devices.

    Returns:
        The state after it, and ROUND, SUGGEST_ROUND or DEFER where accuracy is surely lower than before; else NONE.
    """
    missing = state.healthy - now.value
    if missing <= math.hypot(state.healthy_error, now.error):
        return replace(state, healthy=0.0, healthy_error=0.0), Decision(WatchAction.NONE, "", window)
    cause = (
        f"window {window}: accuracy {now.value:.3f} ({now.low:.3f} to {now.high:.3f}) after the rounds, "
        f"{state.healthy:.3f} before the alarm"
    )
    obstacle = _obstacle(settings, state, situation)
    if obstacle:
        given_up = replace(state, healthy=0.0, healthy_error=0.0)
        return given_up, Decision(WatchAction.DEFER, f"{cause}; deferred: {obstacle}", window)
    return _started(settings, state, cause, window)


def pushed(state: PolicyState) -> PolicyState:
    """A new model reached the devices: count windows from here.

    An alarm or warning about the old model's outputs is over; a pending round or a cooldown is not.

    Args:
        state: before the push.
    """
    phase = WatchPhase.OK if state.phase in (WatchPhase.WARN, WatchPhase.ALARM) else state.phase
    return replace(state, phase=phase, since_push=0, calm=0, rolled_back=False, tried=())


def rolled_back(state: PolicyState) -> PolicyState:
    """The devices went back to the model before; the next alarm does not roll back again.

    Args:
        state: before the rollback.
    """
    back = replace(state, phase=WatchPhase.OK, since_push=0, calm=0, rolled_back=True)
    return replace(back, healthy=0.0, healthy_error=0.0)


def reused(state: PolicyState, version: int) -> PolicyState:
    """An earlier version is on the devices again; an alarm about it tries the next one, or trains.

    Args:
        state: after the decision REUSE.
        version: number under which it went out again.
    """
    return replace(rolled_back(state), tried=(*state.tried, version))


def _alarmed(
    settings: PolicySettings, state: PolicyState, result: WindowResult, situation: Situation
) -> tuple[PolicyState, Decision]:
    cause = _cause(result)
    if state.phase is WatchPhase.COOLDOWN:
        return state, Decision(
            WatchAction.DEFER, f"{cause}; deferred: {state.cooldown} windows of cooldown left", result.window
        )
    since = state.since_alarm + 1 if state.phase is WatchPhase.ALARM else 0
    state = replace(state, phase=WatchPhase.ALARM, since_alarm=since)
    after_push = state.since_push <= settings.rollback_windows and not state.rolled_back
    if after_push and situation.previous_model:
        reason = f"{cause}; {state.since_push} windows after a push, going back to the model before"
        return state, Decision(WatchAction.ROLLBACK, reason, result.window)
    left = [version for version in situation.earlier if version not in (*state.tried, situation.version)]
    if settings.reuse and left:
        state = replace(state, tried=(*state.tried, situation.version, left[0]))
        reason = f"{cause}; the world of version {left[0]} may be back"
        return state, Decision(WatchAction.REUSE, reason, result.window, left[0])
    obstacle = _obstacle(settings, state, situation)
    if not obstacle and since < settings.settle_windows:
        obstacle = f"{since} of {settings.settle_windows} windows since the alarm, the change may still grow"
    if obstacle:
        return state, Decision(WatchAction.DEFER, f"{cause}; deferred: {obstacle}", result.window)
    return _started(settings, state, cause, result.window)


def _started(settings: PolicySettings, state: PolicyState, cause: str, window: int) -> tuple[PolicyState, Decision]:
    state = replace(state, phase=WatchPhase.ROUND_PENDING, triggers=state.triggers + 1)
    match settings.mode:
        case Mode.AUTO:
            action = WatchAction.ROUND
        case Mode.SUGGEST:
            action = WatchAction.SUGGEST_ROUND
        case _:
            assert_never(settings.mode)
    return state, Decision(action, cause, window)


def _may_act(source: Source) -> bool:
    match source:
        case Source.OUTPUT | Source.FLAG | Source.ERROR:
            return True
        case Source.INPUT:
            return False
        case _:
            assert_never(source)


def _quiet(settings: PolicySettings, state: PolicyState, result: WindowResult) -> tuple[PolicyState, Decision]:
    if state.phase is WatchPhase.COOLDOWN:
        return state, Decision(WatchAction.NONE, "", result.window)
    if result.warning:
        return replace(state, phase=WatchPhase.WARN), Decision(WatchAction.WARN, _cause(result), result.window)
    if state.phase is WatchPhase.WARN and state.calm < settings.calm_windows:
        return state, Decision(WatchAction.NONE, "", result.window)
    # A version that stays quiet fits this world; what was tried before may fit the next one.
    fits = state.calm >= settings.cooldown_windows + settings.calm_windows
    tried = () if fits else state.tried
    return replace(state, phase=WatchPhase.OK, tried=tried), Decision(WatchAction.NONE, "", result.window)


def _obstacle(settings: PolicySettings, state: PolicyState, situation: Situation) -> str:
    if state.triggers >= settings.max_triggers:
        return f"{state.triggers} of {settings.max_triggers} triggered rounds used"
    if situation.epsilon_left < situation.epsilon_needed:
        return f"epsilon {situation.epsilon_needed:.3g} needed, {situation.epsilon_left:.3g} left"
    if situation.ready_devices < settings.least_devices:
        return f"{situation.ready_devices} devices ready, {settings.least_devices} needed"
    return ""


def _cause(result: WindowResult) -> str:
    worst = max(result.channels, key=lambda channel: channel.statistic / channel.threshold)
    return (
        f"window {result.window}: {worst.channel} statistic {worst.statistic:.1f}, "
        f"alarm level {worst.threshold:.1f}, warning level {worst.warning_threshold:.1f}"
    )
