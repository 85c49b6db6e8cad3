"""Whatever a table holds, all ways of reading it agree: packed, cell by cell, by rows, and as it was written."""

from __future__ import annotations

import csv
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedinfer.artifact.evaluate.replay import replay
from fedinfer.errors import DataError
from fedinfer.inference import RowReader
from fedinfer.reading import CellRule, RawTable, ReadingRules, is_number, number_reader, read_column, read_text
from fedinfer.reading.packed import pack, packed_csv
from fedinfer.schema import Categorical, Numeric, Schema

MARKS = st.sampled_from([(".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", "'"), (",", "\u202f")])
ODD = ["1_2", "inf", "Infinity", "nan", "-NaN", "1e999", "1e-400", "0x1", "٣", "+5", "5.", ".5", " 7 ", "\u00a07",
       "1,5", "1.5", "1.234,5", "1,234.5", "1 234", "1'234", "1\u202f234,5", "", "NA", "-", "true", "FALSE", "x",
       "-200", "-200.0", "9" * 400, "1e39", "3.4028235e38", "1e5", "00012", "\x1f8\x1f", "8\u2028", "−5"]  # fmt: skip
CELLS = st.one_of(
    st.sampled_from(ODD),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.integers(-(10**12), 10**12).map(str),
    st.text("0123456789.,'eE+- \u202f", max_size=12),
)


def rules_of(marks: tuple[str, str]) -> ReadingRules:
    return ReadingRules(
        decimal=marks[0],
        thousands=marks[1],
        missing_text=("", "NA", "-"),
        missing_values=(("x", (-200.0, 5.0)),),
        offsets=(("x", 2.0),),
    )


def outcome(table: RawTable, rule: CellRule) -> list[float] | str:
    """The column, or the message of its fault."""
    try:
        return [float(value) for value in read_column(table, rule)]
    except DataError as error:
        return str(error)


def same(one: list[float] | str, other: list[float] | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return np.array_equal(np.array(one), np.array(other), equal_nan=True)


@settings(deadline=None, max_examples=300)
@given(st.lists(CELLS, max_size=6), MARKS)
def test_packed_columns_of_numbers_read_as_texts_do(cells: list[str], marks: tuple[str, str]) -> None:
    rule = CellRule("x", rules_of(marks))
    plain = RawTable("t", {"x": [cell.strip() for cell in cells]})
    assert same(outcome(RawTable("t", pack({"x": cells})), rule), outcome(plain, rule))


@settings(deadline=None)
@given(st.lists(CELLS, max_size=8), st.lists(CELLS.map(str.strip), min_size=1, max_size=4, unique=True))
def test_packed_columns_of_categories_read_as_texts_do(cells: list[str], names: list[str]) -> None:
    rule = CellRule("x", rules_of((".", "")), tuple(names))
    plain = RawTable("t", {"x": [cell.strip() for cell in cells]})
    assert same(outcome(RawTable("t", pack({"x": cells})), rule), outcome(plain, rule))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=6), MARKS)
def test_a_device_reads_rows_as_training_reads_columns(rows: list[list[str]], marks: tuple[str, str]) -> None:
    schema = Schema(
        (Numeric("x", 0, 9), Categorical("c", ("1", "true", "x"))), "y", ("0", "1"), reading=rules_of(marks)
    )
    named = [dict(zip(("x", "c"), row, strict=True)) for row in rows]
    table = RawTable("t", {name: [row[name].strip() for row in named] for name in ("x", "c")})
    try:
        trained = np.stack([read_column(table, rule) for rule in schema.cells()], axis=1)
    except DataError:
        with pytest.raises(DataError):
            RowReader(schema).matrix(named)
        return
    np.testing.assert_array_equal(RowReader(schema).matrix(named), trained)
    np.testing.assert_array_equal(RowReader(schema).matrix(table), trained)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.text("ab,;\"'\n\r\t 1.\0é", max_size=5), min_size=3, max_size=3), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_packed_csv_has_the_cells_of_the_csv_module_or_none(rows: list[list[str]], all_quoted: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
            csv.writer(file, quoting=quoting, lineterminator="\n").writerows([["a", "b", "c"], *rows])
        packed = packed_csv(path, ",", ReadingRules())
        if packed is None:
            return
        plain = read_text("t", path.read_bytes().decode(), ReadingRules(delimiter=","))
    assert {name: packed[name] for name in packed} == dict(plain.columns)


@settings(deadline=None)
@given(st.binary(max_size=60).map(lambda tail: b"a,b\n1,2\n" + tail))
def test_a_packed_csv_of_any_bytes_has_the_cells_of_the_csv_module_or_none(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(content)
        packed = packed_csv(path, ",", ReadingRules())
    if packed is not None:
        plain = read_text("t", content.decode(), ReadingRules(delimiter=","))
        assert {name: packed[name] for name in packed} == dict(plain.columns)


@settings(deadline=None)
@given(st.floats(-1e15, 1e15), MARKS)
def test_a_number_that_was_written_with_marks_is_read_back(value: float, marks: tuple[str, str]) -> None:
    text = f"{value:,.4f}".replace(",", "\0").replace(".", marks[0]).replace("\0", marks[1])
    assert number_reader(*marks)(text) == float(f"{value:.4f}")


@given(CELLS)
def test_every_number_is_one_for_python_too(cell: str) -> None:
    assume(is_number(cell))
    assert number_reader()(cell) == float(cell)


LIMITS = st.floats(-1e12, 1e12).flatmap(
    lambda low: st.tuples(st.just(low), st.floats(1e-3, 1e6).map(lambda w: low + w))
)


@settings(deadline=None, max_examples=60)
@given(LIMITS, MARKS, st.booleans())
def test_replay_finds_no_difference_under_any_rules(
    limits: tuple[float, float], marks: tuple[str, str], header: bool
) -> None:
    from fedinfer.data.columns import numeric_columns

    assume(limits[0] < limits[1])
    rules = ReadingRules(
        delimiter=";",
        decimal=marks[0],
        thousands=marks[1],
        header=header,
        missing_values=(("x", (-200.0, 0.0)),),
        units=(("x", "%"),) if header else (),
    )
    columns, rules = numeric_columns({"x": limits}, {"x": True}, {}, rules)
    schema = Schema((columns["x"], Categorical("c", ("1", "yes", "NA", "ä;b"))), "y", ("0", "1"), reading=rules)
    assert replay(schema, Schema.from_json(schema.to_json())) > 0
    assert not math.isnan(columns["x"].low)
