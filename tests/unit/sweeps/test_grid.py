"""Axes become cells, and cells become scenarios."""

from __future__ import annotations

import math

import pytest

from fedinfer.config import load_scenario
from fedinfer.errors import ConfigError
from fedinfer.sweeps import Axis, axis_of, check_axes, named_axes
from fedinfer.sweeps.content import content_key
from fedinfer.sweeps.grid import Cell, cells, columns, scenario_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("training.rounds=5,10", (5, 10)),
        ("privacy.epsilon=0.5, 1, inf", (0.5, 1, math.inf)),
        ("privacy.unit=example,device", ("example", "device")),
        ("model.hidden=[32],[64, 32]", ([32], [64, 32])),
        ('data.label="a,b",c', ("a,b", "c")),
    ],
)
def test_values_are_toml_or_bare_words(text: str, values: tuple[object, ...]) -> None:
    assert axis_of(text) == Axis(text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["training.rounds", "=5", "training.rounds="])
def test_half_an_axis_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected section"):
        axis_of(text)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([Axis("a.b", (1, 2)), Axis("a.b", (3,))], "a.b is given twice"),
        ([Axis("a.b", (1, 1.0))], "the value 1 is given twice"),
        ([Axis("a.b", ())], "has no value"),
        ([Axis("scenario.seed", (1, 2))], "cannot be an axis"),
    ],
)
def test_a_grid_that_means_something_else_is_refused(axes: list[Axis], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_axes(axes)


def test_a_program_names_axes_shortly() -> None:
    assert named_axes({"epsilon": [1, math.inf], "training.rounds": [3]}) == (
        Axis("privacy.epsilon", (1.0, math.inf)),
        Axis("training.rounds", (3,)),
    )
    with pytest.raises(ConfigError, match="needs a list"):
        named_axes({"unit": "example"})


def test_every_combination_is_a_cell() -> None:
    grid = cells([Axis("a.b", (1, 2)), Axis("c.d", ("x", "y", "z"))], (7, 8))
    assert len(set(grid)) == 12
    assert grid[1] == Cell((("a.b", 1), ("c.d", "x")), 8)


def test_an_infinite_epsilon_is_no_privacy_and_one_run_for_all_units_and_trusts() -> None:
    base = load_scenario("heart")
    axes = [
        Axis("privacy.epsilon", (math.inf,)),
        Axis("privacy.unit", ("example", "device")),
        Axis("privacy.trust", ("local", "distributed", "central")),
    ]
    keys = {content_key(scenario_of(base, cell), "own") for cell in cells(axes, (1, 2))}
    assert len(keys) == 2  # one per seed
    scenario = scenario_of(base, cells(axes, (3,))[0])
    assert (scenario.privacy.unit, scenario.scenario.seed) == ("none", 3)


def test_the_key_follows_scenario_rows_and_the_bytes_of_the_table(tmp_path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b\n1,2\n")
    base = load_scenario("heart", [f"data.path='{table}'", "data.source=csv"])
    first = content_key(base, "own")
    assert content_key(load_scenario("heart", [f"data.path='{table}'", "data.source=csv"]), "own") == first
    assert content_key(base, "public") != first
    assert content_key(scenario_of(base, Cell((("training.rounds", 3),), 1)), "own") != first
    table.write_text("a,b\n1,3\n\n")
    assert content_key(base, "own") != first


def test_a_value_that_a_rule_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="unit"):
        scenario_of(load_scenario("heart"), Cell((("privacy.unit", "hospital"),), 1))


def test_columns_have_short_names_and_plain_values() -> None:
    assert columns([("privacy.epsilon", 1.0), ("model.hidden", [3])]) == {"epsilon": 1.0, "model.hidden": "[3]"}
