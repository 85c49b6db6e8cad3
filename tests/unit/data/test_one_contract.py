"""From a file to the numbers that a model is fed: training, a real device and a device's predictions agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import Scenario, parse_scenario
from fedinfer.data import load, load_own, propose, public_schema
from fedinfer.errors import ConfigError, DataError
from fedinfer.inference import RowReader
from fedinfer.reading import read_file
from fedinfer.schema import Schema
from fedinfer.system import simulation_rng

ROWS = 90


def table(folder: Path, header: str, *columns: list[str], delimiter: str = ";", encoding: str = "utf-8") -> Path:
    """A table with a label y of two classes that follows from no column."""
    path = folder / "t.csv"
    labels = [("no", "yes")["01101001100"[row % 11] == "1"] for row in range(ROWS)]
    lines = [delimiter.join(cells) for cells in zip(*columns, labels, strict=True)]
    path.write_bytes("\n".join([delimiter.join([*header.split(), "y"]), *lines]).encode(encoding))
    return path


def cycle(*cells: str) -> list[str]:
    return [cells[row % len(cells)] for row in range(ROWS)]


def numbers(mark: str = ",") -> list[str]:
    return [f"{row * 0.75 + 1000:.2f}".replace(".", mark) for row in range(ROWS)]


def scenario_of(path: Path, *lines: str) -> Scenario:
    text = propose(path, path.parent, "y", "").text
    keys = [line.split(" = ")[0] for line in lines]
    kept = [line for line in text.splitlines() if not any(line.startswith(f"{key} =") for key in keys)]
    text = "\n".join(kept).replace("[data]\n", "\n".join(["[data]", *lines, ""]), 1)
    return parse_scenario(text.replace("ranges_confirmed = false", "ranges_confirmed = true"), path.parent, "t")


def trained_rows(scenario: Scenario) -> tuple[Schema, np.ndarray]:
    federation = load(scenario)
    parts = [part for data in federation.devices.values() for part in (data.train_x, data.test_x)]
    return federation.schema, np.concatenate(parts)


def in_order(rows: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in np.where(np.isnan(rows), np.float32(np.nan), rows).astype(np.float32))


TABLES = {
    "decimal commas and semicolons": (("wert ort", numbers(), cycle("Zürich", "Bern", "Genève")), ()),
    "thousands": (("wert ort", [f"1.{cell}" for cell in cycle("234,5", "235,25", "236,75")], cycle("a", "b")), ()),
    "a text for missing": (("wert ort", cycle("5.5", "-", "7.25", "8"), cycle("a", "b")), ()),
    "a sentinel": (
        ("wert ort", cycle("5.5", "-200", "7.25", "-200.0", "1"), cycle("a", "b")),
        ("missing_values = { wert = [-200] }",),
    ),
    "codes": (("ward wert", cycle("1_2", "1_1", "2_1"), cycle("1.5", "2.5")), ()),
    "spellings": (("flag wert", cycle("True", "TRUE", "False", "FALSE", "1.5x"), cycle("1.5", "2.5")), ()),
    "dates": (
        ("day wert", [f"{row % 28 + 1:02d}.{row % 12 + 1:02d}.2024" for row in range(ROWS)], cycle("1.5", "2.5")),
        ('times = { day = "days since 2024-01-01 as %d.%m.%Y" }',),
    ),
    "epoch seconds of a minute": (("t wert", [str(1_700_000_000 + row % 60) for row in range(ROWS)], numbers(".")), ()),
}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("name", TABLES)
def test_a_device_reads_the_file_that_training_read(tmp_path: Path, name: str, encoding: str) -> None:
    (header, *columns), lines = TABLES[name]
    path = table(tmp_path, header, *columns, encoding=encoding)
    scenario = scenario_of(path, *lines)
    if lines and lines[0].startswith("times"):
        scenario = scenario.model_copy(
            update={
                "data": scenario.data.model_copy(
                    update={"drop": (), "time": "", "ranges": {**scenario.data.ranges, "day": (0, 366)}}
                )
            }
        )
    schema, trained = trained_rows(scenario)
    on_wire = Schema.from_json(schema.to_json())
    reader = RowReader(on_wire)
    on_device = reader.matrix(read_file(path, on_wire.reading, wanted=reader.names))
    assert in_order(on_device) == in_order(trained)
    own = load_own(scenario, public_schema(scenario), path, simulation_rng("own"))
    assert public_schema(scenario) == schema
    assert in_order(np.concatenate([own.train_x, own.test_x])) == in_order(trained)
    assert len({row.tobytes() for row in trained}) > 2


def test_seconds_within_a_minute_stay_apart(tmp_path: Path) -> None:
    path = table(tmp_path, *TABLES["epoch seconds of a minute"][0])
    schema, trained = trained_rows(scenario_of(path))
    place = [column.name for column in schema.columns].index("t")
    assert set(trained[:, place]) == set(range(60))
    assert schema.reading.offset("t") == 1_700_000_000
    raw = np.full((1, 2), 1000.0)
    raw[0, place] = 1_700_000_007
    assert RowReader(schema).matrix(raw)[0, place] == 7
    assert RowReader(schema).matrix([{"t": 1_700_000_007, "wert": 5}])[0, place] == 7
    assert RowReader(schema).matrix(np.array([[7, 7]], np.float32))[0, place] == 7


def test_sentinels_are_missing_in_every_kind_of_row(tmp_path: Path) -> None:
    (header, *columns), lines = TABLES["a sentinel"]
    schema, trained = trained_rows(scenario_of(table(tmp_path, header, *columns), *lines))
    reader = RowReader(schema)
    place = reader.names.index("wert")
    assert np.isnan(trained[:, place]).sum() == ROWS * 2 // 5
    row: list[object] = ["a", "a"]
    row[place] = -200.0
    numeric = np.zeros((1, 2))
    numeric[0, place] = -200
    for rows in ([row], [dict(zip(reader.names, row, strict=True))], numeric, numeric.astype(np.float32)):
        assert np.isnan(reader.matrix(rows)[0, place]), rows


def test_a_label_that_is_a_sentinel_is_no_class(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,y", *(f"{row % 7},{(0, 1, -200)[row % 3]}" for row in range(ROWS))]))
    text = propose(path, tmp_path, "y", "").text
    text = text.replace('labels = ["-200", "0", "1"]', 'labels = ["0", "1"]\nmissing_values = { y = [-200] }')
    with pytest.raises(DataError, match="empty in 30 of 90 rows"):
        load(parse_scenario(text, tmp_path, "t"))
    text = text.replace("[data]\n", '[data]\nunlabelled = "drop"\n', 1)
    assert (
        sum(len(data.train_y) + len(data.test_y) for data in load(parse_scenario(text, tmp_path, "t")).devices.values())
        == 60
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('decimal = ","\nthousands = ","', "two meanings"),
        ('times = { wert = "days" }', "time rule"),
        ('marks = { wert = ".." }', "two meanings"),
        ('spellings = "alike"', "spellings"),
        ('times = { ort = "days since 2024-01-01" }', "time rule and categories"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(tmp_path: Path, line: str, words: str) -> None:
    path = table(tmp_path, "wert ort", cycle("1.5", "2.5", "3"), cycle("a", "b"))
    with pytest.raises(ConfigError, match=words):
        scenario_of(path, *line.split("\n"))


def test_a_range_that_float32_does_not_hold_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    path = table(tmp_path, "wert ort", cycle("1.5", "2.5", "3"), cycle("a", "b"))
    text = propose(path, tmp_path, "y", "").text
    assert tomllib.loads(text)["data"]["ranges"]["wert"]
    text = text.replace('"wert" = [1.5, 3]', '"wert" = [0, 1e300]')
    with pytest.raises(DataError, match="float32 cannot tell"):
        load(parse_scenario(text, tmp_path, "t"))
