"""What a watch would see, told before it begins: against scipy, and against the watch itself."""

import math

import numpy as np
import pytest
from scipy import stats

from fedinfer.config import override
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.drift import automatic_names, watched_channels
from fedinfer.drift import POWER, SHIFT, chance, chosen_channels, enough, forecast, stated_change
from fedinfer.drift.forecast import noncentral_tail
from fedinfer.drift.monitor import MonitorPlan
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit
from tests.protocol.fleet import settings

SCHEMA = Schema((Numeric("a", 0, 1), Numeric("b", 0, 1)), "y", ("no", "yes", "maybe"))
NAMES = ("predicted_class", "confidence", "faults", "flags", "errors")


def plan(names=NAMES, windows=12):
    return MonitorPlan(chosen_channels(SCHEMA, names), Unit.DEVICE, 4, windows, 0.05, 0.2, 0.4)


@pytest.mark.parametrize("df", [1, 2, 9, 40])
@pytest.mark.parametrize("noncentrality", [1e-9, 0.3, 12.0, 400.0, 5000.0])
def test_the_noncentral_tail_is_scipys(df, noncentrality):
    for value in (0.0, 1.0, df + 5.0, df + 60.0):
        expected = stats.ncx2.sf(value, df, noncentrality)
        assert noncentral_tail(value, df, noncentrality) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_stated_change_keeps_a_report_possible(name):
    (channel,) = chosen_channels(SCHEMA, [name])
    for shift in (0.1, SHIFT, 1.0, 3.0):
        stated = stated_change(channel, Unit.DEVICE, shift)
        after = stated.normal + stated.change
        assert after.min() >= -1e-12
        assert after.sum() <= 1 + 1e-12
        assert not channel.kind.exclusive or stated.change.sum() == pytest.approx(0.0)
        assert stated.text


def test_a_forecast_sees_more_with_less_noise_and_larger_shifts_and_agrees_with_its_own_chance():
    loud, quiet = forecast(plan(), 800, 14.0, SHIFT)
    calm, _ = forecast(plan(), 800, 3.0, SHIFT)
    small, _ = forecast(plan(), 800, 14.0, SHIFT / 3)
    assert quiet <= 0.08
    for place, (a, b, c) in enumerate(zip(loud, calm, small, strict=True)):
        assert b.seen[-1][1] >= a.seen[-1][1] >= c.seen[-1][1]
        assert a.delay >= b.delay
        # An alarm in any window until the last one is at least as likely as one in the last.
        alone = chance(plan(), place, stated_change(plan().channels[place], Unit.DEVICE, SHIFT), 800, 14.0)
        if not plan().channels[place].warm_up:
            assert a.seen[-1][1] >= alone - 0.15


def test_flags_are_not_seen_in_a_run_that_ends_before_they_are_compared():
    told, _ = forecast(plan(windows=3), 2000, 1.0, SHIFT)
    assert told[3].seen[-1][1] == 0.0
    assert math.isinf(told[3].delay)
    assert chance(plan(windows=3), 3, stated_change(plan().channels[3], Unit.DEVICE, SHIFT), 2000, 1.0) == 0.0


def test_what_would_be_enough_is_enough_and_a_bit_less_is_not():
    small = plan(("predicted_class", "confidence"))
    more, less = enough(small, 300, 14.0, SHIFT)
    assert more > 1 > less

    def seen(size, noise):
        return min(
            chance(small, place, stated_change(c, Unit.DEVICE, SHIFT), size, noise)
            for place, c in enumerate(small.channels)
        )

    assert seen(300 * more, 14.0) >= POWER > seen(300 * more * 0.96, 14.0)
    assert seen(300, 14.0 * less) >= POWER > seen(300, 14.0 * less * 1.04)
    assert enough(small, 1e5, 1.0, SHIFT) == (1.0, 1.0)
    assert enough(small, 2, 1e6, 0.01) == (math.inf, 0.0)


# ------------------------------------------------------------------ auto
def scenario(extra):
    return settings(
        'privacy.unit = "device"\nprivacy.epsilon = 40.0\nprivacy.delta = 1e-6\ndrift.channels = ["auto"]\n'
        "drift.windows = 20\ndrift.epsilon = 20.0\n" + extra
    )


def population(devices):
    return Population(devices, 10 * devices, 5, 20, 3, schema=SCHEMA)


def test_auto_adds_what_raises_the_expected_power_and_stays_with_the_answers_where_nothing_does():
    rich = automatic_names(scenario(""), population(2000))
    assert rich == ("predicted_class", "confidence", "faults", "flags")
    rows = override(scenario(""), {"privacy.unit": "example"})
    assert "flags" not in automatic_names(rows, population(2000))
    short = override(scenario(""), {"drift.windows": 4})
    assert "flags" not in automatic_names(short, population(2000))
    named = [channel.name for channel in watched_channels(scenario(""), population(2000))]
    assert tuple(named) == rich


def test_auto_needs_columns_that_are_known():
    with pytest.raises(ConfigError, match="no column is known"):
        automatic_names(scenario(""), Population(2000, 20_000, 5, 20, 3))
    assert np.isfinite(SHIFT)
