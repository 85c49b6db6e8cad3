"""Runs that divide the rows of a device differently are told apart in its ledger, whatever a task says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedinfer.config import Scenario, override, parse_scenario
from fedinfer.data import load_own, public_schema
from fedinfer.data.own import all_slots
from fedinfer.deployment.node import OwnRows
from fedinfer.system import simulation_rng

HONEST = """
[data]
source = "csv"
path = "all.csv"
label = "y"
labels = ["no", "yes"]
unlabelled = "drop"
ranges_confirmed = true
[data.ranges]
x = [0, 100]
"""
SHIFTED = """
[data]
source = "csv"
path = "all.csv"
label = "column_3"
labels = ["no", "yes"]
unlabelled = "drop"
ranges_confirmed = true
header = false
quote = "'"
missing_text = ["", "x", "y"]
[data.ranges]
column_1 = [0, 100]
"""
"""The line with the names becomes a row, and two rows become one: as many rows as before, at other places."""
NAMES = {5: "'t Hooft", 6: "Jones'"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    rows = [f"{number},{NAMES.get(number, 'x')},{'yes' if number % 2 else 'no'}" for number in range(20)]
    path.write_text("\n".join(["x,note,y", *rows]) + "\n")
    return path


def task(text: str) -> Scenario:
    return parse_scenario(text, Path("/pilot"), "pilot")


def division(scenario: Scenario, table: Path) -> str:
    rows = OwnRows(cast(Any, SimpleNamespace(data=table, device="d")), cast(Any, None))
    rows.host = cast(Any, SimpleNamespace(joined=lambda: SimpleNamespace(scenario=scenario)))
    return rows.division("d")


def test_a_table_that_is_cut_otherwise_is_another_division(table: Path) -> None:
    honest, shifted = task(HONEST), task(SHIFTED)
    assert all_slots(honest, table) == all_slots(shifted, table)
    trained = load_own(honest, public_schema(honest), table, simulation_rng(1)).train_x[:, 0]
    watched = load_own(shifted, public_schema(shifted), table, simulation_rng(1)).test_x[:, 0]
    assert set(trained.tolist()) & set(watched.tolist()), "rows that are trained on in one run, held out in the other"
    assert division(honest, table) != division(shifted, table)


@pytest.mark.parametrize(
    "change",
    [
        {"data.header": False},
        {"data.quote": "'"},
        {"data.quote": ""},
        {"data.delimiter": ","},
        {"data.encoding": "cp1252"},
    ],
)
def test_whatever_decides_where_a_row_ends_is_part_of_the_division(table: Path, change: dict[str, Any]) -> None:
    honest, mended = task(HONEST), table.with_name("plain.csv")
    mended.write_text(table.read_text().replace("'", ""))
    other = override(honest, change)
    assert division(honest, mended) != division(other, mended)


def test_what_moves_no_row_is_no_other_division(table: Path) -> None:
    honest = task(HONEST)
    other = override(honest, {"data.labels": ["yes", "no"], "data.ranges.x": [0, 50]})
    assert division(honest, table) == division(other, table)
