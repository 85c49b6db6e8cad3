"""[data] breaks: proposed for columns that crowd at one end, read with the ranges, refused where they make no sense."""

from pathlib import Path

import numpy as np
import pytest

from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.cli.init import proposed
from fedinfer.config import load_scenario
from fedinfer.coordinator.judging import members
from fedinfer.data import load, public_schema
from fedinfer.data.skew import breaks_for
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema

RNG = np.random.default_rng(5)
INCOME = np.minimum(RNG.lognormal(7, 1.2, 400), 60_000).round()
SCENARIO = '[data]\nsource = "csv"\npath = "t.csv"\nlabel = "y"\nlabels = ["a", "b"]\n'


def table(folder: Path) -> Path:
    lines = [f"{income:g},{RNG.integers(18, 80)},{'ab'[int(income > 900)]}" for income in INCOME]
    lines[7] = "60000,30,b"
    (folder / "t.csv").write_text("income,age,y\n" + "\n".join(lines) + "\n")
    return folder / "t.csv"


def described(folder: Path, text: str):
    table(folder)
    (folder / "scenario.toml").write_text(SCENARIO + text)
    return load_scenario(str(folder))


def test_a_column_that_fills_its_range_gets_none() -> None:
    assert breaks_for(np.linspace(0, 100, 50), 0, 100) == ()
    assert breaks_for(np.append(np.zeros(50), np.full(10, 60.0)), 0, 100) == ()


def test_values_at_the_upper_end_are_counted_from_there() -> None:
    values = np.array([0.0, 96, 97, 98, 99, 99.5, 99.9, 99.95, 99.99, 100])
    found = breaks_for(values, 0.0, 100.0)
    assert found == tuple(sorted(found))
    assert all(80 < value < 100 for value in found)
    mirrored = breaks_for(100 - values, 0.0, 100.0)
    assert np.allclose(sorted(100 - value for value in mirrored), found, atol=0.11)  # a half may round either way


def test_init_proposes_rounded_breaks_inside_the_range(tmp_path: Path) -> None:
    _, _, text = proposed(table(tmp_path), tmp_path / "m", "y", "", header=True, label_above=None)
    lines = dict(line.split(" = ", 1) for line in text[text.index("[data.breaks]") :].splitlines()[1:2])
    values = [float(value) for value in lines['"income"'].split("]")[0].strip("[").split(",")]
    low, high = 0, 60_000
    assert values == sorted(values)
    assert all(low < value < high and float(f"{value:.0e}") == value for value in values)
    assert '"age"' not in lines


def test_they_come_with_the_range_to_the_schema_of_a_simulation_and_of_a_deployment(tmp_path: Path) -> None:
    ranges = "[data.ranges]\nincome = [0, 60000]\nage = [18, 80]\n[data.breaks]\nincome = [500, 2000]\n"
    scenario = described(tmp_path, ranges)
    column = load(scenario).schema.columns[0]
    assert isinstance(column, Numeric)
    assert column.breaks == (500, 2000)
    assert public_schema(scenario).columns[0] == column


def test_an_offset_of_the_column_is_taken_off_its_breaks(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(
        SCENARIO + "[data.ranges]\nage = [1700000000, 1700000060]\n[data.breaks]\nage = [1700000005]\n"
    )
    schema = public_schema(load_scenario(str(tmp_path)))
    assert schema.reading.offset("age") == 1_700_000_000
    assert schema.columns[0] == Numeric("age", 0, 60, True, (5,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data.breaks]\nincome = [500]\n", "column 'income' has breaks and no range"),
        ("[data.ranges]\nincome = [0, 100]\n[data.breaks]\nincome = [500]\n", "do not rise within"),
    ],
)
def test_breaks_without_a_range_or_outside_it_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(described(tmp_path, text))


def test_drawn_rows_and_groups_follow_the_breaks() -> None:
    schema = Schema((Numeric("income", 0, 100_000, breaks=(1000, 3000, 10_000)),), "y", ("a", "b"))
    rows = synthetic_rows(schema, 2000, np.random.default_rng(1))
    groups = members(schema, "income", rows)
    assert list(groups) == ["0 to 1000", "1000 to 3000", "3000 to 10000", "10000 to 100000", "missing"]
    assert all(380 < found.sum() < 520 for name, found in groups.items() if name != "missing")
