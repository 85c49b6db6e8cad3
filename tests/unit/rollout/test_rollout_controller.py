import pytest

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError
from fedinfer.rollout.controller import (
    Action,
    Approval,
    Command,
    Delivered,
    Measured,
    Order,
    Phase,
    RolledBack,
    RolloutState,
    Task,
    allowed_version,
    begin,
    step,
    todo,
)
from fedinfer.rollout.gates import Bound, Figure, Gate, GateScope, GateSettings, GroupFigures
from fedinfer.rollout.waves import Wave, members

INSTALL = Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE)
ERROR = Gate("error", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.FLEET)
FLEET = {f"d{i:04d}": {} for i in range(1000)}
WAVES = (Wave(0.1), Wave(0.5), Wave(1.0))


def started(approval=Approval.NONE, previous="1", gates=(INSTALL, ERROR), evaluations=2, min_judged=50):
    return begin("r", "2", previous, FLEET, WAVES, GateSettings(gates, min_judged, 0.01, 0.01, evaluations), approval)


def figures(wave, judged, error, noise=1.0):
    return Measured(wave, (GroupFigures("", judged, (Figure("error", error * judged, noise),)),))


def after(state, *events):
    for event in events:
        state, _ = step(state, event)
    return state


def say(order):
    return Command(order, "ann", "because")


GOOD = [
    event
    for wave, size in enumerate((100, 400, 500))
    for event in (Delivered(wave, size, 0), figures(wave, size, 0.05))
]


def test_a_good_model_goes_through_all_waves():
    state, seen = started(), []
    for event in GOOD:
        seen.append(todo(state)[0])
        state, actions = step(state, event)
    assert seen == [Action(task, wave, "2") for wave in range(3) for task in (Task.PUSH, Task.MEASURE)]
    assert (state.phase, actions) == (Phase.DONE, ())
    assert {allowed_version(state, device, {}) for device in FLEET} == {"2"}


def test_a_failed_gate_takes_the_model_back():
    state, actions = step(after(started(), Delivered(0, 100, 0)), figures(0, 100, 0.6))
    assert actions == (Action(Task.ROLL_BACK, 0, "1"),)
    assert state.phase is Phase.ROLLING_BACK
    assert "error: 0.6" in state.reason
    assert {allowed_version(state, device, {}) for device in FLEET} == {"1"}
    state, actions = step(state, RolledBack())
    assert (state.phase, actions) == (Phase.ROLLED_BACK, ())


def test_failing_installs_stop_a_wave_before_any_figure():
    state = after(started(), Delivered(0, 60, 40))
    assert state.phase is Phase.ROLLING_BACK
    assert "install_failure: 0.4" in state.reason


def test_the_first_model_of_all_is_taken_back_to_nothing():
    state, actions = step(started(previous=""), Delivered(0, 60, 40))
    assert actions == (Action(Task.ROLL_BACK, 0, ""),)
    assert "no model to go back to" in state.reason
    assert {allowed_version(state, device, {}) for device in FLEET} == {""}
    assert after(state, RolledBack()).phase is Phase.ROLLED_BACK


def test_a_person_can_take_back_the_first_model_too():
    state = after(started(previous=""), Delivered(0, 100, 0), say(Order.ABORT))
    _, actions = step(state, say(Order.ROLLBACK))
    assert actions == (Action(Task.ROLL_BACK, 0, ""),)


def test_unclear_figures_are_measured_again_then_held_for_a_person():
    state, actions = step(after(started(), Delivered(0, 100, 0)), figures(0, 100, 0.18))
    assert (state.phase, actions) == (Phase.JUDGING, (Action(Task.MEASURE, 0, "2"),))
    state, actions = step(state, figures(0, 100, 0.18))
    assert (state.phase, actions) == (Phase.HELD, ())
    with pytest.raises(BadMessage, match="all 2 canary evaluations"):
        step(state, figures(0, 100, 0.01))
    state, actions = step(state, say(Order.APPROVE))
    assert actions == (Action(Task.PUSH, 1, "2"),)
    assert state.reason == "approve by ann: because"


def test_too_few_devices_hold_and_later_ones_release():
    state = after(started(gates=(INSTALL,)), Delivered(0, 20, 0))
    assert state.phase is Phase.HELD
    assert "20 devices judged, 50 needed" in state.reason
    state = after(state, Delivered(0, 80, 0))
    assert (state.phase, state.wave) == (Phase.PUSHING, 1)


@pytest.mark.parametrize(
    ("approval", "waits"), [(Approval.FIRST_WAVE, [True, False]), (Approval.EACH_WAVE, [True, True])]
)
def test_approval_is_waited_for(approval, waits):
    state, seen = started(approval), []
    for events in (GOOD[:2], GOOD[2:4]):
        seen.append(state.phase is Phase.READY)
        if state.phase is Phase.READY:
            assert todo(state) == ()
            assert {allowed_version(state, d, {}) for d in members(FLEET, state.waves, "r", state.wave)} == {"1"}
            state = after(state, say(Order.APPROVE))
        state = after(state, *events)
    assert seen == waits


def test_pause_stops_pushing_and_resume_goes_on():
    state = after(started(), say(Order.PAUSE))
    assert todo(state) == ()
    assert {allowed_version(state, device, {}) for device in FLEET} == {"1"}
    state = after(state, Delivered(0, 100, 0), figures(0, 100, 0.05))
    assert state.phase is Phase.PAUSED
    state, actions = step(state, say(Order.RESUME))
    assert actions == (Action(Task.PUSH, 1, "2"),)


def test_a_failure_while_paused_still_takes_back():
    state = after(started(), Delivered(0, 100, 0), say(Order.PAUSE), figures(0, 100, 0.9))
    assert state.phase is Phase.ROLLING_BACK


@pytest.mark.parametrize("before", [(), GOOD[:1], GOOD[:3], (say(Order.PAUSE),)])
def test_abort_works_from_every_open_phase_without_asking(before):
    state, actions = step(after(started(), *before), say(Order.ABORT))
    assert (state.phase, actions) == (Phase.ABORTED, ())
    assert {allowed_version(state, device, {}) for device in FLEET} == {"1"}
    assert after(state, say(Order.ABORT)).phase is Phase.ABORTED
    assert after(state, Delivered(0, 90, 0), figures(0, 90, 0.9)) == state


def test_rollback_works_after_done_and_after_abort():
    for state in (after(started(), *GOOD), after(started(), *GOOD[:3], say(Order.ABORT))):
        opened = state.opened
        state, actions = step(state, say(Order.ROLLBACK))
        assert actions == (Action(Task.ROLL_BACK, opened - 1, "1"),)


def test_rollback_before_any_push_is_over_at_once():
    state = after(started(Approval.FIRST_WAVE), say(Order.ROLLBACK))
    assert (state.phase, todo(state)) == (Phase.ROLLED_BACK, ())


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ((), Order.APPROVE), ((), Order.RESUME), (GOOD, Order.ABORT), (GOOD, Order.PAUSE),
        ((say(Order.PAUSE),), Order.PAUSE), ((say(Order.ABORT),), Order.RESUME), ((say(Order.ABORT),), Order.APPROVE),
        ((say(Order.ROLLBACK),), Order.ABORT), ((Delivered(0, 0, 100),), Order.APPROVE),
    ],
)  # fmt: skip
def test_orders_that_make_no_sense_are_refused(events, order):
    with pytest.raises(ConfigError, match="is not possible now"):
        step(after(started(), *events), say(order))


def test_figures_of_another_wave_are_refused():
    with pytest.raises(BadMessage, match="wave 2"):
        step(started(), Delivered(1, 5, 0))
    with pytest.raises(BadMessage, match="0 waves were pushed"):
        step(started(Approval.FIRST_WAVE), Delivered(0, 5, 0))
    with pytest.raises(BadMessage):
        Delivered(0, -1, 0)


def test_offline_devices_of_open_waves_get_the_version_later():
    state = after(started(), *GOOD[:2])
    for wave, expected in ((0, "2"), (1, "2"), (2, "1")):
        assert {allowed_version(state, d, {}) for d in members(FLEET, state.waves, "r", wave)} == {expected}


def test_nonsense_rollouts_are_refused():
    gates = GateSettings((INSTALL,), 1, 0.01, 0.01, 1)
    for name, version, previous in (("r", "2", "2"), ("r", "", "1"), ("", "2", "1")):
        with pytest.raises(ConfigError):
            begin(name, version, previous, FLEET, WAVES, gates, Approval.NONE)


def test_state_survives_encoding():
    state = started()
    for event in GOOD:
        assert wire.decode(RolloutState, wire.encode(state)) == state
        state = after(state, event)
