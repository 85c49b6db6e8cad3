"""Scenarios as Flower's flat run config."""

import json
from pathlib import Path

import pytest

from fedinfer.config import Scenario, from_flat, load_scenario, scenario_names, to_flat
from fedinfer.errors import ConfigError


@pytest.mark.parametrize("name", scenario_names())
def test_a_built_in_survives_the_way_through_flower(name: str) -> None:
    scenario = load_scenario(name)
    flat = to_flat(scenario)
    assert from_flat(flat) == scenario
    assert all(type(value) in (str, int, float, bool) for value in flat.values())
    assert all("." in key or key == "base" for key in flat)


def test_defaults_and_an_absent_injection_survive() -> None:
    scenario = Scenario(base=Path("/somewhere"))
    assert from_flat(to_flat(scenario)) == scenario
    assert not [key for key in to_flat(scenario) if key.startswith("drift.inject")]


def test_text_that_looks_like_a_list_stays_text() -> None:
    scenario = load_scenario("heart", ['scenario.description="[draft] {1}"'])
    assert from_flat(to_flat(scenario)).scenario.description == "[draft] {1}"


def test_a_run_config_by_hand_lies_over_a_named_scenario() -> None:
    scenario = from_flat({"scenario": "heart", "training.rounds": 3, "model.hidden": "[8, 4]", "privacy.epsilon": 2})
    heart = load_scenario("heart")
    assert scenario.training.rounds == 3
    assert scenario.model.hidden == (8, 4)
    assert scenario.privacy.epsilon == 2.0
    assert scenario.data == heart.data


def test_a_table_inside_a_table_can_be_given_by_one_dotted_key() -> None:
    scenario = from_flat({"scenario": "heart", "data.ranges.age": json.dumps([0, 99])})
    assert scenario.data.ranges["age"] == (0.0, 99.0)


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"training.rouns": 3}, ["run config", "unknown key [training] rouns", "'rounds'"]),
        ({"training.rounds": "3"}, ["run config", "[training] rounds = '3'"]),
        ({"model.hidden": "[8,"}, ["run config", "model.hidden", "not a JSON list"]),
        ({"privacy.epsilon": -1.0}, ["run config", "[privacy] epsilon = -1.0", "greater than 0"]),
    ],
)
def test_wrong_run_configs_name_the_key(flat: dict[str, str | int | float], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_flat(flat)
    for word in words:
        assert word in str(caught.value)
