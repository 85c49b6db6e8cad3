"""Every kind of bad input: exit code 2, a message that names file, key or column, value and rule, nothing written."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fedinfer.cli.init import init
from fedinfer.cli.validate import validate

GOOD = "age,site,y\n" + "".join(f"{20 + row},{'north' if row % 3 else 'south'},{row % 2}\n" for row in range(60))
SCENARIO = """
[data]
source = "csv"
path = "table.csv"
label = "y"
device = "site"
[data.ranges]
age = [0, 120]
[secure_aggregation]
corruption_rate = 0.0 # two devices: each could subtract its own part of the sum
"""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(sys, "path", list(sys.path))
    application = typer.Typer()
    application.command()(validate)
    application.command()(init)
    return application


def refused(app: typer.Typer, folder: Path, words: list[str], *options: str) -> None:
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(app, ["validate", str(folder / "scenario.toml"), *options])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(folder.rglob("*")) == before


def files(folder: Path, table: str | bytes = GOOD, scenario: str = SCENARIO) -> Path:
    (folder / "table.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    (folder / "scenario.toml").write_text(scenario)
    return folder


def test_the_good_case_is_good(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(files(tmp_path))])
    assert result.exit_code == 0, result.output
    assert "60: 42 train, 18 held out, 0 public" in result.stdout


def test_a_missing_toml(app: typer.Typer, tmp_path: Path) -> None:
    refused(app, tmp_path, [str(tmp_path / "scenario.toml"), "no such scenario"])


def test_a_malformed_toml(app: typer.Typer, tmp_path: Path) -> None:
    refused(
        app, files(tmp_path, scenario="[data\nlabel = 3"), [str(tmp_path / "scenario.toml"), "not valid TOML", "line 1"]
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.rouds=3", ["unknown key [training] rouds", "'rounds'"]),
        ("training.rounds='three'", ["[training] rounds = 'three'", "integer"]),
        ("privacy.epsilon=0", ["[privacy] epsilon = 0", "greater than 0"]),
        ("privacy.epsilon=-2", ["[privacy] epsilon = -2", "greater than 0"]),
        ("privacy.delta=0.02", ["[privacy] delta = 0.02", "below 1/n = 0.0167 for n = 60 units (example)"]),
        ("training.cohort=3", ["[training] cohort = 3", "population has 2 devices"]),
        ("data.label=z", ["table.csv", "[data] label = 'z'", "no such column", "age, site, y"]),
        ("data.device=z", ["table.csv", "[data] device = 'z'", "no such column"]),
        ("data.drop=['z']", ["table.csv", "[data] drop = 'z'", "no such column"]),
        ("data.categorical=['z']", ["table.csv", "[data] categorical = 'z'", "no such column"]),
        ("data.ranges.z=[0, 1]", ["table.csv", "[data] ranges = 'z'", "no such column"]),
        ("data.drop=['age']", ["table.csv", "no input column is left"]),
        ("data.path=absent.csv", ["absent.csv", "cannot be read", "No such file"]),
        ("data.path=.", ["cannot be read", "Is a directory"]),
        ("data.labels=['0', '2']", ["label column 'y'", "row 3", "'1' is not one of [data] labels: 0, 2"]),
        ("training.pretrain=true", ["[training] pretrain = true", "no public rows", "public_fraction = 0.0"]),
        ("model.factory=absent_for_test:build", ["[model] factory = 'absent_for_test:build'", "cannot be imported"]),
        ("drift.inject.kind=rotate", ["[drift.inject] kind = 'rotate'", "no images"]),
        ("drift.inject={kind='shift', column='z'}", ["[drift.inject] column = 'z'", "numeric: age"]),
    ],
)
def test_a_wrong_key_or_value(app: typer.Typer, tmp_path: Path, override: str, words: list[str]) -> None:
    refused(app, files(tmp_path), words, "--set", override)


def test_delta_counts_devices_when_devices_are_protected(app: typer.Typer, tmp_path: Path) -> None:
    options = ("--set", "privacy.unit=device", "--set", "privacy.delta=0.5")
    refused(app, files(tmp_path), ["delta = 0.5", "1/n = 0.5 for n = 2 units (device)"], *options)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("age,site,y\n" + "30,north,1\n31,south,1\n" * 9, ["label column 'y'", "only class '1' in 18 rows"]),
        ("age,site,y\n" + "30,north,\n31,south,NaN\n" * 9, ["label column 'y'", "no class at all in 18 rows"]),
        (GOOD + "33,north,nan\n", ["label column 'y' empty in 1 of 61 rows, first in row 62", "unlabelled"]),
        (GOOD + "33,north,\n", ["label column 'y' empty in 1 of 61 rows"]),
        (GOOD + "old,north,1\n", ["column 'age', row 62: 'old' is not a number", "categorical"]),
        (GOOD + "inf,north,1\n", ["column 'age', row 62: 'inf' is not a finite number"]),
        (
            GOOD.replace("age,site,y", "age,y,site,y").replace("north", "1,north").replace("south", "1,south"),
            ["duplicate column 'y'"],
        ),
        ("age,site,y\n30,north,1\n", ["1 rows; at least 2"]),
        ("age,site,y\n", ["0 rows; at least 2"]),
        ("", ["no header"]),
        (GOOD + "33,north\n", ["row 62 has 2 cells, the header has 3"]),
        (GOOD + '"33,north,1\n', ["row 62 (line 62) is not CSV", 'quote = ""']),
    ],
)
def test_a_bad_table(app: typer.Typer, tmp_path: Path, table: str | bytes, words: list[str]) -> None:
    refused(app, files(tmp_path, table), [*words, str(tmp_path / "table.csv")])


def test_an_empty_device_is_named(app: typer.Typer, tmp_path: Path) -> None:
    lines = GOOD.splitlines()
    table = "\n".join([lines[0], *(line.replace("north", "south") for line in lines[1:]), "30,lonely,1", ""])
    words = ["empty device: 'lonely' has 1 rows, all of them public", "public_fraction"]
    refused(app, files(tmp_path, table), words, "--set", "data.public_fraction=0.97")


def test_more_simulated_devices_than_rows(app: typer.Typer, tmp_path: Path) -> None:
    scenario = SCENARIO.replace('device = "site"', 'drop = ["site"]')
    words = ["[data.partition] devices = 61", "empty device", "60 rows"]
    refused(app, files(tmp_path, scenario=scenario), words, "--set", "data.partition.devices=61")


def test_one_class_is_left_when_rows_without_a_device_are_dropped(app: typer.Typer, tmp_path: Path) -> None:
    table = "age,site,y\n" + "30,north,1\n31,south,1\n32,,0\n" * 9
    refused(app, files(tmp_path, table), ["both a label and a device", "fewer than two classes"])


def test_too_many_classes(app: typer.Typer, tmp_path: Path) -> None:
    table = "age,site,y\n" + "".join(f"{row},north,{row}.5\n" for row in range(101))
    refused(app, files(tmp_path, table), ["label column 'y' has 101 values; at most 100", "label_above"])


def test_text_where_label_above_compares(app: typer.Typer, tmp_path: Path) -> None:
    words = ["column 'y', row 62: 'high' is not a number", "label_above"]
    refused(app, files(tmp_path, GOOD + "33,north,high\n"), words, "--set", "data.label_above=0.5")


def test_a_factory_that_raises_on_import(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    files(tmp_path)
    (tmp_path / "raises_for_bad_input_test.py").write_text("1 / 0")
    words = ["[model] factory", "ZeroDivisionError"]
    refused(app, tmp_path, words, "--set", "model.factory=raises_for_bad_input_test:build")


def run_init(app: typer.Typer, folder: Path, table: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["init", str(folder), "--csv", str(table), "--label", "y", *options])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def test_init_into_a_place_that_cannot_be_written(app: typer.Typer, tmp_path: Path) -> None:
    files(tmp_path)
    for folder in (Path("/proc/fedinfer-test"), tmp_path / "table.csv", tmp_path / "table.csv" / "inside"):
        message = run_init(app, folder, tmp_path / "table.csv")
        assert f"{folder}/scenario.toml: cannot be written" in message


def test_init_never_writes_over_a_scenario(app: typer.Typer, tmp_path: Path) -> None:
    files(tmp_path)
    assert "exists already" in run_init(app, tmp_path, tmp_path / "table.csv")
    assert (tmp_path / "scenario.toml").read_text() == SCENARIO


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (GOOD, ["--device", "z"], ["[data] device = 'z'", "no such column"]),
        (GOOD.replace("y\n", "z\n", 1), [], ["[data] label = 'y'", "no such column"]),
        ("x,y\n" + "a,1\na,0\n" * 9, [], ["no column is left", "'x' (the same value everywhere)"]),
        ("y\n" + "1\n0\n" * 9, [], ["no column is left", "the label stands alone"]),
        ("x,y\n" + "1,1\n2,1\n" * 9, [], ["only class '1'"]),
        (GOOD.replace("north", "south"), ["--device", "site"], ["device column 'site' names 1 device"]),
        ("x,y\n1,1\n2,0\n", [], ["3", "rows"]),
    ],
)
def test_init_on_a_table_that_cannot_work_writes_nothing(
    app: typer.Typer, tmp_path: Path, table: str, options: list[str], words: list[str]
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table)
    message = run_init(app, tmp_path / "new", path, *options)
    for word in words:
        assert word in message
    assert not (tmp_path / "new").exists()


def test_a_scenario_that_is_a_directory_or_not_readable(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").mkdir()
    refused(app, tmp_path, [str(tmp_path / "scenario.toml"), "no such scenario"])


def test_a_column_without_any_number_needs_a_range(app: typer.Typer, tmp_path: Path) -> None:
    lines = GOOD.splitlines()
    table = "\n".join([lines[0] + ",empty", *(line + "," for line in lines[1:]), ""])
    refused(app, files(tmp_path, table), ["column 'empty' has no value in any row", "drop"])
