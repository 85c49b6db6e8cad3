"""Defaults for a table of texts: a run that ends in minutes."""

from __future__ import annotations

import tomllib

import pytest

from fedinfer.config import Scenario, load_scenario, override
from fedinfer.coordinator import make_plan, noise_seconds
from fedinfer.planning import Defaults, Facts, defaults, plan_defaults
from fedinfer.schema import Schema, Text

WORDS = tuple(f"w{number}" for number in range(1000))
SCHEMA = Schema((Text("message", 64, WORDS),), "y", ("ham", "spam"))
FACTS = Facts(SCHEMA, 10, 1750, 175, (75,) * 10, in_order=False)


def planned(monkeypatch: pytest.MonkeyPatch, seconds: float) -> tuple[Defaults, Scenario]:
    monkeypatch.setattr(defaults, "TEXT_SECONDS", seconds)
    base = load_scenario("reviews", ["drift.enabled=false", "training.pretrain=false"])
    found = plan_defaults(base, FACTS)
    sections = tomllib.loads(found.text())
    flat = {f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()}
    return found, override(base, flat)


def test_the_noise_of_a_round_is_drawn_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = defaults.TEXT_SECONDS
    found, scenario = planned(monkeypatch, limit)
    assert scenario.model.hidden == (4,)
    plan = make_plan(scenario, FACTS.population(4 * 1001 + 2 * 5 + 4), "local", ())
    assert 0 < noise_seconds(plan.train.mechanism, FACTS.devices) <= limit
    hasty, _ = planned(monkeypatch, 1e9)
    assert hasty.budget.epsilon < found.budget.epsilon <= 4
    assert "or rounds of minutes" in found.budget.why


def test_the_largest_budget_is_taken_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planned(monkeypatch, 0.0)
    assert found.budget.epsilon == defaults.LARGEST_EPSILON
