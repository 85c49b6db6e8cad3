"""From a raw cell, text or number, to the float32 that a model is fed: the one implementation of the reading rules.

Rules:
* a number is read by `numbers`; a missing text, None, NaN or a sentinel of the column is NaN;
* true and false in a column of numbers are 1 and 0;
* a column with a time rule reads dates; a number there is in the unit of the rule already;
* the column's offset is taken off in double precision, then the value is rounded to float32;
* a category is its place in the list, found by `spellings`; any other text is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.reading.numbers import number_reader, without_unit
from fedinfer.reading.rules import BLANKS, ReadingRules
from fedinfer.reading.spellings import Spellings, is_nothing, text_of
from fedinfer.reading.times import time_of, time_reader

LARGEST = float(np.finfo(np.float32).max)
_BEYOND = 2.0**128 - 2.0**103
"""From here on a double is rounded to infinity."""
CellReader: TypeAlias = Callable[[Any], float]
_FLAGS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class CellRule:
    """One column of a row.

    Args:
        name: column name.
        rules: of the table.
        categories: in the order of their indices; None: a column of numbers.
    """

    name: str
    rules: ReadingRules
    categories: tuple[str, ...] | None = None

    @property
    def wanted(self) -> str:
        """What a cell must be, for messages."""
        time = dict(self.rules.times).get(self.name)
        if time:
            return f"a time ({time}) or missing"
        decimal, _ = self.rules.marks_of(self.name)
        mark = "" if decimal == "." else f" with decimal {decimal!r}"
        return f"a finite number{mark} or missing"

    def reader(self) -> CellReader:
        """A function from a cell to the value of the row, float64, NaN for missing.

        It raises ValueError, TypeError or ArithmeticError for what is neither a value nor missing.
        """
        return (
            _number_reader(self)
            if self.categories is None
            else _category_reader(self.categories, self.rules.of_column(self.name))
        )


def plain_number_reader(column: str, rules: ReadingRules) -> CellReader:
    """As `CellRule.reader` of a column of numbers, without its offset: values in the unit of the table.

    Args:
        column: its name.
        rules: of the table.
    """
    as_number, as_time = number_reader(*rules.marks_of(column)), dict(rules.times).get(column)
    as_value = time_reader(as_time) if as_time else as_number
    unit = rules.unit(column)
    missing, sentinels = frozenset(rules.missing_text), frozenset(rules.sentinels(column))

    def of_text(cell: str) -> float:
        text = cell.strip(BLANKS)
        if text in missing:
            return math.nan
        try:
            return as_value(without_unit(text, unit) if unit else text)
        except ValueError:
            lower = text.lower()
            if lower in _FLAGS and not as_time:
                return _FLAGS[lower]
            if lower.lstrip("+-") == "nan":
                return math.nan
            raise

    def read(cell: Any) -> float:
        if type(cell) is float or type(cell) is int:  # most cells of a program: no more questions
            value = float(cell)
        else:
            value = of_text(cell) if isinstance(cell, str) else _of_value(cell, as_value if as_time else None)
        if value in sentinels:
            return math.nan
        if math.isinf(value):
            raise ValueError(cell)
        return value

    return read


def _of_value(cell: Any, as_time: Callable[[str], float] | None) -> float:
    """A cell that is no text; a float of another library, a flag or a fraction is its value."""
    if is_nothing(cell):
        return math.nan
    if isinstance(cell, bytes | bytearray):
        raise TypeError(cell)
    if isinstance(cell, date) or type(cell).__name__ == "datetime64":
        if as_time is None:
            raise TypeError(cell)
        return as_time(time_of(cell) if isinstance(cell, date) else str(cell))
    if isinstance(cell, np.float32 | np.float16):  # -99.9 as its own file would write it, not -99.90000152587890625
        return float(str(cell))
    return float(cell)


def _number_reader(rule: CellRule) -> CellReader:
    plain, offset = plain_number_reader(rule.name, rule.rules), rule.rules.offset(rule.name)

    def read(cell: Any) -> float:
        value = plain(cell) - offset
        if abs(value) >= _BEYOND:  # NaN passes
            raise ValueError(cell)
        return value

    return read


def _category_reader(categories: Sequence[str], rules: ReadingRules) -> CellReader:
    spellings, missing = Spellings(categories, rules), frozenset(rules.missing_text)
    listed = frozenset(categories)

    def read(cell: Any) -> float:
        if is_nothing(cell):
            return math.nan
        text = text_of(cell)
        place = None if text in missing and text not in listed else spellings.place(text)
        return math.nan if place is None else float(place)

    return read


def float32_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Values as the model gets them, rounded to the nearest float32.

    Args:
        values: float64, none beyond the largest float32.
    """
    return values.astype(np.float32)


def offset_for(low: float, high: float) -> float:
    """What must be taken off a column so that float32 tells 65,536 values of its public range apart; 0 for most.

    Epoch seconds within one minute would all be the same float32: at 1.7e9 its values are 128 apart.

    Args:
        low: of the public range, finite.
        high: of the public range, finite, > low.

    Examples:
        >>> offset_for(0.0, 100.0), offset_for(1.7e9, 1.7e9 + 60)
        (0.0, 1700000000.0)
    """
    largest = np.float32(min(max(abs(low), abs(high)), LARGEST / 2))  # the spacing at the very end overflows
    return low if (high - low) < 65_536 * float(np.spacing(largest)) else 0.0


def told_apart(low: float, high: float) -> bool:
    """Whether float32 holds a public range at all: its ends are different and finite.

    Args:
        low: as rows have it, the offset taken off.
        high: likewise.
    """
    return max(abs(low), abs(high)) <= LARGEST and bool(np.float32(low) < np.float32(high))
