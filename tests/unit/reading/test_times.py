"""Dates as numbers since a public date, against the standard library and pandas."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from fedinfer.errors import ConfigError
from fedinfer.reading import CellRule, ReadingRules, time_reader, written


@pytest.mark.parametrize(
    ("rule", "text", "value"),
    [
        ("days since 2024-01-01", "2024-03-01", 60),
        ("days since 2024-01-01", "2023-12-31", -1),
        ("hours since 2024-01-01", "2024-01-01 05:30", 5.5),
        ("seconds since 2024-01-01", "2024-01-01T00:00:07.25Z", 7.25),
        ("minutes since 2024-01-01", "2024-01-01T02:00+01:00", 60),
        ("seconds since 2024-07-14 10:00", "2024-07-14T10:02:00Z", 120),
        ("days since 2024-01-01 as %d.%m.%Y", "31.01.2024", 30),
        ("days since 2024-01-01 as %m/%d/%y", "1/31/24", 30),
        ("hours since 2024-01-01 as %d.%m.%Y %H:%M", "02.01.2024 06:00", 30),
        ("days since 2024-01-01", "2024-1-5", 4),
    ],
)
def test_units_since_a_date(rule: str, text: str, value: float) -> None:
    assert time_reader(rule)(text) == value


@pytest.mark.parametrize("text", ["2024-13-01", "yesterday", "", "20240101", "٢٠٢٤-01-01", "2024-01-01 25:00", "5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of the standard library
        time_reader("days since 2024-01-01")(text)


@pytest.mark.parametrize(
    "rule",
    [
        "days",
        "years since 2024-01-01",
        "days since now",
        "days since 2024-02-30",
        "days since 2024-01-01 as %c",
        "",
        "days since 2024-01-01 as %Y%Y",
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="time rule"):
        ReadingRules(times=(("t", rule),))


def test_seconds_agree_with_pandas_on_many_moments() -> None:
    moments = pd.date_range("1999-12-31 23:59:58", periods=400, freq="7h13min11s", tz="UTC")
    read = time_reader("seconds since 2000-01-01")
    expected = (moments - pd.Timestamp("2000-01-01", tz="UTC")).total_seconds()
    assert [read(moment.isoformat()) for moment in moments] == list(expected)
    assert [read(written(value, "seconds since 2000-01-01")) for value in expected] == list(expected)


@pytest.mark.parametrize(
    "cell",
    [
        "2024-01-02",
        date(2024, 1, 2),
        datetime(2024, 1, 2, tzinfo=UTC),
        pd.Timestamp("2024-01-02"),
        np.datetime64("2024-01-02"),
        1,
    ],
)
def test_a_date_of_any_library_is_the_same_number(cell: object) -> None:
    assert CellRule("t", ReadingRules(times=(("t", "days since 2024-01-01"),))).reader()(cell) == 1
