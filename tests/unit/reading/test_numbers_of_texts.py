"""One grammar of numbers, whatever Python's `float` would say."""

from __future__ import annotations

import math

import pytest

from fedinfer.reading import CellRule, ReadingRules, is_number, number_reader


@pytest.mark.parametrize(
    ("text", "decimal", "thousands", "value"),
    [
        ("1234", ".", "", 1234),
        ("-1.5e3", ".", "", -1500),
        ("+.5", ".", "", 0.5),
        ("7.", ".", "", 7),
        ("6,46", ",", "", 6.46),
        ("1.234.567,5", ",", ".", 1234567.5),
        ("1,234", ".", ",", 1234),
        ("1'234.5", ".", "'", 1234.5),
        ("1’234.5", ".", "'", 1234.5),
        ("1 234,5", ",", " ", 1234.5),
        ("1\u00a0234,5", ",", " ", 1234.5),
        ("1\u202f234\u202f567", ",", " ", 1234567),
        ("12,34,567", ".", ",", 1234567),
        ("1234,5", ",", ".", 1234.5),
    ],
)
def test_a_number_in_its_dialect(text: str, decimal: str, thousands: str, value: float) -> None:
    assert number_reader(decimal, thousands)(text) == value


@pytest.mark.parametrize(
    "text",
    ["1_2", "infinity", "inf", "1e999", "٣", "１２", "0x10", "1,5", "1.2.3", "", "-", "1e", "e5", "1 2", "--1", "nan"],
)
def test_what_is_no_number(text: str) -> None:
    assert not is_number(text)


@pytest.mark.parametrize(("text", "decimal", "thousands"), [("1.5", ",", ""), ("1,23", ".", ","), ("1.23,4", ",", ".")])
def test_a_number_of_another_dialect_is_none_of_this_one(text: str, decimal: str, thousands: str) -> None:
    assert not is_number(text, decimal, thousands)


def test_the_grammar_agrees_with_float_on_all_it_takes() -> None:
    for value in (0.1, 1e-300, 123456789.123456789, -5e-324, 2**53 + 1, 1.7976931348623157e308):
        assert number_reader()(repr(value)) == float(repr(value))


RULES = ReadingRules(decimal=",", missing_text=("", "-"), missing_values=(("x", (-200.0,)),), offsets=(("x", 100.0),))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("101,5", 1.5),
        (" 101,5\t", 1.5),
        (101.5, 1.5),
        (101, 1.0),
        ("-", math.nan),
        (None, math.nan),
        (math.nan, math.nan),
        ("NaN", math.nan),
        ("-200", math.nan),
        (-200, math.nan),
        ("-200,0", math.nan),
        (True, -99.0),
        ("TRUE", -99.0),
        ("false", -100.0),
    ],
)
def test_a_cell_is_the_same_as_text_and_as_a_number(cell: object, value: float) -> None:
    found = CellRule("x", RULES).reader()(cell)
    assert found == value or (math.isnan(found) and math.isnan(value))


@pytest.mark.parametrize("cell", ["1.5", "1_2", b"1", [1], "n/a", 1e39, float("inf"), "inf", 10**400])
def test_a_cell_that_is_no_number_is_refused(cell: object) -> None:
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        CellRule("x", RULES).reader()(cell)
