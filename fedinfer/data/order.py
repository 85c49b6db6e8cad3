"""The order of rows in time: which rows came last, so that they are held out and met after training.

Only the order counts: the column is no input. Dates are read as ISO (2024-05-31, 2024-05-31T10:02:00Z), day first
(31.05.2024, 31/5/24) or, where some second place is over 12, month first (5/31/24), or with an English month (31 May
2024, May 31, 2024, May-2024); a clock alone (14:30) and numbers are in order by themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from fedinfer.data.table import Indices
from fedinfer.errors import DataError

_YEAR_FIRST = re.compile(r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ]+(.*))?$")
_YEAR_LAST = re.compile(r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4}|\d{2})(?:[T ]+(.*))?$")
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH_NAMED = re.compile(
    rf"^(?:(\d{{1,2}})[- .]+)?({'|'.join(MONTHS)})[a-z]*[- .,]+(?:(\d{{1,2}}),? +)?(\d{{4}})(?:[T ]+(.*))?$",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"^(\d{1,2})[:.](\d{2})(?:[:.](\d{2}(?:\.\d+)?))?\s*([AaPp][Mm])?\s*(Z|[+-]\d{2}:?\d{2})?$")
FIRST_ROW = 2


def moments(table: str, name: str, cells: Sequence[str], missing: Collection[str]) -> npt.NDArray[np.float64]:
    """When each row happened, as a number that grows with time.

    Args:
        table: table name, for messages.
        name: column name, for messages.
        cells: n texts: numbers, dates, dates with times, or times of a day.
        missing: texts that mean missing.

    Returns:
        float64, shape (n,): seconds, or the numbers themselves. A missing moment is -inf: such rows count as earliest.

    Raises:
        DataError: a cell that is none of these; names the row.
    """
    month_first = _month_first(cells)
    values = np.empty(len(cells), dtype=np.float64)
    for row, cell in enumerate(cells):
        moment = -math.inf if cell in missing else _moment(cell.strip(), month_first=month_first)
        if moment is None:
            raise DataError(
                f"{table}: column {name!r}, row {row + FIRST_ROW}: {cell!r} is neither a date, a time nor a number",
                hint='leave [data] time out, or add the text for missing to [data] missing_text; dates: "2024-05-31"',
            )
        values[row] = moment
    return values


def is_moment(cell: str) -> bool:
    """Whether a cell reads as a date with a year.

    Args:
        cell: text as the table has it.
    """
    return _date(cell.strip(), month_first=False) is not None or _date(cell.strip(), month_first=True) is not None


def latest(count: int, fraction: float) -> tuple[Indices, Indices]:
    """The first rows for training and the last ones, held out; both get one when there are two or more.

    Args:
        count: rows of a device in the order of time, >= 1.
        fraction: held out, in (0, 1).

    Returns:
        (training, held-out) row numbers.
    """
    held_out = min(max(round(fraction * count), 1), count - 1)
    rows = np.arange(count)
    return rows[: count - held_out], rows[count - held_out :]


def check_in_order(table: str, name: str, values: npt.NDArray[np.float64]) -> None:
    """Refuse a device's table whose rows are not in the order of time: its last rows are held out.

    Args:
        table: table name, for the message.
        name: column name, for the message.
        values: from `moments`.

    Raises:
        DataError: a row is earlier than the one before it.
    """
    back = np.flatnonzero(values[1:] < values[:-1])
    if back.size:
        row = int(back[0]) + 1
        raise DataError(
            f"{table}: column {name!r}, row {row + FIRST_ROW} is earlier than the row before it",
            hint="[data] time holds out a device's last rows: sort its table by that column",
        )


def _month_first(cells: Sequence[str]) -> bool:
    """Whether a number over 12 stands where a day-first date has its month."""
    found = (_YEAR_LAST.match(cell.strip()) for cell in cells)
    return any(match is not None and int(match[2]) > 12 for match in found)


def _moment(cell: str, *, month_first: bool) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    date = _date(cell, month_first=month_first)
    return date if date is not None else _clock(cell)


def _date(cell: str, *, month_first: bool) -> float | None:
    if match := _YEAR_FIRST.match(cell):
        year, month, day = int(match[1]), int(match[2]), int(match[3])
    elif match := _YEAR_LAST.match(cell):
        first, second, year = int(match[1]), int(match[2]), int(match[3])
        day, month = (second, first) if month_first else (first, second)
        year += 0 if year >= 100 else 2000 if year < 70 else 1900
    elif match := _MONTH_NAMED.match(cell):
        return _month_named(match)
    else:
        return None
    return _at(year, month, day, match[4])


def _month_named(match: re.Match[str]) -> float | None:
    day, month = match[1] or match[3] or 1, MONTHS.index(match[2].lower()) + 1
    return None if match[1] and match[3] else _at(int(match[4]), month, int(day), match[5])


def _at(year: int, month: int, day: int, clock: str | None) -> float | None:
    seconds = _clock(clock.strip()) if clock else 0.0
    try:
        start = datetime(year, month, day, tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return None if seconds is None else start + seconds


def _clock(cell: str) -> float | None:
    """Seconds since midnight, UTC where the cell has an offset."""
    match = _CLOCK.match(cell)
    if match is None:
        return None
    hour, minute, second, half, offset = match.groups()
    hours = int(hour) % 12 + 12 * (half.lower() == "pm") if half else int(hour)
    east = 0.0
    if offset and offset != "Z":
        sign = -1 if offset[0] == "-" else 1
        east = sign * (int(offset[1:3]) * 3600.0 + int(offset[-2:]) * 60.0)
    return hours * 3600.0 + int(minute) * 60.0 + float(second or 0) - east
