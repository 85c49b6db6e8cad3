"""Which robust rule a scenario gets, when it is refused, and what it makes of groups' means."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.config import Robust, Scenario, parse_scenario
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.robust import rule_of
from fedinfer.coordinator.plan.run_plan import make_plan
from fedinfer.coordinator.train.robust import combine
from fedinfer.coordinator.train.server_step import open_release
from fedinfer.errors import ConfigError
from fedinfer.privacy.mechanism.clipping import FixedClipping

POPULATION = Population(devices=600, rows=3000, least_rows=5, dimension=50, classes=2)


def scenario(robust: str, extra: str = "", unit: str = "device") -> Scenario:
    from pathlib import Path

    text = f"""
    training.robust = "{robust}"
    privacy.unit = "{unit}"
    privacy.epsilon = 8.0
    secure_aggregation.group_size = 200
    {extra}
    """
    return parse_scenario("\n".join(line.strip() for line in text.splitlines()), Path(), "test")


def test_the_plain_mean_needs_one_group() -> None:
    rule = rule_of(scenario("mean"), 1)
    assert (rule.kind, rule.least_groups) == (Robust.MEAN, 1)


@pytest.mark.parametrize("robust", ["median", "trimmed_mean"])
def test_a_rule_by_rank_needs_three_groups(robust: str) -> None:
    assert rule_of(scenario(robust), 3).least_groups == 3
    with pytest.raises(ConfigError, match="at least 3 groups, a round has 2"):
        rule_of(scenario(robust), 2)


def test_trimming_is_rounded_up_and_leaves_somebody() -> None:
    assert [rule_of(scenario("trimmed_mean"), groups).trimmed for groups in (3, 5, 6, 11)] == [1, 1, 2, 3]
    assert rule_of(scenario("trimmed_mean"), 6).least_groups == 5
    with pytest.raises(ConfigError, match="at least 5 groups, a round has 4"):
        rule_of(scenario("trimmed_mean", "training.trim = 0.4"), 4)


def test_the_norm_bound_is_the_rounds_clipping_norm_unless_it_is_set() -> None:
    means = np.full((3, 4), 50.0, np.float32)
    for extra, length in (("", 2.5), ("training.norm_bound = 0.3", 0.3)):
        opened = open_release(
            FixedClipping(2.5), rule_of(scenario("norm_bounded_mean", extra), 3), 2.5, means[0], means, 9
        )
        assert opened.robust is not None
        assert np.linalg.norm(opened.robust) == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize("robust", ["median", "trimmed_mean", "norm_bounded_mean"])
def test_unit_example_is_refused_with_the_reason(robust: str) -> None:
    with pytest.raises(ConfigError, match="as many rows as it has") as caught:
        make_plan(scenario(robust, unit="example"), POPULATION, "test", ())
    assert "unit = 'device'" in caught.value.hint


def test_a_plan_of_too_few_groups_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="a round has 2"):
        make_plan(scenario("median", "training.cohort = 400"), POPULATION, "test", ())


def test_a_robust_rule_costs_no_privacy() -> None:
    plans = [make_plan(scenario(robust), POPULATION, "test", ()) for robust in ("mean", "median", "norm_bounded_mean")]
    assert len({(plan.noise_multiplier, plan.planned) for plan in plans}) == 1
    assert {plan.train.groups for plan in plans} == {3}


def test_more_groups_of_the_same_size_cost_nobody_more() -> None:
    """The event is that of a group: 400 more devices in two more groups change nothing."""
    three = make_plan(scenario("mean", "secure_aggregation.corruption_rate = 0.0"), POPULATION, "test", ())
    larger = Population(1000, 5000, 5, 50, 2)
    five = make_plan(scenario("mean", "secure_aggregation.corruption_rate = 0.0"), larger, "test", ())
    assert five.train.groups == 5
    assert five.noise_multiplier == pytest.approx(three.noise_multiplier, rel=1e-3)
    assert five.train.mechanism.contributors == three.train.mechanism.contributors == 180


def test_all_devices_report_in_groups_when_a_round_asks_only_some() -> None:
    plan = make_plan(scenario("mean", "training.cohort = 150"), POPULATION, "test", ())
    assert plan.train.groups == 1
    assert plan.train.mechanism.summands == 150
    assert plan.drift is not None
    assert plan.drift.groups == 3
    assert plan.drift.mechanism.summands == 200


def test_combining() -> None:
    means = np.array([[1.0, 0.0], [1.2, 0.2], [0.8, -0.2], [1.0, 0.1], [90.0, -90.0]], np.float32)
    median = combine(rule_of(scenario("median"), 5), means, 1.0)
    np.testing.assert_allclose(median, [1.0, 0.0], atol=1e-6)
    trimmed = combine(rule_of(scenario("trimmed_mean"), 5), means, 1.0)
    np.testing.assert_allclose(trimmed, [1.0667, -0.0333], atol=1e-3)
    bounded = combine(rule_of(scenario("norm_bounded_mean"), 5), means, 1.0)
    assert np.linalg.norm(bounded) <= 1.0
    assert np.linalg.norm(bounded - means[:4].mean(axis=0)) < 0.5
