"""`fedinfer init` on tables that nobody has prepared."""

import csv
import json
import random
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
import typer
from pyarrow import parquet
from typer.testing import CliRunner

from fedinfer.cli.init import init
from fedinfer.cli.validate import validate
from fedinfer.config import load_scenario
from fedinfer.data import Federation, check_against_data, load, public_schema
from fedinfer.data.guess import ColumnRole, Guess, guess_column
from fedinfer.errors import DataError
from fedinfer.schema import Categorical, Numeric

MISSING = ("", "NA")


def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(init)
    application.command()(validate)
    return application


def write(path: Path, columns: dict[str, Sequence[object]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def clinic(rows: int = 300) -> dict[str, list[object]]:
    rng = random.Random(5)
    ages = [rng.randint(18, 95) for _ in range(rows)]
    return {
        "": [row + 1 for row in range(rows)],
        "patient_id": [10_000 + row * 7 % 9973 for row in range(rows)],
        "full name": [f"Pärson {row}" for row in range(rows)],
        "visit date": [f"2024-{1 + row % 12:02d}-{1 + row % 28:02d}" for row in range(rows)],
        "age": [age if rng.random() > 0.1 else "NA" for age in ages],
        'weight "kg"': [round(rng.gauss(75, 15), 1) if rng.random() > 0.05 else "unknown" for _ in range(rows)],
        "smoker": [rng.choice(["yes", "no", "no", ""]) for _ in range(rows)],
        "insured": [rng.choice(["TRUE", "FALSE"]) for _ in range(rows)],
        "city": [f"City {rng.randint(0, 60)}" for _ in range(rows)],
        "crp": [99_999 if row == 5 else round(rng.expovariate(0.2), 1) for row in range(rows)],
        "constant": ["x"] * rows,
        "empty": [""] * rows,
        "notes": [" ".join(rng.choices("abcdefgh", k=9)) for _ in range(rows)],
        "site": [rng.choice(["North Clinic", "South/Clinic", "Ärzte Haus", ""]) for _ in range(rows)],
        "outcome": ["" if row % 97 == 3 else ("sick" if age > 55 else "well") for row, age in enumerate(ages)],
    }


def initialised(tmp_path: Path, columns: dict[str, Sequence[object]], *options: str) -> tuple[Federation, str]:
    table = write(tmp_path / "my table.csv", columns)
    folder = tmp_path / "pilot" / "one"
    result = CliRunner().invoke(app(), ["init", str(folder), "--csv", str(table), *options])
    assert result.exit_code == 0, result.output
    scenario = load_scenario(str(folder))
    federation = load(scenario)
    check_against_data(scenario, federation)
    return federation, (folder / "scenario.toml").read_text(encoding="utf-8")


def test_a_messy_table_with_a_device_column_works_without_editing(tmp_path: Path) -> None:
    federation, text = initialised(tmp_path, clinic(), "--label", "outcome", "--device", "site")
    columns = {column.name: column for column in federation.schema.columns}
    assert set(columns) == {"age", 'weight "kg"', "smoker", "insured", "crp"}
    assert isinstance(columns["age"], Numeric)
    assert isinstance(columns['weight "kg"'], Numeric)
    assert columns["smoker"] == Categorical("smoker", ("no", "yes"), confirmed=False)
    assert columns["insured"] == Categorical("insured", ("FALSE", "TRUE"), confirmed=False)
    assert columns["crp"].high < 100
    assert federation.schema.labels == ("sick", "well")
    assert set(federation.devices) == {"North-Clinic", "South-Clinic", "rzte-Haus"}
    assert "unlabelled" in text


def test_everything_that_is_not_confirmed_is_said(tmp_path: Path) -> None:
    federation, text = initialised(tmp_path, clinic(), "--label", "outcome", "--device", "site")
    assert tomllib.loads(text)["data"]["ranges_confirmed"] is False
    assert "PLEASE CONFIRM" in text
    assert tomllib.loads(text)["scenario"]["name"] == "my-table"
    assert not federation.schema.confirmed
    assert any("nobody has confirmed that they are public: age (range)" in warning for warning in federation.warnings)
    assert any("rows left out: no label or no device" in warning for warning in federation.warnings)
    with pytest.raises(DataError, match="ranges_confirmed = false"):
        public_schema(load_scenario(str(tmp_path / "pilot" / "one")))


def test_once_confirmed_the_same_file_is_a_public_description(tmp_path: Path) -> None:
    initialised(tmp_path, clinic(), "--label", "outcome", "--device", "site")
    scenario = load_scenario(str(tmp_path / "pilot" / "one"), ["data.ranges_confirmed=true"])
    assert public_schema(scenario) == load(scenario).schema


def test_every_dropped_column_says_why(tmp_path: Path) -> None:
    _, text = initialised(tmp_path, clinic(), "--label", "outcome", "--device", "site")
    for line in (
        '"column_1", # an identifier',
        '"patient_id", # an identifier, as its name says',
        '"full name", # names a person or leads to one, as its name says',
        '"city", # ',
        'time = "visit date" # when a row happened',
        '"constant", # the same value everywhere',
        '"empty", # empty',
        '"notes", # text that hardly repeats',
    ):
        assert line in text


def test_without_a_device_column_rows_are_dealt(tmp_path: Path) -> None:
    federation, text = initialised(tmp_path, clinic(), "--label", "outcome")
    assert len(federation.devices) == 10
    assert "site" in {column.name for column in federation.schema.columns}
    assert tomllib.loads(text)["data"]["partition"] == {"devices": 10, "scheme": "iid"}


def test_many_devices_are_each_protected_as_a_whole(tmp_path: Path) -> None:
    columns = clinic(2400) | {"site": [f"phone {row % 800}" for row in range(2400)]}
    federation, text = initialised(tmp_path, columns, "--label", "outcome", "--device", "site")
    values = tomllib.loads(text)
    assert len(federation.devices) == 800
    assert values["privacy"]["unit"] == "device"
    assert values["training"]["cohort"] == 200
    assert values["privacy"]["delta"] < 1 / 800


def test_a_numeric_label_with_many_values_is_predicted_as_a_number(tmp_path: Path) -> None:
    columns = clinic() | {"outcome": [row * 1.5 for row in range(300)]}
    federation, text = initialised(tmp_path, columns, "--label", "outcome")
    assert federation.schema.label_range == (0.0, 450.0)
    assert federation.schema.labels == ()
    assert tomllib.loads(text)["model"]["kind"] == "additive"


def test_two_classes_of_a_number_are_made_where_somebody_says(tmp_path: Path) -> None:
    columns = clinic() | {"outcome": [row * 1.5 for row in range(300)]}
    federation, text = initialised(tmp_path, columns, "--label", "outcome", "--label-above", "223.5")
    assert federation.schema.labels == ("0", "1")
    assert "label_above = 223.5" in text
    share = np.concatenate([federation.test[1], *(d.train_y for d in federation.devices.values())]).mean()
    assert abs(share - 0.5) < 0.01


def test_a_numeric_label_that_is_mostly_its_largest_value_is_still_a_number(tmp_path: Path) -> None:
    columns = clinic() | {"outcome": [*range(20), *[50] * 280]}
    federation, _ = initialised(tmp_path, columns, "--label", "outcome")
    low, high = federation.schema.label_range or (0.0, 0.0)
    assert low <= 5
    assert high >= 50


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (lambda row: row % 3, ("0", "1", "2")),
        (lambda row: (2, 10)[row % 2], ("2", "10")),
        (lambda row: ("true", "false")[row % 2], ("false", "true")),
        (lambda row: ("böse", 'gu"t')[row % 2], ("böse", 'gu"t')),
    ],
)
def test_labels_of_all_sorts_are_listed_in_order(
    tmp_path: Path, label: Callable[[int], object], names: tuple[str, ...]
) -> None:
    columns = clinic() | {"outcome": [label(row) for row in range(300)]}
    assert initialised(tmp_path, columns, "--label", "outcome")[0].schema.labels == names


def test_semicolons_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    columns = {"a,b": [row * 0.5 for row in range(50)], "y": [row % 2 for row in range(50)]}
    table = write(tmp_path / "semi.csv", columns, ";")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    result = CliRunner().invoke(app(), ["init", str(tmp_path), "--csv", str(table), "--label", "y"])
    assert result.exit_code == 0, result.output
    assert [column.name for column in load(load_scenario(str(tmp_path))).schema.columns] == ["a,b"]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    table = arrow.table({"age": [30.5, None] * 20, "ok": [True, False] * 20, "y": ["a", "b"] * 20})
    parquet.write_table(table, tmp_path / "table.parquet")
    result = CliRunner().invoke(
        app(), ["init", str(tmp_path), "--csv", str(tmp_path / "table.parquet"), "--label", "y"]
    )
    assert result.exit_code == 0, result.output
    names = [column.name for column in load(load_scenario(str(tmp_path))).schema.columns]
    assert names == ["ok"]


def test_the_json_answer_lists_every_column(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", clinic())
    result = CliRunner().invoke(app(), ["init", str(tmp_path), "--csv", str(table), "--label", "outcome", "--json"])
    answer = json.loads(result.stdout)
    assert answer["rows"] == 300
    assert {column["name"]: column["role"] for column in answer["columns"]}["notes"] == "drop"
    assert Path(answer["path"]).exists()


def test_a_table_that_moves_with_its_scenario_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    table = write(tmp_path / "first" / "t.csv", clinic())
    result = CliRunner().invoke(app(), ["init", str(tmp_path / "first"), "--csv", str(table), "--label", "outcome"])
    assert result.exit_code == 0, result.output
    (tmp_path / "first").rename(tmp_path / "second")
    assert len(load(load_scenario(str(tmp_path / "second"))).devices) == 10


@pytest.mark.parametrize(
    ("name", "cells", "role"),
    [
        ("x", [f"{row / 7:.3f}" for row in range(40)], ColumnRole.NUMERIC),
        ("x", [str(row % 4) for row in range(40)], ColumnRole.NUMERIC),
        ("x", [str(row * 3) for row in range(40)], ColumnRole.NUMERIC),
        ("row_id", [str(row * 3) for row in range(40)], ColumnRole.DROP),
        ("customerId", [str(row * 3) for row in range(40)], ColumnRole.DROP),
        ("paid", [str(row * 3) for row in range(40)], ColumnRole.NUMERIC),
        ("x", [str(row + 100) for row in range(40)], ColumnRole.DROP),
        ("x", ["1", "n.a."] + ["2", "3", "4"] * 10, ColumnRole.NUMERIC),
        ("x", ["1", "red"] * 20, ColumnRole.CATEGORICAL),
        ("x", ["red", "blue"] * 20, ColumnRole.CATEGORICAL),
        ("x", [f"name {row}" for row in range(40)], ColumnRole.DROP),
        ("x", ["31.05.2024", "1.6.2024"] * 20, ColumnRole.DROP),
        ("x", ["2024-05-31T10:00:00Z", "2024-06-01 11:00"] * 20, ColumnRole.DROP),
        ("x", ["14:30", "15:45"] * 20, ColumnRole.NUMERIC),
        ("x", ["7"] * 40, ColumnRole.DROP),
        ("x", ["7", "7.0"] * 20, ColumnRole.DROP),
        ("x", ["", "NA"] * 20, ColumnRole.DROP),
        ("x", ["1", "inf"] * 2 + ["2", "3"] * 18, ColumnRole.NUMERIC),
    ],
)
def test_what_columns_are_taken_for(name: str, cells: list[str], role: ColumnRole) -> None:
    assert guess_column(name, cells, MISSING).role is role


def test_a_text_among_numbers_is_reported_as_stray_and_counts_as_missing() -> None:
    guess = guess_column("x", ["1", "2", "3", "4", "5.5", "n.a.", ""] * 5, MISSING)
    assert guess == Guess("x", ColumnRole.NUMERIC, "data from 1 to 5.5", 10, 1.0, 5.5, stray=("n.a.",))


@pytest.mark.parametrize("holders", [2, 3, 4, 9, 50])
def test_what_init_writes_can_be_planned_for_any_number_of_holders(tmp_path: Path, holders: int) -> None:
    rng = random.Random(holders)
    xs = [rng.gauss(0, 1) for _ in range(max(300, 10 * holders))]
    columns: dict[str, list[object]] = {
        "x": list(xs),
        "y": [int(x + rng.gauss(0, 1) > 0) for x in xs],
        "site": [f"s{row % holders}" for row in range(len(xs))],
    }
    table = write(tmp_path / "table.csv", columns)
    folder = tmp_path / "pilot"
    runner = CliRunner()
    asked = ["init", str(folder), "--csv", str(table), "--label", "y", "--device", "site"]
    assert runner.invoke(app(), asked).exit_code == 0
    result = runner.invoke(app(), ["validate", str(folder / "scenario.toml")])
    assert result.exit_code == 0, result.output
    assert ("none is counted" in " ".join(result.output.split())) is (holders == 2)
