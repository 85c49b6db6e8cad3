"""Sessions with drawn sizes, graphs, widths and dropout patterns: the exact sum, or an abort for a stated reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedinfer import secagg
from fedinfer.secagg import Aborted, Done, Stage
from tests.protocol.secagg_play import STAGES, World, make_session, play

SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def sessions(draw, largest=16):
    n = draw(st.one_of(st.integers(2, largest), st.integers(21, largest + 14)))
    degree = n - 1 if n <= 20 or draw(st.booleans()) else draw(st.integers(2, n - 2))
    return make_session(
        n,
        degree=degree,
        threshold=draw(st.integers(2, degree + (degree == n - 1))),
        min_survivors=draw(st.integers(2, n)),
        bits=draw(st.integers(1, 32)),
        dimension=draw(st.integers(1, 70)),
    )


@st.composite
def stories(draw):
    """A session, and the first stage that each device does not answer (most answer all)."""
    session = draw(sessions())
    stage = st.sampled_from([None] * draw(st.sampled_from([1, 4, 15])) + list(STAGES))
    lost = {name: draw(stage) for name in session.cohort}
    return session, {name: at for name, at in lost.items() if at is not None}


def expected(world: World, lost: dict[str, Stage]):
    """What must come out, from the promises alone: survivors, or the stage of the abort."""
    session, cohort = world.session, world.session.cohort

    def stays(name, stage):
        return name not in lost or STAGES.index(lost[name]) > STAGES.index(stage)

    members = [name for name in cohort if stays(name, Stage.KEYS)]
    if len(members) < session.least:
        return Stage.KEYS
    holders = {name: world.chosen[name] & set(members) for name in members}

    def with_enough_holders(names):
        while short := {name for name in names if len(holders[name] & names) < session.threshold}:
            names = names - short
        return names

    asked_to_share = with_enough_holders(set(members))
    if len(asked_to_share) < session.least:
        return Stage.KEYS
    shared = with_enough_holders({name for name in asked_to_share if stays(name, Stage.SHARES)})
    if len(shared) < session.least:
        return Stage.SHARES
    survivors = {name for name in shared if stays(name, Stage.MASKED)}
    needed = {
        name
        for name in shared
        if name in survivors or any(name in holders[i] or i in holders[name] for i in survivors if i != name)
    }

    def openable(by):
        return all(len(holders[name] & by) >= session.threshold for name in needed)

    if len(survivors) < session.least or not openable(survivors):
        return Stage.MASKED
    signed = {name for name in survivors if stays(name, Stage.SURVIVORS)}
    if len(signed) < session.quorum or not openable(signed):
        return Stage.SURVIVORS
    if not openable({name for name in signed if stays(name, Stage.UNMASK)}):
        return Stage.UNMASK
    return tuple(sorted(survivors))


@SLOW
@given(stories())
def test_the_sum_is_exact_or_the_abort_is_due(story):
    session, lost = story
    world = World(session)
    state, requests = play(world, lost=lost)
    due = expected(world, lost)
    assert not requests
    assert not world.errors  # an honest server is never refused
    assert state.blamed == ()  # and honest devices are never blamed
    if isinstance(state, Done):
        assert state.survivors == due
        assert len(due) >= session.min_survivors
        ideal = secagg.ideal_sum([world.vectors[name] for name in due], session.bits)
        np.testing.assert_array_equal(state.total, ideal)  # protocol and ideal mode: bit-identical
        assert state.total.dtype == ideal.dtype
    else:
        assert isinstance(state, Aborted)
        assert state.stage == due
        assert any(character.isdigit() for character in state.reason)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories(), st.randoms(use_true_random=False))
def test_late_duplicated_and_reordered_answers_change_nothing(story, random):
    session, lost = story
    first, second = World(session), World(session)
    plain, _ = play(first, lost=lost)
    earlier: dict[str, bytes] = {}

    def shuffle(stage, replies):
        gone = [name for name, at in lost.items() if STAGES.index(at) < STAGES.index(stage)]  # not asked any more
        late = {name: earlier[name] for name in gone if name in earlier}
        mixed = list((replies | late | {"stranger": b"hello"}).items())
        random.shuffle(mixed)
        earlier.update(replies)
        return dict(mixed)

    mixed, _ = play(second, lost=lost, tamper=shuffle)
    assert type(mixed) is type(plain)
    assert mixed.survivors == plain.survivors
    assert mixed.blamed == plain.blamed == ()
    if isinstance(plain, Done):
        np.testing.assert_array_equal(mixed.total, plain.total)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions(10), st.sampled_from(STAGES), st.data())
def test_one_lying_device_is_named_and_spoils_no_sum(session, stage, data):
    """Any change of one answer on its way is blamed on its sender; a sum that still comes out is exact."""
    session = replace(session, min_survivors=2)
    world = World(session)
    liar = data.draw(st.sampled_from(session.cohort))
    touched = []

    def tamper(at, replies):
        if at is stage and liar in replies:
            at_byte = data.draw(st.integers(0, len(replies[liar]) - 1))
            changed = bytearray(replies[liar])
            changed[at_byte] ^= data.draw(st.integers(1, 255))
            replies[liar] = bytes(changed)
            touched.append(at)
        return replies

    state, _ = play(world, tamper=tamper)
    assert {name for name, _ in state.blamed} == ({liar} if touched else set())
    if isinstance(state, Done):
        np.testing.assert_array_equal(state.total, world.ideal(state.survivors))
