"""A private choice of a threshold is proposed for a rare class with rows enough, and said in the scenario."""

from __future__ import annotations

import tomllib

import pytest

from fedinfer.config import Scenario, load_scenario
from fedinfer.planning import Facts
from fedinfer.planning.choosing import plan_choosing
from fedinfer.schema import Numeric, Schema

SCHEMA = Schema((Numeric("x", 0, 1),), "y", ("no", "yes"))


def facts(rows: int) -> Facts:
    return Facts(SCHEMA, 10, rows, rows // 10, (rows // 25,) * 10, in_order=False)


def wanted(*overrides: str) -> Scenario:
    usual = ["training.prior.no=0.9", "training.prior.yes=0.1", "drift.enabled=false", "data.test_fraction=0.3"]
    return load_scenario("heart", [*usual, *overrides])


def test_it_is_proposed_where_held_out_rows_of_the_class_are_enough() -> None:
    found = plan_choosing(wanted(), facts(20_000))
    assert found.epsilon == wanted().privacy.epsilon
    section = tomllib.loads("\n".join(found.lines()))
    assert section == {"threshold": "private", "threshold_epsilon": found.epsilon}
    assert '"yes" is rare' in found.why


def test_drift_has_its_part_of_the_budget_of_held_out_rows() -> None:
    watched = plan_choosing(wanted("drift.enabled=true", "drift.epsilon=0.4"), facts(60_000))
    assert watched.epsilon == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("rows", "override"),
    [(700, "privacy.epsilon=1"), (20_000, "privacy.unit='device'"), (20_000, "privacy.unit='none'")],
)
def test_where_it_would_find_nothing_or_training_would_pay_other_ways_are_named(rows: int, override: str) -> None:
    found = plan_choosing(wanted(override), facts(rows))
    assert not found.epsilon
    assert tomllib.loads("\n".join(found.lines())) == {}
    assert 'class_weights = "balanced"' in found.why


def test_nothing_is_said_where_no_class_is_rare() -> None:
    even = wanted("training.prior.no=0.6", "training.prior.yes=0.4")
    assert plan_choosing(even, facts(20_000)).lines() == []
