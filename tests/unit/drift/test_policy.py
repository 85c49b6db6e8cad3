from dataclasses import replace

import pytest

from fedinfer.drift.channels import Source
from fedinfer.drift.estimate import AccuracyEstimate
from fedinfer.drift.monitor import ChannelResult, WindowResult
from fedinfer.drift.policy import (
    Mode,
    PolicySettings,
    PolicyState,
    Situation,
    WatchAction,
    WatchPhase,
    approve,
    decide,
    expect,
    finished,
    is_due,
    pushed,
    recheck,
    reused,
    rolled_back,
)
from fedinfer.errors import ConfigError

SETTINGS = PolicySettings(
    mode=Mode.AUTO, max_triggers=1, rollback_windows=2, cooldown_windows=3, calm_windows=2, least_devices=10
)
READY = Situation(epsilon_left=2.0, epsilon_needed=1.0, ready_devices=50, previous_model=False)
QUIET, WARNING, ALARM = 1.0, 12.0, 30.0


def result(window, statistic, source=Source.OUTPUT):
    return WindowResult(window, (ChannelResult("confidence", source, 0.5, statistic, 10.0, 20.0),), ())


def run(settings, statistics, situation=READY, state=None, source=Source.OUTPUT):
    state, actions = state or PolicyState(since_push=10), []
    for window, value in enumerate(statistics):
        state, decision = decide(settings, state, result(window, value, source), situation)
        actions.append(decision.action)
    return state, actions


def test_quiet_windows_do_nothing():
    state, actions = run(SETTINGS, [QUIET] * 5)
    assert state.phase is WatchPhase.OK
    assert set(actions) == {WatchAction.NONE}


def test_warning_ends_only_after_calm_windows():
    state, actions = run(SETTINGS, [WARNING, QUIET])
    assert (state.phase, actions) == (WatchPhase.WARN, [WatchAction.WARN, WatchAction.NONE])
    state, _ = run(SETTINGS, [WARNING, QUIET, QUIET])
    assert state.phase is WatchPhase.OK


def test_alarm_starts_one_round_and_waits_for_it():
    state, actions = run(SETTINGS, [QUIET, ALARM, ALARM, ALARM])
    assert actions == [WatchAction.NONE, WatchAction.ROUND, WatchAction.NONE, WatchAction.NONE]
    assert state.phase is WatchPhase.ROUND_PENDING
    assert state.triggers == 1


def test_after_a_round_comes_a_cooldown_then_ok():
    state, _ = run(SETTINGS, [ALARM])
    state = pushed(finished(SETTINGS, state))
    assert (state.phase, state.since_push) == (WatchPhase.COOLDOWN, 0)
    state, actions = run(SETTINGS, [QUIET, QUIET, QUIET], state=state)
    assert set(actions) == {WatchAction.NONE}
    assert state.phase is WatchPhase.OK
    assert finished(replace(SETTINGS, cooldown_windows=0), state).phase is WatchPhase.OK


def test_alarm_in_cooldown_is_deferred_with_its_reason():
    state = finished(SETTINGS, PolicyState(since_push=10))
    state, decision = decide(SETTINGS, state, result(0, ALARM), READY)
    assert decision.action is WatchAction.DEFER
    assert "2 windows of cooldown left" in decision.reason


def test_drift_of_inputs_alone_only_warns():
    state, actions = run(SETTINGS, [ALARM, ALARM], source=Source.INPUT)
    assert actions == [WatchAction.WARN, WatchAction.WARN]
    assert state.phase is WatchPhase.WARN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epsilon_left": 0.5}, "epsilon 1 needed, 0.5 left"),
        ({"ready_devices": 9}, "9 devices ready, 10 needed"),
    ],
)
def test_a_round_is_deferred_until_the_obstacle_is_gone(changes, reason):
    state, decision = decide(SETTINGS, PolicyState(since_push=10), result(4, ALARM), replace(READY, **changes))
    assert (decision.action, state.phase, state.triggers) == (WatchAction.DEFER, WatchPhase.ALARM, 0)
    assert reason in decision.reason
    state, decision = decide(SETTINGS, state, result(5, QUIET), READY)
    assert decision.action is WatchAction.ROUND


def test_a_deferred_alarm_that_calms_down_is_forgotten():
    poor = replace(READY, epsilon_left=0.0)
    state, actions = run(SETTINGS, [ALARM, QUIET, QUIET, QUIET], poor)
    assert actions == [WatchAction.DEFER, WatchAction.DEFER, WatchAction.NONE, WatchAction.NONE]
    assert state.phase is WatchPhase.OK


def test_an_alarm_about_the_old_model_ends_with_the_push_of_a_new_one():
    poor = replace(READY, epsilon_left=0.0)
    state, _ = run(SETTINGS, [ALARM], poor)
    assert state.phase is WatchPhase.ALARM
    state, decision = decide(SETTINGS, pushed(state), WindowResult(9, (), ("confidence",)), READY)
    assert (decision.action, state.phase) == (WatchAction.NONE, WatchPhase.OK)


def test_windows_that_only_learn_decide_nothing():
    state, _ = run(SETTINGS, [ALARM], replace(READY, epsilon_left=0.0))
    _, decision = decide(SETTINGS, state, WindowResult(9, (), ("confidence",)), READY)
    assert decision.action is WatchAction.NONE


def test_only_so_many_rounds_are_triggered():
    state = PolicyState(since_push=10, triggers=1)
    _, decision = decide(SETTINGS, state, result(0, ALARM), READY)
    assert decision.action is WatchAction.DEFER
    assert "1 of 1 triggered rounds used" in decision.reason


def test_alarm_after_a_push_rolls_back_first_then_trains():
    situation = replace(READY, previous_model=True)
    state, decision = decide(SETTINGS, pushed(PolicyState()), result(3, ALARM), situation)
    assert decision.action is WatchAction.ROLLBACK
    assert "1 windows after a push" in decision.reason
    state = rolled_back(state)
    assert state.phase is WatchPhase.OK
    _, decision = decide(SETTINGS, state, result(4, ALARM), situation)
    assert decision.action is WatchAction.ROUND


@pytest.mark.parametrize(("quiet", "action"), [(1, WatchAction.ROLLBACK), (2, WatchAction.ROUND)])
def test_a_push_is_blamed_for_so_many_windows_and_no_longer(quiet, action):
    """rollback_windows = 2: the second window after a push still takes it back, the third trains."""
    situation = replace(READY, previous_model=True)
    state, _ = run(SETTINGS, [QUIET] * quiet, situation, pushed(PolicyState()))
    _, decision = decide(SETTINGS, state, result(quiet, ALARM), situation)
    assert decision.action is action


def test_the_first_model_has_nothing_to_go_back_to():
    _, decision = decide(SETTINGS, pushed(PolicyState()), result(0, ALARM), READY)
    assert decision.action is WatchAction.ROUND


def test_suggested_rounds_wait_for_a_person():
    settings = replace(SETTINGS, mode=Mode.SUGGEST)
    with pytest.raises(ConfigError, match="no suggested round"):
        approve(settings, PolicyState())
    state, decision = decide(settings, PolicyState(since_push=10), result(0, ALARM), READY)
    assert decision.action is WatchAction.SUGGEST_ROUND
    state, again = decide(settings, state, result(1, ALARM), READY)
    assert again.action is WatchAction.NONE
    state, decision = approve(settings, state)
    assert (decision.action, state.phase) == (WatchAction.ROUND, WatchPhase.ROUND_PENDING)
    with pytest.raises(ConfigError):
        approve(SETTINGS, state)


def test_decisions_carry_their_figures():
    _, decision = decide(SETTINGS, PolicyState(since_push=10), result(7, ALARM), READY)
    assert decision.to_json() == {
        "action": "round",
        "reason": "window 7: confidence statistic 30.0, alarm level 20.0, warning level 10.0",
        "window": 7,
    }


@pytest.mark.parametrize(
    "changes", [{"max_triggers": -1}, {"cooldown_windows": -1}, {"calm_windows": 0}, {"least_devices": 0}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError):
        replace(SETTINGS, **changes)


def test_the_least_settings_are_accepted():
    least = replace(SETTINGS, max_triggers=0, rollback_windows=0, cooldown_windows=0, calm_windows=1, least_devices=1)
    state, actions = run(least, [WARNING, QUIET])
    assert (state.phase, actions) == (WatchPhase.OK, [WatchAction.WARN, WatchAction.NONE])
    _, decision = decide(least, PolicyState(), result(0, ALARM), READY)
    assert decision.action is WatchAction.DEFER


def test_rounds_wait_until_a_change_may_have_settled_and_not_for_an_alarm_that_is_over() -> None:
    settling = replace(SETTINGS, settle_windows=2)
    state, actions = run(settling, [ALARM, ALARM, WARNING, QUIET])
    assert actions == [WatchAction.DEFER, WatchAction.DEFER, WatchAction.ROUND, WatchAction.NONE]
    decision = decide(settling, PolicyState(since_push=10), result(4, ALARM), READY)[1]
    assert "deferred: 0 of 2 windows since the alarm, the change may still grow" in decision.reason
    state, actions = run(settling, [ALARM, QUIET, QUIET, QUIET, ALARM])
    assert actions[1:] == [WatchAction.DEFER, WatchAction.NONE, WatchAction.NONE, WatchAction.DEFER]
    assert state.since_alarm == 0


# --- rounds whose data went on changing ---

BEFORE = AccuracyEstimate(0.9, 0.87, 0.93)
LOWER, SIMILAR = AccuracyEstimate(0.8, 0.76, 0.84), AccuracyEstimate(0.86, 0.82, 0.9)
HEALING = PolicyState(phase=WatchPhase.COOLDOWN, cooldown=1, triggers=1, healthy=0.9, healthy_error=0.03)
TWICE = replace(SETTINGS, max_triggers=2)


def test_an_alarm_keeps_what_is_to_be_got_back_until_it_is() -> None:
    state, _ = run(TWICE, [ALARM])
    state = expect(state, BEFORE)
    assert (state.healthy, state.healthy_error) == (0.9, pytest.approx(0.03))
    assert not is_due(state, decide(TWICE, state, result(1, QUIET), READY)[1])  # the rounds are not over
    state = pushed(finished(TWICE, state))
    assert is_due(state, decide(TWICE, state, result(2, QUIET), READY)[1])
    assert expect(state, SIMILAR) == state
    assert expect(state, None).healthy == 0.0
    assert rolled_back(state).healthy == 0.0


def test_rounds_start_again_where_accuracy_is_surely_lower_than_before_the_alarm() -> None:
    state, decision = recheck(TWICE, HEALING, LOWER, 9, READY)
    assert (decision.action, decision.window) == (WatchAction.ROUND, 9)
    assert "accuracy 0.800 (0.760 to 0.840) after the rounds, 0.900 before the alarm" in decision.reason
    assert (state.phase, state.triggers, state.healthy) == (WatchPhase.ROUND_PENDING, 2, 0.9)
    suggested = recheck(replace(TWICE, mode=Mode.SUGGEST), HEALING, LOWER, 9, READY)[1]
    assert suggested.action is WatchAction.SUGGEST_ROUND


def test_a_fleet_that_is_back_is_left_alone() -> None:
    for now in (SIMILAR, BEFORE, AccuracyEstimate(0.95, 0.93, 0.97)):
        state, decision = recheck(TWICE, HEALING, now, 9, READY)
        assert decision.action is WatchAction.NONE
        assert state == replace(HEALING, healthy=0.0, healthy_error=0.0)


@pytest.mark.parametrize(
    ("settings", "situation", "says"),
    [(SETTINGS, READY, "1 of 1 triggered rounds used"), (TWICE, replace(READY, epsilon_left=0.5), "epsilon 1 needed")],
)
def test_rounds_that_may_not_start_again_are_deferred_once(
    settings: PolicySettings, situation: Situation, says: str
) -> None:
    state, decision = recheck(settings, HEALING, LOWER, 9, situation)
    assert decision.action is WatchAction.DEFER
    assert says in decision.reason
    assert (state.healthy, state.phase) == (0.0, WatchPhase.COOLDOWN)


# ------------------------------------------------------------------ reuse
REUSING = replace(SETTINGS, reuse=True, rollback_windows=0, cooldown_windows=1)
TWO_BEFORE = replace(READY, version=3, earlier=(1, 2, 3))


def test_earlier_versions_are_tried_before_rounds_each_once():
    state, decision = decide(REUSING, PolicyState(since_push=10), result(1, ALARM), TWO_BEFORE)
    assert (decision.action, decision.version, decision.window) == (WatchAction.REUSE, 1, 1)
    assert decision.to_json()["version"] == 1
    state = reused(state, 4)
    state, decision = decide(REUSING, state, result(2, ALARM), replace(READY, version=4, earlier=(3, 4, 2)))
    assert (decision.action, decision.version) == (WatchAction.REUSE, 2)
    state = reused(state, 5)
    state, decision = decide(REUSING, state, result(3, ALARM), replace(READY, version=5, earlier=(3, 4, 5)))
    assert decision.action is WatchAction.ROUND
    assert "version" not in decision.to_json()
    assert pushed(state).tried == ()


def test_a_version_that_stays_quiet_fits_and_what_was_tried_may_fit_the_next_world():
    state, _ = decide(REUSING, PolicyState(since_push=10), result(1, ALARM), TWO_BEFORE)
    state = reused(state, 4)
    assert state.phase is WatchPhase.OK
    quiet = REUSING.calm_windows + REUSING.cooldown_windows
    early, _ = run(REUSING, [QUIET] * (quiet - 1), state=state)
    _, decision = decide(REUSING, early, result(9, ALARM), replace(READY, version=4, earlier=(3,)))
    assert decision.action is WatchAction.ROUND
    late, _ = run(REUSING, [QUIET] * quiet, state=state)
    _, decision = decide(REUSING, late, result(9, ALARM), replace(READY, version=4, earlier=(3,)))
    assert (decision.action, decision.version) == (WatchAction.REUSE, 3)


def test_nothing_is_reused_unasked_in_a_cooldown_or_for_inputs_alone():
    _, decision = decide(SETTINGS, PolicyState(since_push=10), result(1, ALARM), TWO_BEFORE)
    assert decision.action is WatchAction.ROUND
    cooling = PolicyState(phase=WatchPhase.COOLDOWN, cooldown=3)
    assert decide(REUSING, cooling, result(1, ALARM), TWO_BEFORE)[1].action is WatchAction.DEFER
    inputs = result(1, ALARM, Source.INPUT)
    assert decide(REUSING, PolicyState(since_push=10), inputs, TWO_BEFORE)[1].action is WatchAction.WARN


def test_a_reused_version_is_not_rolled_back():
    settings = replace(REUSING, rollback_windows=3)
    state = reused(PolicyState(since_push=10, tried=(3, 1)), 4)
    situation = replace(READY, previous_model=True, version=4)
    assert decide(settings, state, result(2, ALARM), situation)[1].action is WatchAction.ROUND


def test_a_new_reuse_needs_no_budget_no_devices_and_no_trigger():
    nothing = replace(TWO_BEFORE, epsilon_left=0.0, ready_devices=0)
    state = PolicyState(since_push=10, triggers=1)
    assert decide(REUSING, state, result(1, ALARM), nothing)[1].action is WatchAction.REUSE
