from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.report import figures

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(), child, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), ("0.5", 0.5), ("inf", math.inf), ("-inf", -math.inf), (True, None), ("nan", None), (math.nan, None),
     (None, None), ([1], None), ("", None), (10**400, None)],
)  # fmt: skip
def test_number(value: object, expected: float | None) -> None:
    assert figures.number(value) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (figures.decimal(0.12349), "0.123"),
        (figures.decimal("inf"), "\u221e"),
        (figures.significant(1e-5), "1e-5"),
        (figures.significant(2.5e20), "2.5e20"),
        (figures.significant(8.0), "8"),
        (figures.bound(0.92101), "0.922"),
        (figures.bound(7.62), "7.62"),
        (figures.bound(0.99999), "1"),
        (figures.bound("inf"), "\u221e"),
        (figures.percent(0.8216), "82.2\u202f%"),
        (figures.whole(1234567), "1\u202f234\u202f567"),
        (figures.whole([1, 2]), "2"),
        (figures.data_size(1023), "1023\u202fB"),
        (figures.data_size(1536), "1.5\u202fKiB"),
        (figures.data_size(3 * 1024**3), "3.0\u202fGiB"),
        (figures.microseconds(11.44), "11.4\u202f\u00b5s"),
        (figures.microseconds(2500), "2.5\u202fms"),
        (figures.microseconds(4e6), "4\u202fs"),
        (figures.seconds(71.3), "71.3\u202fs"),
        (figures.seconds(600), "10.0\u202fmin"),
    ],
)
def test_how_figures_are_written(made: str, expected: str) -> None:
    assert made == expected


WRITERS = (
    figures.decimal, figures.significant, figures.percent, figures.whole, figures.data_size, figures.microseconds,
    figures.seconds, figures.words,
)  # fmt: skip


@given(JSON)
def test_every_json_value_can_be_written(value: object) -> None:
    for write in WRITERS:
        assert isinstance(write(value), str)


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_missing_is_a_dash(write: object) -> None:
    assert callable(write)
    assert write(None) == figures.ABSENT
