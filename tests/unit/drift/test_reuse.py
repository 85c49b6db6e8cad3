"""Worlds that come back: which versions are tried, and that their references go on."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.drift.inputs import chosen_channels
from fedinfer.drift.monitor import MonitorPlan, WindowSum, begin, observe
from fedinfer.drift.reuse import MOST_WORLDS, Worlds, possible, remember, renumbered, resumed
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit

SCHEMA = Schema((Numeric("x", 0, 1),), "y", ("a", "b"))
DEVICES = 400
NOISE = 4.0
SUMMER, WINTER = np.r_[0, 0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.3], np.r_[0.3, 0.2, 0.2, 0.15, 0.1, 0.05, 0, 0]


def plan_of(*names: str) -> MonitorPlan:
    channels = chosen_channels(SCHEMA, ("predicted_class", "confidence", *names))
    return MonitorPlan(channels, Unit.DEVICE, 2, 10, 0.05, 0.2, 0.6)


def window(plan: MonitorPlan, number: int, world: np.ndarray, rng: np.random.Generator, sure: float = 0.7) -> WindowSum:
    """Devices that see one row each."""
    likely = {
        "predicted_class": np.r_[0.5, 0.5],
        "confidence": np.r_[0, 0, 0, 0.1, 0.9 - sure, sure],
        "input:x": world,
        "flags": np.r_[0.05],
    }
    parts = [
        rng.multinomial(DEVICES, likely[channel.name]) if channel.bins > 1 else DEVICES * likely[channel.name]
        for channel in plan.channels
    ]
    total = np.concatenate(parts).astype(float)
    return WindowSum(number, total + NOISE * rng.standard_normal(total.size), ("d",) * DEVICES, 1, NOISE)


def served(plan: MonitorPlan, world: np.ndarray, first: int, rng: np.random.Generator, windows: int = 3):
    state = begin(plan)
    for number in range(first, first + windows):
        state, _ = observe(plan, state, window(plan, number, world, rng))
    return state


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_inputs_say_which_world_is_back(rng: np.random.Generator) -> None:
    plan = plan_of("input:x")
    worlds = remember(plan, Worlds(), 1, served(plan, SUMMER, 0, rng))
    worlds = remember(plan, worlds, 2, served(plan, WINTER, 10, rng))
    for number in range(20, 40):
        assert possible(plan, worlds, window(plan, number, SUMMER, rng)) == (1,)
        assert possible(plan, worlds, window(plan, number, WINTER, rng)) == (2,)
    assert possible(plan, worlds, window(plan, 40, np.full(8, 1 / 8), rng)) == ()


def test_answers_say_nothing_before_the_push_so_the_last_that_served_goes_first(rng: np.random.Generator) -> None:
    plan = plan_of()
    worlds = remember(plan, Worlds(), 1, served(plan, SUMMER, 0, rng))
    worlds = remember(plan, worlds, 2, served(plan, WINTER, 10, rng))
    assert possible(plan, worlds, window(plan, 20, SUMMER, rng, sure=0.1)) == (2, 1)


def test_a_version_that_was_replaced_before_its_reference_was_whole_is_not_known(rng: np.random.Generator) -> None:
    plan = plan_of()
    assert remember(plan, Worlds(), 1, served(plan, SUMMER, 0, rng, windows=1)) == Worlds()
    assert [world.version for world in remember(plan, Worlds(), 1, served(plan, SUMMER, 0, rng, windows=2)).known] == [
        1
    ]


def test_a_world_is_known_once_and_few_are(rng: np.random.Generator) -> None:
    plan = plan_of()
    state, worlds = served(plan, SUMMER, 0, rng), Worlds()
    for version in (*range(1, MOST_WORLDS + 3), 5):
        worlds = remember(plan, worlds, version, state)
    assert [world.version for world in worlds.known] == [3, 4, 6, 7, 8, 9, 10, 5]
    assert [world.version for world in renumbered(worlds, 5, 11).known] == [3, 4, 6, 7, 8, 9, 10, 11]


def test_the_first_window_after_a_reuse_is_tested_on_the_references_of_the_version(rng: np.random.Generator) -> None:
    plan = plan_of("input:x", "flags")
    # The flags of devices begin anew, because each compares with its own first windows of a version.
    before = served(plan, SUMMER, 0, rng, windows=8)
    worlds = remember(plan, Worlds(), 1, before)
    state = resumed(plan, worlds, 1, last_window=20)
    with pytest.raises(Exception, match="drift window 20 after window 20"):
        observe(plan, state, window(plan, 20, SUMMER, rng))
    _, same = observe(plan, state, window(plan, 21, SUMMER, rng))
    assert (same.learning, len(same.channels), same.alarms) == (("flags",), 3, ())
    _, other = observe(plan, state, window(plan, 21, SUMMER, rng, sure=0.2))
    assert [alarm.channel for alarm in other.alarms] == ["confidence"]
    for channel, old, new in zip(plan.channels, before.channels, state.channels, strict=True):
        assert (new.reference.windows == 0) if channel.name == "flags" else (new.reference is old.reference)
        assert new.ewma.windows == 0


def test_a_version_that_nobody_knows_learns_anew(rng: np.random.Generator) -> None:
    plan = plan_of()
    state = resumed(plan, Worlds(), 4, last_window=6)
    assert state.last_window == 6
    assert observe(plan, state, window(plan, 7, SUMMER, rng))[1].learning == ("predicted_class", "confidence")


def test_counts_know_who_reported(rng: np.random.Generator) -> None:
    """Unit `example`: other devices than in the reference explain another sum."""
    channels = chosen_channels(SCHEMA, ("predicted_class", "confidence", "input:x"))
    plan = MonitorPlan(channels, Unit.EXAMPLE, 2, 10, 0.05, 0.2, 0.6)

    def day(number: int, who: str, world: np.ndarray) -> WindowSum:
        total = np.concatenate([np.r_[10, 10], np.r_[0, 0, 0, 2, 4, 14], world * 20]) * 20.0
        return WindowSum(number, total, tuple(f"{who}{i}" for i in range(20)), 20, 1.0)

    state = begin(plan)
    for number in (1, 2):
        state, _ = observe(plan, state, day(number, "a", SUMMER))
    worlds = remember(plan, Worlds(), 1, state)
    near = 0.85 * SUMMER + 0.15 * WINTER
    assert possible(plan, worlds, day(3, "a", near)) == ()
    assert possible(plan, worlds, day(3, "b", near)) == (1,)
