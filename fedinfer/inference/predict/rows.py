"""Rows of any usual kind to one float32 matrix, checked against the schema.

Accepted: numpy arrays, pandas data frames (any object with `columns` and `[name]`), tables of files, CSV text, dicts,
and sequences of values in the order of the columns. Rules, the same for all kinds:

* every column of the schema must be there; other columns are ignored (a misspelt one is missed under its right name);
* a cell, text or number, is read by the reading rules of the schema (`fedinfer.reading`), as in training;
* in an array of numbers a categorical cell is the index of the category or NaN.

A float32 array holds rows as the model takes them, which were read already: their offsets are off. An array of another
kind of numbers holds raw ones. Sentinels are missing in both.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.reading import (
    LARGEST,
    CellReader,
    CellRule,
    RawTable,
    ReadingRules,
    number_hint,
    read_column,
    read_text,
    records,
)
from fedinfer.schema import Categorical, Schema

FloatArray = npt.NDArray[np.float32]
NUMBERS = "fiub"
"""Kinds of numpy dtypes that hold numbers."""
_BLOCK_VALUES = 32_768
"""Values checked at a time: the temporary arrays stay in the cache, and the allocator keeps their pages."""


class _Rules(NamedTuple):
    """The rules of a row's cells, the same for as many rows as a block has.

    Comparing two whole arrays takes a third of the time of comparing each short row with one row of rules.
    """

    low: FloatArray
    high: FloatArray
    whole: npt.NDArray[np.bool_]

    def repeated(self, rows: int) -> _Rules:
        shape = (rows, 1)
        return _Rules(np.tile(self.low[:1], shape), np.tile(self.high[:1], shape), np.tile(self.whole[:1], shape))


class RowReader:
    """Turns rows into arrays for one schema.

    Args:
        schema: description of a row.
    """

    def __init__(self, schema: Schema) -> None:
        self.width = schema.width
        self.names = tuple(column.name for column in schema.columns)
        self._shape = schema.shape
        self.complete = schema.complete
        self._reading = schema.reading
        self._rules_of_cells: tuple[CellRule, ...] = schema.cells()
        self._cells: tuple[CellReader, ...] = tuple(rule.reader() for rule in self._rules_of_cells)
        self._moved = {place: rule for place, rule in enumerate(self._rules_of_cells) if _is_moved(rule)}
        self._categorical = [i for i, column in enumerate(schema.columns) if isinstance(column, Categorical)]
        self.low = np.full(self.width, -LARGEST, np.float32)
        self.high = np.full(self.width, LARGEST, np.float32)
        self.category_mask = np.zeros(self.width, np.float32)
        self.category_mask[self._categorical] = 1
        for i, column in enumerate(schema.columns):
            if isinstance(column, Categorical):
                self.low[i], self.high[i] = 0, len(column.categories) - 1
        self._rules = _Rules(self.low[None], self.high[None], self.category_mask[None] > 0)

    @property
    def has_categories(self) -> bool:
        """True when some column is categorical."""
        return bool(self._categorical)

    def matrix(self, rows: Any) -> FloatArray:
        """Rows as a checked float32 array (n, width); no copy when it is one already.

        Args:
            rows: array (n, width), data frame, CSV text with a header, dict, or a sequence of dicts or rows.

        Raises:
            DataError: names row, column, value and rule.
        """
        matrix = self._laid_out(rows)
        if self.complete:
            self.check(matrix)
        return matrix

    def _laid_out(self, rows: Any) -> FloatArray:
        if isinstance(rows, np.ndarray):
            return self._array(rows)
        if isinstance(rows, str):
            rows = read_text("CSV text", rows, self._reading, wanted=self.names)
        if isinstance(rows, RawTable):
            return self._table(rows)
        if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):
            return self._frame(rows)
        if isinstance(rows, Mapping):
            return self._records([rows])
        if isinstance(rows, Iterable) and not isinstance(rows, bytes | bytearray | memoryview):
            return self._records(list(rows))
        raise DataError(f"rows of type {type(rows).__name__}", hint="pass an array, a data frame, CSV text or dicts")

    def unknown_categories(self, columns: Mapping[str, Iterable[str | None]]) -> dict[str, tuple[str, int]]:
        """Cells of rows that `matrix` took and that count as missing because they are no category.

        Args:
            columns: cells by name, of rows that `matrix` accepts; None is missing.

        Returns:
            For each such column the first such text and how many rows have one. A program that reads files should say
            so.
        """
        found: dict[str, tuple[str, int]] = {}
        missing = frozenset(self._reading.missing_text)
        for place in self._categorical:
            counts = Counter(columns[self.names[place]])
            unknown = {
                cell: count
                for cell, count in counts.items()
                if cell is not None and cell not in missing and math.isnan(self._cells[place](cell))
            }
            if unknown:
                found[self.names[place]] = (next(iter(unknown)), sum(unknown.values()))
        return found

    def one(self, row: Any) -> FloatArray:
        """One row as a checked float32 array (1, width).

        Args:
            row: dict, array, sequence of values or one CSV line without header.

        Raises:
            DataError: names column, value and rule.
        """
        if isinstance(row, np.ndarray) and row.dtype.kind in NUMBERS:
            matrix = self._array(row)
            if len(matrix) != 1:
                raise DataError(f"array of shape {row.shape}, expected one row of {self.width} values")
            return matrix
        matrix = self._records([row])
        if self.complete:
            self.check(matrix)
        return matrix

    def blank(self, rows: int) -> FloatArray:
        """Rows of zeros, float32 (rows, width).

        Args:
            rows: how many, >= 0.
        """
        return np.zeros((rows, self.width), np.float32)

    def check(self, matrix: FloatArray, first: int = 0) -> None:
        """Check rows cell by cell, in bulk.

        Args:
            matrix: float32 (n, width).
            first: number of its first row, for the message.

        Raises:
            DataError: names the first bad cell.
        """
        step = max(1, _BLOCK_VALUES // max(1, self.width))
        for start in range(0, len(matrix), step):
            self._check_block(matrix[start : start + step], first + start)

    def _check_block(self, block: FloatArray, start: int) -> None:
        bad = self._broken(block) if self._categorical else np.isinf(block)
        if self.complete:
            bad |= np.isnan(block) & (self.category_mask == 0)
        if np.count_nonzero(bad):
            self._refuse(block, bad, start)

    def _broken(self, block: FloatArray) -> npt.NDArray[np.bool_]:
        count = len(block)
        if count > len(self._rules.low):
            self._rules = self._rules.repeated(1 << (count - 1).bit_length())
        rules = self._rules
        bad: npt.NDArray[np.bool_] = np.rint(block) != block
        bad &= rules.whole[:count]
        bad |= block < rules.low[:count]
        bad |= block > rules.high[:count]
        bad &= block == block  # NaN is no fault
        return bad

    def _refuse(self, block: FloatArray, bad: npt.NDArray[np.bool_], start: int) -> NoReturn:
        row, place = (int(i[0]) for i in np.nonzero(bad))
        value, rule = float(block[row, place]), "a finite number" if self.complete else "a finite number or NaN"
        if place in self._categorical:
            rule = f"an index from 0 to {int(self.high[place])} or NaN"
        raise DataError(f"row {start + row}, column {self._name(place)}: {value:g} breaks the rule: {rule}")

    def _name(self, place: int) -> str:
        return self.names[place] if self.names else f"pixel {place}"

    def _array(self, rows: npt.NDArray[Any]) -> FloatArray:
        if rows.dtype.kind in "OU":
            return self._records(list(rows))
        matrix = self.shaped(rows)
        self.check(matrix)
        return matrix

    def _table(self, table: RawTable) -> FloatArray:
        if not self.names:
            raise DataError(f"rows of an image model are arrays of shape {self._shape}, not named columns")
        absent = [name for name in self.names if name not in table.columns]
        if absent:
            raise DataError(
                f"{table.name}: column {absent[0]} is absent ({len(absent)} of {self.width} absent)",
                hint=f"the file has {', '.join(list(table.columns)[:20])}",
            )
        matrix = np.empty((table.rows, self.width), np.float32)
        for place, rule in enumerate(self._rules_of_cells):
            matrix[:, place] = read_column(table, rule, f"rule: {rule.wanted}")
        return matrix

    def shaped(self, rows: npt.NDArray[Any]) -> FloatArray:
        """An array of numbers as float32 (n, width) that nobody has checked; no copy when it is one already.

        Sentinels become NaN and offsets are taken off, in double precision.

        Args:
            rows: one row or many; images may have their own shape (n, channels, height, width).

        Raises:
            DataError: another shape or dtype.
        """
        if rows.dtype.kind not in NUMBERS:
            self._bad_dtype(rows)
        if rows.shape == (self.width,) or rows.shape == self._shape != ():
            rows = rows.reshape(1, self.width)
        elif rows.ndim > 2 and rows.shape[1:] == self._shape:
            rows = rows.reshape(len(rows), self.width)
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise DataError(f"array of shape {rows.shape}, expected (rows, {self.width})")
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which `check` refuses by name
            return np.ascontiguousarray(self._moved_numbers(rows) if self._moved else rows, np.float32)

    def _moved_numbers(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As `reading.cells` does with numbers; a float32 array holds a sentinel as its nearest float32."""
        raw = rows.dtype != np.float32
        moved: npt.NDArray[Any] = rows.astype(np.float64 if raw else np.float32)
        for place, rule in self._moved.items():
            offset = rule.rules.offset(rule.name)
            if raw or not offset:
                sentinels = np.asarray(rule.rules.sentinels(rule.name), moved.dtype)
                moved[np.isin(moved[:, place], sentinels), place] = np.nan
            if raw:
                moved[:, place] -= offset
        return moved

    def without_sentinels(self, matrix: FloatArray) -> None:
        """Make the sentinels of rows missing, in place.

        Args:
            matrix: float32 (n, width).
        """
        if self._moved:
            matrix[:] = self._moved_numbers(matrix)

    def _bad_dtype(self, rows: npt.NDArray[Any]) -> NoReturn:
        raise DataError(f"array of dtype {rows.dtype}, expected numbers, text or objects")

    def _frame(self, frame: Any) -> FloatArray:
        present = {str(name) for name in frame.columns}
        self._check_names(present, 0)
        matrix = np.empty((len(frame), self.width), np.float32)
        for place, name in enumerate(self.names):
            matrix[:, place] = self._column(place, frame[name])
        return matrix

    def _column(self, place: int, series: Any) -> FloatArray:
        values = np.asarray(series)
        plain = place not in self._categorical and place not in self._moved
        if values.dtype.kind in "fiub" and plain:
            with np.errstate(over="ignore"):
                numbers = values.astype(np.float32)
            bad = np.isinf(numbers)
            if bad.any():
                self._value(int(np.nonzero(bad)[0][0]), place, values[bad][0])
            return numbers
        return np.array([self._value(row, place, value) for row, value in enumerate(values)], np.float32)

    def _records(self, rows: Sequence[Any]) -> FloatArray:
        matrix = np.empty((len(rows), self.width), np.float32)
        for number, row in enumerate(rows):
            matrix[number] = self._record(number, row)
        return matrix

    def _record(self, number: int, row: Any) -> Sequence[float] | FloatArray:
        if isinstance(row, np.ndarray) and row.dtype.kind in "fiub":
            values_of_row: FloatArray = self._array(row.reshape(-1))[0]
            return values_of_row
        if isinstance(row, Mapping):
            self._check_names(row.keys(), number)
            values: Sequence[Any] = [row[name] for name in self.names]
        elif isinstance(row, str):
            values = self._line(number, row)
        elif isinstance(row, Iterable) and not isinstance(row, bytes | bytearray | memoryview):
            values = list(row)
        else:
            raise DataError(f"row {number} is of type {type(row).__name__}, expected a dict, an array or values")
        if len(values) != self.width:
            raise DataError(f"row {number} has {len(values)} values, expected {self.width}")
        return [self._value(number, place, value) for place, value in enumerate(values)]

    def _line(self, number: int, text: str) -> list[str]:
        try:
            return next(records(text, self._reading.delimiter or ",", self._reading.quote), [])
        except csv.Error as error:
            raise DataError(f"row {number} is not a CSV line: {error}") from error

    def _check_names(self, present: Iterable[str], number: int) -> None:
        if not self.names:
            raise DataError(f"rows of an image model are arrays of shape {self._shape}, not named columns")
        absent = [name for name in self.names if name not in present]
        if absent:
            raise DataError(
                f"row {number}: column {absent[0]} is absent ({len(absent)} of {self.width} absent)",
                hint="rule: every column of the schema is present; give None for a missing value",
            )

    def _value(self, row: int, place: int, value: Any) -> float:
        try:
            return self._cells[place](value) if self._cells else _pixel(value)
        except (TypeError, ValueError, OverflowError, ArithmeticError) as error:
            shown, wanted = repr(value)[:60], "a finite number or missing"
            if self._cells:
                wanted = self._rules_of_cells[place].wanted
            raise DataError(
                f"row {row}, column {self._name(place)}: {shown} breaks the rule: {wanted}",
                hint=number_hint(self._name(place), value, self._reading) if isinstance(value, str) else "",
            ) from error


def _is_moved(rule: CellRule) -> bool:
    """Whether numbers of a column are not fed to the graph as they are."""
    return rule.categories is None and bool(rule.rules.sentinels(rule.name) or rule.rules.offset(rule.name))


_pixel = CellRule("", ReadingRules()).reader()
