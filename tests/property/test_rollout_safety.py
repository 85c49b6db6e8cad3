"""Whatever happens in whatever order: no gate is skipped, nothing is pushed after abort, every changed byte shows."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer import wire
from fedinfer.errors import FedInferError, LogTampered
from fedinfer.rollout import log
from fedinfer.rollout.controller import (
    OPEN,
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
    evidence,
    step,
    todo,
)
from fedinfer.rollout.gates import Bound, Figure, Gate, GateScope, GateSettings, GroupFigures, Verdict, bounds, judge
from fedinfer.rollout.waves import Wave, members, plan_waves, wave_of

GATES = GateSettings(
    (
        Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE),
        Gate("error", Bound.AT_MOST, 0.2, 0.25, 0.0, 1.0, GateScope.FLEET),
    ),
    10, 0.01, 0.01, 2,
)  # fmt: skip
FLEET = {f"d{i}": {"hw": str(i % 3)} for i in range(60)}
NOW = datetime(2026, 1, 1, tzinfo=UTC)

commands = st.builds(Command, st.sampled_from(Order), st.just("ann"), st.just("x"))
deliveries = st.builds(Delivered, st.integers(0, 3), st.integers(0, 200), st.integers(0, 30))
groups = st.builds(
    lambda group, judged, share, noise: GroupFigures(group, judged, (Figure("error", share * judged, noise),)),
    st.sampled_from(["", "hw=1"]), st.integers(0, 300), st.floats(0, 1), st.floats(0, 30),
)  # fmt: skip
measurements = st.builds(Measured, st.integers(0, 3), st.lists(groups, max_size=2).map(tuple))
events = st.lists(st.one_of(commands, deliveries, measurements, st.just(RolledBack())), max_size=40)


def pushes(state):
    return {action.wave for action in todo(state) if action.task is Task.PUSH}


@settings(max_examples=400, deadline=None)
@given(events, st.sampled_from(Approval), st.sampled_from(["", "1"]))
def test_no_gate_is_skipped_and_nothing_is_pushed_after_abort(events, approval, previous):
    state = begin("r", "2", previous, FLEET, (Wave(0.2), Wave(0.5), Wave(1.0)), GATES, approval)
    stopped = False
    for event in events:
        before = state
        try:
            state, actions = step(before, event)
        except FedInferError:
            continue
        assert actions == todo(state)
        said = event.order if isinstance(event, Command) else None
        # forward only by one wave, and only because the gates passed or a person let a held wave go
        assert before.wave <= state.wave <= before.wave + 1
        moved = state.wave > before.wave or (state.phase is Phase.DONE and before.phase is not Phase.DONE)
        if moved and said is Order.APPROVE:
            assert before.phase is Phase.HELD
            assert evidence(before).verdict is not Verdict.FAIL
        elif moved:
            last = _with(before, event)
            assert judge(GATES, last).verdict is Verdict.PASS
        if state.wave > before.wave and approval is Approval.EACH_WAVE:
            assert state.opened == before.opened
        stopped |= state.phase not in OPEN and state.phase is not Phase.DONE
        if stopped:
            assert not pushes(state)
            assert state.phase not in OPEN | {Phase.DONE}
            assert {allowed_version(state, device, FLEET[device]) for device in FLEET} == {previous}
        if state.phase is Phase.PAUSED:
            assert not pushes(state)
        assert wire.decode(RolloutState, wire.encode(state)) == state


def _with(before, event):
    """Figures that were on the table when the wave was left."""
    failed, judged, evaluations = before.failed, before.installed + before.failed, before.evaluations
    if isinstance(event, Delivered):
        failed, judged = event.failed, event.installed + event.failed
    if isinstance(event, Measured):
        evaluations = (*evaluations, event.groups)
    return ((GroupFigures("", judged, (Figure("install_failure", failed, 0.0),)),), *evaluations)


@given(
    st.integers(1, 500), st.floats(0, 1), st.floats(0, 50), st.floats(0.5, 5), st.floats(1, 3), st.floats(1, 3),
)  # fmt: skip
def test_more_noise_or_a_stricter_level_never_narrows_the_bounds(judged, share, noise, z, louder, stricter):
    lower, upper = bounds(share * judged, judged, noise, judged, z)
    assert 0 <= lower <= upper <= 1
    for wider in (
        bounds(share * judged, judged, noise * louder, judged, z),
        bounds(share * judged, judged, noise, judged, z * stricter),
    ):
        assert wider[0] <= lower + 1e-12
        assert wider[1] >= upper - 1e-12


@given(st.lists(st.lists(groups, max_size=2), max_size=3), st.integers(0, 9))
def test_too_few_devices_never_pass(evaluations, judged):
    small = [
        [GroupFigures(g.group, min(g.judged, judged), g.figures) for g in evaluate_canaries]
        for evaluate_canaries in evaluations
    ]
    assert judge(GATES, small).verdict is Verdict.HOLD


@given(st.integers(1, 80), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4), st.text(max_size=5))
def test_every_device_has_exactly_one_wave_and_none_is_empty(count, fractions, salt):
    fleet = {f"d{i}": {} for i in range(count)}
    waves = plan_waves(fleet, [Wave(fraction) for fraction in (*fractions, 1.0)], salt)
    parts = [members(fleet, waves, salt, index) for index in range(len(waves))]
    assert sorted(device for part in parts for device in part) == sorted(fleet)
    assert [len(part) for part in parts] == [wave.size for wave in waves]
    assert all(parts)
    assert all(wave_of(device, {}, waves, salt) is not None for device in fleet)


bodies = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=8), st.booleans(), st.none()), max_size=4
)


@settings(max_examples=200, deadline=None)
@given(st.lists(bodies, min_size=1, max_size=5), st.data())
def test_any_changed_removed_or_added_byte_of_the_log_shows(entries, data):
    head, lines = log.EMPTY, []
    for body in entries:
        line, head = log.entry_line(head, NOW, "delivered", body)
        lines.append(line)
    whole = log.dump(lines)
    assert log.verify_file(whole, head) == head
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[position]))
    for broken in (
        whole[:position] + bytes([byte]) + whole[position + 1 :],
        whole[:position] + whole[position + 1 :],
        whole[:position] + bytes([byte]) + whole[position:],
        whole[:position],
    ):
        try:
            log.verify_file(broken, head)
        except LogTampered:
            continue
        raise AssertionError(f"a change at byte {position} went unseen")
