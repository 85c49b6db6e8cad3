"""Whole sessions: nobody drops, somebody drops at each stage, too many drop."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer import secagg
from fedinfer.secagg import Aborted, Done, Stage
from tests.protocol.secagg_play import STAGES, World, make_session, names, play


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 20, 21, 40])
def test_everybody_stays(n):
    world = World(make_session(n))
    state, _ = play(world)
    assert isinstance(state, Done)
    assert not world.errors
    assert state.survivors == names(n)
    np.testing.assert_array_equal(state.total, world.ideal(names(n)))
    assert state.blamed == ()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("n", [4, 10, 30])
def test_one_device_drops_before_answering(n, stage):
    world = World(make_session(n))
    gone = names(n)[1]
    state, _ = play(world, lost={gone: stage})
    assert isinstance(state, Done), state
    expected = [name for name in names(n) if name != gone or stage in (Stage.SURVIVORS, Stage.UNMASK)]
    assert list(state.survivors) == expected
    np.testing.assert_array_equal(state.total, world.ideal(expected))


@pytest.mark.parametrize("bits", [1, 8, 16, 17, 31, 32])
def test_every_ring_width(bits):
    world = World(make_session(6, bits=bits, dimension=1001))
    state, _ = play(world, lost={"device-0002": Stage.MASKED})
    assert isinstance(state, Done)
    np.testing.assert_array_equal(state.total, world.ideal(state.survivors))


@pytest.mark.parametrize("stage", STAGES)
def test_too_many_drops_abort_with_numbers(stage):
    world = World(make_session(10))
    state, requests = play(world, lost=dict.fromkeys(names(10)[:4], stage))
    assert isinstance(state, Aborted)
    assert not requests
    assert state.stage is stage
    assert "7" in state.reason
    assert "6 of" in state.reason  # how many answered
    assert secagg.step(state, {}) == (state, {})


def test_silence_is_not_told_as_missing_share_holders():
    """Nobody answers when asked to sign the survivor sets: that is what the reason says first, with all numbers."""
    world = World(make_session(8))
    state, _ = play(world, lost=dict.fromkeys(names(8), Stage.SURVIVORS))
    assert isinstance(state, Aborted)
    assert state.reason.startswith("0 of 8 devices that were asked signed the survivor sets")
    assert "6 are needed, devices go on only then" in state.reason
    state, _ = play(World(make_session(8)), lost=dict.fromkeys(names(8), Stage.UNMASK))
    assert state.reason.startswith("0 of 8 devices that were asked opened their shares")
    assert "6 are needed, and so for 7 more" in state.reason
