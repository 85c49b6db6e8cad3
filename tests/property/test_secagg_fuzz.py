"""Whatever bytes arrive, both sides answer with a typed error: no other exception, no half-changed state."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedinfer import secagg
from fedinfer.errors import BadMessage, ProtocolAbort
from fedinfer.secagg import Stage, StageRequest
from fedinfer.system import SimulatedEntropy
from tests.protocol.secagg_play import STAGES, World, make_session, play

N = 5
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def recorded(stage):
    """World, server state and questions just before the devices answer `stage`."""
    world = World(make_session(N))
    state, requests = play(world, until=stage)
    return world, state, requests


@st.composite
def mutations(draw, data: bytes):
    """Cut, grown, flipped or foreign bytes."""
    kind = draw(st.sampled_from(["cut", "grow", "flip", "random", "splice"]))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "cut":
        return data[:at]
    if kind == "grow":
        return data + draw(st.binary(min_size=1, max_size=20))
    if kind == "flip" and data:
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "splice":
        return data[:at] + draw(st.binary(max_size=12)) + data[at + draw(st.integers(0, 12)) :]
    return draw(st.binary(max_size=300))


@pytest.mark.parametrize("stage", STAGES[1:])
@FUZZ
@given(data=st.data())
def test_devices_meet_any_question_with_a_typed_error(stage, data):
    world, _, requests = recorded(stage)
    name = data.draw(st.sampled_from(world.session.cohort))
    request, before = requests[name], world.states[name]
    changed = StageRequest(stage, data.draw(mutations(request.common)), request.own)
    if data.draw(st.booleans()):
        changed = StageRequest(stage, request.common, data.draw(mutations(request.own)))
    try:
        world.answer(name, changed)
    except ProtocolAbort:
        assert world.states[name] == before
    finally:
        world.states[name] = before


@pytest.mark.parametrize("stage", STAGES)
@FUZZ
@given(data=st.data())
def test_the_server_takes_any_answer_and_names_its_sender(stage, data):
    world, state, requests = recorded(stage)
    before = dict(world.states)
    replies = world.answer_all(requests)
    world.states.update(before)
    if stage is Stage.KEYS:
        world.states.clear()
    name = data.draw(st.sampled_from(sorted(replies)))
    changed = data.draw(mutations(replies[name]))
    after, _ = secagg.step(state, replies | {name: changed})
    assert {who for who, _ in after.blamed} == ({name} if changed != replies[name] else set())


@FUZZ
@given(st.data())
def test_stored_states_decode_or_are_refused(data):
    world, _, _ = recorded(data.draw(st.sampled_from(STAGES[1:])))
    stored = world.states[world.session.cohort[0]]
    try:
        secagg.decode_state(data.draw(mutations(stored)))
    except BadMessage:
        pass


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes_are_a_session_or_refused(data):
    _, _, requests = recorded(Stage.KEYS)
    common = next(iter(requests.values())).common
    for candidate in (data, common[: len(data)] + data):
        try:
            secagg.read_session(candidate)
        except BadMessage:
            pass


def test_entropy_is_the_only_source_of_randomness():
    """The same entropy gives the same bytes at every stage: nothing else is drawn."""
    runs = []
    for _ in range(2):
        world, log = World(make_session(N)), []

        def keep(stage, replies, log=log):
            log.append(dict(replies))
            return replies

        play(world, tamper=keep)
        runs.append(log)
    assert runs[0] == runs[1]
    taken = SimulatedEntropy("a").take(8), SimulatedEntropy("b").take(8)
    assert taken[0] != taken[1]
