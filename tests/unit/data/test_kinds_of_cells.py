"""Cells as users bring them: one text spelled in several ways, minus in parentheses, clocks, months with names."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedinfer.cli.labelled import labels_of, read_rows_file
from fedinfer.config import load_scenario
from fedinfer.data import ColumnRole, Proposal, load, propose
from fedinfer.data.clock import hours, rule_of
from fedinfer.data.order import moments
from fedinfer.data.summary import remarks
from fedinfer.device.labelled import truth_of
from fedinfer.errors import DataError
from fedinfer.reading import CellRule, ReadingRules, Spellings, alike, plain_number_reader, without_unit
from fedinfer.schema import Categorical

ROWS = 240


def proposed(folder: Path, columns: dict[str, Sequence[str]], label: str = "y", device: str = "") -> Proposal:
    lines = [";".join(columns), *(";".join(cells) for cells in zip(*columns.values(), strict=True))]
    (folder / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    return propose(folder / "t.csv", folder, label, device)


def data_of(found: Proposal) -> dict[str, Any]:
    return dict(tomllib.loads(found.text)["data"])


def turns(*cells: str) -> list[str]:
    return [cells[row * 7 % len(cells)] for row in range(ROWS)]


def amounts() -> list[str]:
    draw = random.Random(1)
    return [f"{draw.uniform(1, 900):.2f}" for _ in range(ROWS)]


@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        (["Fully Paid", "FULLY PAID", "fully paid"], (("fully paid",),)),
        (["fully paid", "fully  paid"], (("fully  paid", "fully paid"),)),
        (["Málaga", "MALAGA", "Malaga"], (("malaga", "málaga"),)),
        (["sí", "SI"], (("sí", "si"),)),
        (["yes", "YES", "No"], ()),
        (["a", "A", "CO", "Co", "1A", "1a"], ()),
        (["north", "south"], ()),
    ],
)
def test_what_is_spelled_alike(texts: list[str], groups: tuple[tuple[str, ...], ...]) -> None:
    assert alike(texts, ReadingRules().same_text) == groups


def test_a_label_and_a_category_of_several_spellings_are_read_as_one(tmp_path: Path) -> None:
    columns = {
        "x": amounts(),
        "town": turns("Málaga", "MALAGA", "León"),
        "member": turns("no", "NO", "SI", "sí", "Sí"),
        "y": turns("Paid", "PAID", "paid", "late", "Late"),
    }
    found = proposed(tmp_path, columns)
    data = data_of(found)
    assert data["labels"] == ["late", "paid"]
    assert data["categories"] == {"town": ["León", "Málaga"], "member": ["no", "sí"]}
    assert any("'paid'" in note and "same_text" in note for note in found.notes)
    rules = ReadingRules(same_text=tuple(map(tuple, data["same_text"])))
    assert Spellings(("no", "sí"), rules).place("Si") == 1
    assert Spellings(("León", "Málaga"), rules).place("malaga") == 1
    (tmp_path / "scenario.toml").write_text(found.text)
    federation = load(load_scenario(str(tmp_path)))
    assert federation.schema.labels == ("late", "paid")
    rows = sum(len(device.train_y) + len(device.test_y) for device in federation.devices.values())
    assert rows == ROWS


@pytest.mark.parametrize("mark", [",", "."])
def test_a_label_with_another_decimal_mark_than_the_table_is_read_by_its_own(tmp_path: Path, mark: str) -> None:
    other = {",": ".", ".": ","}[mark]
    columns = {
        **{name: [cell.replace(".", mark) for cell in amounts()] for name in ("x", "second", "third")},
        "ward": turns(f"1{other}0", "1", "2", f"3{other}0", "3"),
        "y": turns("0", f"0{other}0", f"1{other}0", "1"),
    }
    found = proposed(tmp_path, columns)
    data = data_of(found)
    assert (data["labels"], data.get("decimal", "."), data["marks"]["y"]) == (["0", "1"], mark, other)
    text = found.text.replace("[data]\n", '[data]\ncategorical = ["ward"]\n', 1)
    (tmp_path / "scenario.toml").write_text(text)
    federation = load(load_scenario(str(tmp_path)))
    assert federation.schema.labels == ("0", "1")
    ward = next(column for column in federation.schema.columns if column.name == "ward")
    assert isinstance(ward, Categorical)
    assert ward.categories == ("1", "2", "3")
    rule = CellRule("ward", federation.schema.reading, ward.categories)
    assert [rule.reader()(cell) for cell in ("1", f"1{other}0", f"3{other}0")] == [0.0, 0.0, 2.0]
    assert truth_of([f"1{other}0", "1", f"0{other}0"], federation.schema).tolist() == [1, 1, 0]
    whole = labels_of(read_rows_file(tmp_path / "t.csv", federation.schema), federation.schema)
    assert whole.tolist() == [int(cell[0]) for cell in columns["y"]]
    unlisted = [line for line in text.splitlines() if not line.startswith(("labels =", '"ward" ='))]
    (tmp_path / "scenario.toml").write_text("\n".join(unlisted))
    seen = load(load_scenario(str(tmp_path))).schema
    assert (seen.labels, seen.columns) == (federation.schema.labels, federation.schema.columns)


def test_yes_and_its_first_letter_are_one_label(tmp_path: Path) -> None:
    columns = {"x": amounts(), "member": turns("True", "F", "T"), "y": turns("Yes", "No", "Y", "yes", "no")}
    found = proposed(tmp_path, columns)
    data = data_of(found)
    assert [label.casefold() for label in data["labels"]] == ["no", "yes"]
    assert ["yes", "y"] in data["same_text"]
    assert ["true", "t"] in data["same_text"]
    assert set(data["categories"]["member"]) == {"F", "True"}
    (tmp_path / "scenario.toml").write_text(found.text)
    assert load(load_scenario(str(tmp_path))).schema.classes == 2
    codes = data_of(proposed(tmp_path, columns | {"y": turns("Y", "yes", "maybe")}))
    assert len(codes["labels"]) == 3


def test_a_rare_spelling_is_not_written_down(tmp_path: Path) -> None:
    town = turns("Málaga", "León")
    town[3] = "Malagá"
    assert "malag\u00e1" not in proposed(tmp_path, {"x": amounts(), "town": town, "y": turns("a", "b")}).text.casefold()


def test_short_texts_alone_are_refused_with_the_key_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column is left") as caught:
        proposed(tmp_path, {"said": ["ok see you", '"WIN cash" call now', '"hello', "free prize"], "y": ["a", "b"] * 2})
    assert 'text = "said"' in caught.value.hint
    with pytest.raises(DataError, match="no column is left") as caught:
        proposed(tmp_path, {"id": [str(row) for row in range(4)], "y": ["a", "b"] * 2})
    assert not caught.value.hint


def test_names_of_persons_are_not_written_down_because_they_are_spelled_twice(tmp_path: Path) -> None:
    columns = {"x": amounts(), "surname": turns("Muller", "MULLER", "Rossi"), "y": turns("a", "b")}
    assert "muller" not in proposed(tmp_path, columns).text.casefold()


def test_a_minus_in_parentheses_is_one(tmp_path: Path) -> None:
    balance = [f"({cell})" if row % 3 == 0 else cell for row, cell in enumerate(amounts())]
    cash = [f"(${cell})" if row % 3 else f"$ {cell}" for row, cell in enumerate(amounts())]
    data = data_of(proposed(tmp_path, {"balance": balance, "cash": cash, "y": turns("a", "b")}))
    assert data["units"] == {"balance": "()", "cash": "()$"}
    assert data["ranges"]["balance"][0] < -800
    read = plain_number_reader("cash", ReadingRules(units=(("cash", "()$"),)))
    assert [read("($12.50)"), read("$ 3"), read("$(4)"), read("")][:3] == [-12.5, 3.0, -4.0]


def test_parentheses_around_everything_are_no_sign(tmp_path: Path) -> None:
    codes = [f"({cell})" for cell in amounts()]
    data = data_of(proposed(tmp_path, {"x": amounts(), "code": codes, "y": turns("a", "b")}))
    assert "units" not in data


def test_what_could_not_be_measured_is_its_limit(tmp_path: Path) -> None:
    """As a laboratory writes it, beside decimal commas and a spelling of missing."""
    draw = random.Random(4)
    values = [draw.expovariate(1 / 30) for _ in range(ROWS)]
    crp = ["<0,6" if v < 6 else "> 80" if v > 80 else f"{v:.1f}".replace(".", ",") for v in values]
    crp[5::17] = ["n.b."] * len(crp[5::17])
    dose = [f"<{v:.0f} mg" if v < 10 else f"{v:.0f} mg" for v in values]
    found = proposed(tmp_path, {"crp": crp, "dose": dose, "y": turns("a", "b")})
    data = data_of(found)
    assert data["units"] == {"crp": "<>", "dose": "<>mg"}
    assert "n.b." in data["missing_text"]
    assert data["ranges"]["crp"] == [0, 80]
    assert not any("names persons" in note for note in found.notes)
    read = plain_number_reader("crp", ReadingRules(decimal=",", units=(("crp", "<>"),)))
    assert [read(cell) for cell in ("<0,6", "> 80", ">=80", "12,5")] == [0.6, 80.0, 80.0, 12.5]


def test_any_word_behind_nearly_all_numbers_is_a_unit(tmp_path: Path) -> None:
    draw = random.Random(6)
    values = [draw.uniform(20, 180) for _ in range(ROWS)]
    columns = {
        "area": [f"{v:.1f} m²".replace(".", ",") for v in values],
        "pressure": [f"{v:.0f}mmHg" for v in values],
        "depth": [f"{v:.0f} m" for v in values],
        "seat": [f"{v:.0f}B" for v in values],  # one letter without a blank: a code
        "shelf": turns("1 AB", "2 AB", "3 AB"),  # a few of them: codes
        "y": turns("a", "b"),
    }
    data = data_of(proposed(tmp_path, columns))
    assert data["units"] == {"area": "m²", "pressure": "mmHg", "depth": "m"}
    assert data["ranges"]["area"][1] == 180
    assert data["categories"]["shelf"] == ["1 AB", "2 AB", "3 AB"]


def test_a_box_that_is_ticked_or_empty_is_an_input(tmp_path: Path) -> None:
    columns = {"x": amounts(), "fever": turns("x", "", ""), "once": ["x", *[""] * (ROWS - 1)], "y": turns("a", "b")}
    found = proposed(tmp_path, columns)
    assert data_of(found)["categories"]["fever"] == ["x"]
    assert "once" in data_of(found)["drop"]
    (tmp_path / "scenario.toml").write_text(found.text)
    load(load_scenario(str(tmp_path)))


def test_many_classes_of_a_size_are_not_called_rare(tmp_path: Path) -> None:
    columns = {"x": amounts(), "y": turns(*(f"kind {number}" for number in range(12)))}
    assert not any("is 20 of 240 rows" in note for note in proposed(tmp_path, columns).notes)
    rare = [("a", "b", "c", "d")[row % 4] if row > 4 else "e" for row in range(ROWS)]
    assert any("'e' is 5 of 240 rows" in note for note in proposed(tmp_path, columns | {"y": rare}).notes)


def test_bands_are_no_numbers(tmp_path: Path) -> None:
    columns = {
        "x": amounts(),
        "band": turns("<18", "18-25", ">25"),
        "only": turns("<5", ">5", "<9"),
        "y": turns("a", "b"),
    }
    data = data_of(proposed(tmp_path, columns))
    assert "units" not in data
    assert data["categories"]["only"] == ["<5", "<9", ">5"]


@pytest.mark.parametrize("text", ["(5", "5)", "()", "(-5)", "(a)"])
def test_half_a_pair_of_parentheses_is_no_number(text: str) -> None:
    assert without_unit(text, "()") == text


def test_times_of_day_and_durations_are_hours(tmp_path: Path) -> None:
    draw = random.Random(2)
    columns = {
        "at": [f"{draw.randrange(24)}:{draw.randrange(60):02d}" for _ in range(ROWS)],
        "lasted": [f"0{draw.randrange(2)}:{draw.randrange(60):02d}:{draw.randrange(60):02d}" for _ in range(ROWS)],
        "long": [f"{draw.randrange(60)}:{draw.randrange(60):02d}" for _ in range(ROWS)],
        "y": turns("a", "b"),
    }
    found = proposed(tmp_path, columns)
    data = data_of(found)
    assert data["times"] == {
        "at": "hours since 1900-01-01 as %H:%M",
        "lasted": "hours since 1900-01-01 as %H:%M:%S",
    }
    assert data["ranges"] == {"at": [0, 24], "lasted": [0, 2]}
    assert data["drop"] == ["long"]
    read = plain_number_reader("at", ReadingRules(times=tuple(data["times"].items())))
    assert [read("14:30"), read("9:15")] == [14.5, 9.25]


@pytest.mark.parametrize(("longest", "most"), [("11:00", 11.0), ("11:59", 12.0), ("12:00", 24.0), ("23:59", 24.0)])
def test_from_noon_on_cells_are_times_of_day_and_before_it_durations(longest: str, most: float) -> None:
    """Durations have the range that they show; times of day have the day, which says nothing about the rows."""
    cells = ["9:05", "10:30", longest]
    low, high = hours(cells, rule_of(cells))
    assert high == most
    assert (low == 0.0) is (most == 24.0)


@pytest.mark.parametrize(
    "cells",
    [
        ["Dec-2015", "Jan-2016", "February 2016"],
        ["31 Dec 2015", "1 January 2016", "2-Feb-2016"],
        ["Dec 31, 2015", "Jan 1 2016", "Jan 1 2016 10:30"],
    ],
)
def test_months_with_names_grow_with_time(cells: list[str]) -> None:
    values = moments("t", "when", cells, ("",)).tolist()
    assert values == sorted(set(values))


def test_months_with_names_are_the_order_of_time(tmp_path: Path) -> None:
    months = [f"{name}-20{15 + row % 4}" for row in range(20) for name in ("Jan", "Apr", "Dec")]
    found = proposed(tmp_path, {"x": amounts(), "issued": months * 4, "y": turns("a", "b")})
    assert {guess.name: guess.role for guess in found.columns}["issued"] is ColumnRole.TIME


def test_a_label_keeps_the_unit_beside_it(tmp_path: Path) -> None:
    found = proposed(tmp_path, {"x": amounts(), "far": [f"{cell} km" for cell in amounts()]}, "far")
    assert data_of(found)["label_unit"] == "km"


def test_a_rare_class_of_many_is_no_reason_against_accuracy_alone(tmp_path: Path) -> None:
    stars = ["1"] * 12 + ["2", "3", "4"] * 76
    notes = proposed(tmp_path, {"x": amounts(), "y": stars}).notes
    assert any("Class '1' is 12 of 240 rows: accuracy says little about it" in note for note in notes)


def test_one_device_of_one_row_is_named_in_the_singular(tmp_path: Path) -> None:
    site = turns("a", "b", "c")
    site[5] = "alone"
    found = proposed(tmp_path, {"x": amounts(), "site": site, "y": turns("p", "q")}, device="site")
    assert any(note.startswith("One of 4 devices has a single row") for note in found.notes)
    (tmp_path / "scenario.toml").write_text(found.text)
    scenario = load_scenario(str(tmp_path))
    said = remarks(scenario, load(scenario))
    assert said == (
        "Device 'alone' has a single training row",
        "One device has no held-out row: it predicts nothing in this simulation",
    )
