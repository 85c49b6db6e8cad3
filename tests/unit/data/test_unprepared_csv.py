"""A CSV whose scenario says little: what is read off the data is used, marked and said."""

from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import DataSection, Scenario
from fedinfer.data import Federation, load
from fedinfer.errors import DataError
from fedinfer.reading import ReadingRules, read_file
from fedinfer.schema import Categorical, Numeric

ROWS = [(20.5 + row, ["red", "blue", "green"][row % 3], "x" if row else "", row % 2) for row in range(30)]


def write(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, **keys: object) -> Federation:
    write(folder, "size,colour,note,y\n" + "".join(",".join(map(str, row)) + "\n" for row in ROWS))
    return load(Scenario(data=DataSection(source="csv", path="t.csv", label="y", **keys), base=folder))


def test_ranges_and_categories_are_read_off_and_not_confirmed(tmp_path: Path) -> None:
    federation = loaded(tmp_path, categorical=("colour", "note"))
    assert federation.schema.columns == (
        Numeric("size", 20, 50, confirmed=False),
        Categorical("colour", ("blue", "green", "red"), confirmed=False),
        Categorical("note", ("x",), confirmed=False),
    )
    assert "size (range), colour (categories), note (categories)" in federation.warnings[0]


def test_what_the_scenario_says_is_confirmed_and_comes_first(tmp_path: Path) -> None:
    federation = loaded(tmp_path, drop=("note",), categories={"colour": ("red",)})
    assert [column.name for column in federation.schema.columns] == ["colour", "size"]
    assert [column.confirmed for column in federation.schema.columns] == [True, False]
    x = np.concatenate([part for data in federation.devices.values() for part in (data.train_x, data.test_x)])
    assert int(np.isnan(x[:, 0]).sum()) == 20
    assert set(x[~np.isnan(x[:, 0]), 0]) == {0.0}


def test_numbers_keep_their_value_and_the_row_its_label(tmp_path: Path) -> None:
    federation = loaded(tmp_path, drop=("note", "colour"))
    pairs = [
        (float(x[0]), int(y))
        for data in federation.devices.values()
        for xs, ys in ((data.train_x, data.train_y), (data.test_x, data.test_y))
        for x, y in zip(xs, ys, strict=True)
    ]
    assert sorted(pairs) == [(size, label) for size, _, _, label in ROWS]


def test_a_text_column_that_is_not_named_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'colour', row 2: 'red' is not a number") as caught:
        loaded(tmp_path)
    assert "[data] categorical" in caught.value.hint


def test_blank_lines_are_skipped_and_names_are_stripped(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, " a , b\n\n1, 2 \n\n3,4\n"), ReadingRules())
    assert table.columns == {"a": ["1", "3"], "b": ["2", "4"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_guessed_or_given(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path, delimiter.join(["a", "b"]) + "\n" + delimiter.join(["1", "x"]) + "\n")
    for given in ("", delimiter):
        assert read_file(path, ReadingRules(delimiter=given)).columns == {"a": ["1"], "b": ["x"]}


def test_a_decimal_comma_does_not_mislead_the_guess(tmp_path: Path) -> None:
    assert read_file(write(tmp_path, "a;b\n1,5;2,5\n"), ReadingRules()).columns == {"a": ["1,5"], "b": ["2,5"]}
