"""Rows of a model that was made elsewhere: named tensors, laid side by side as one float32 row, and checked.

Accepted: arrays of whole rows, mappings from tensor names to arrays or nested lists (of one row, or with a leading axis
of rows), sequences of either, tables and data frames with a column per value (`TensorSpec.value_names`). Rules:

* every tensor that is not state must be there; state that is absent is zero, as at the beginning of a stream;
* every value is a finite number; a whole one is whole and within its public range;
* a name that the model does not have is refused, because nobody would miss what it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.inference.predict.rows import NUMBERS, FloatArray
from fedinfer.reading import LARGEST, CellRule, RawTable, read_column, read_text
from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec, bounds, places, total

MOST_NAMED = 4096
"""Values of a row up to which each has a name of its own, as a column of a table."""
_BLOCK_VALUES = 2**18


class TensorReader:
    """Turns named tensors into rows for one schema; the counterpart of `RowReader`.

    Args:
        schema: with inputs.
    """

    def __init__(self, schema: Schema) -> None:
        self.width = schema.width
        self.complete = True
        self.tensors = schema.inputs
        fed = {answer.feeds for answer in schema.answers if answer.feeds}
        self.asked = tuple(tensor for tensor in schema.inputs if tensor.name not in fed)
        named = total(self.asked) <= MOST_NAMED
        self.names = tuple(name for tensor in self.asked for name in tensor.value_names()) if named else ()
        self._reading = schema.reading
        self._places = places(schema.inputs)
        self._asked_places = np.concatenate([np.arange(self.width)[self._places[t.name]] for t in self.asked])
        low, high = bounds(schema.inputs)
        whole = np.repeat([tensor.whole for tensor in schema.inputs], [tensor.size for tensor in schema.inputs])
        self.category_mask = whole.astype(np.float32)
        self.low = np.where(whole, low, -LARGEST).astype(np.float32)
        self.high = np.where(whole, high, LARGEST).astype(np.float32)
        self._whole = whole

    @property
    def has_categories(self) -> bool:
        """True when some value is a whole number, which `category_mask` marks."""
        return bool(self._whole.any())

    def matrix(self, rows: Any) -> FloatArray:
        """Rows as a checked float32 array (n, width).

        Args:
            rows: see the module.

        Raises:
            DataError: names row, tensor, value and rule.
        """
        matrix = self._laid_out(rows)
        self.check(matrix)
        return matrix

    def one(self, row: Any) -> FloatArray:
        """One row as a checked float32 array (1, width).

        Args:
            row: an array, a mapping, a sequence of values or one CSV line without header.

        Raises:
            DataError: names tensor, value and rule; also for more than one row.
        """
        matrix = self.matrix(_cells(row) if isinstance(row, str) else row)
        if len(matrix) != 1:
            raise DataError(f"{len(matrix)} rows, expected one of {total(self.asked)} values")
        return matrix

    def blank(self, rows: int) -> FloatArray:
        """Rows of zeros, or of what is nearest to zero in the range of whole values, float32 (rows, width).

        Args:
            rows: how many, >= 0.
        """
        return np.tile(np.clip(np.zeros(self.width, np.float32), self.low, self.high), (rows, 1))

    def check(self, matrix: FloatArray, first: int = 0) -> None:
        """Check rows value by value, in bulk.

        Args:
            matrix: float32 (n, width).
            first: number of its first row, for the message.

        Raises:
            DataError: names the first bad value.
        """
        step = max(1, _BLOCK_VALUES // self.width)
        for start in range(0, len(matrix), step):
            block = matrix[start : start + step]
            good = (block >= self.low) & (block <= self.high)  # false for NaN
            if self.has_categories:
                good &= ~self._whole | (np.rint(block) == block)
            if not good.all():
                row, place = (int(i[0]) for i in np.nonzero(~good))
                self._refuse(first + start + row, place, float(block[row, place]))

    def shaped(self, rows: npt.NDArray[Any]) -> FloatArray:
        """An array of numbers as float32 (n, width) that nobody has checked; no copy when it is one already.

        Args:
            rows: one row or many, with or without state; a model with one tensor also takes that tensor's shape.

        Raises:
            DataError: another shape or dtype.
        """
        if rows.dtype.kind not in NUMBERS:
            raise DataError(f"array of dtype {rows.dtype}, expected numbers")
        asked, alone = total(self.asked), self.asked[0].shape if len(self.asked) == 1 else None
        if rows.shape in ((asked,), (self.width,)) or (rows.shape == alone and alone != ()):
            rows = rows.reshape(1, -1)
        elif alone is not None and rows.ndim > 2 and rows.shape[1:] == alone:
            rows = rows.reshape(len(rows), -1)
        if rows.ndim != 2 or rows.shape[1] not in (asked, self.width):
            raise DataError(f"array of shape {rows.shape}, expected (rows, {asked})", hint=self._wanted())
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which `check` refuses by name
            found = np.ascontiguousarray(rows, np.float32)
        if found.shape[1] == self.width:
            return found
        matrix = np.zeros((len(found), self.width), np.float32)
        matrix[:, self._asked_places] = found
        return matrix

    def without_sentinels(self, matrix: FloatArray) -> None:
        """Nothing stands for a missing value in a tensor.

        Args:
            matrix: float32 (n, width).
        """

    def _laid_out(self, rows: Any) -> FloatArray:
        if isinstance(rows, str):
            rows = read_text("CSV text", rows, self._reading, wanted=self.names)
        if isinstance(rows, RawTable):
            return self._table(rows)
        if isinstance(rows, np.ndarray) and rows.dtype.kind in NUMBERS:
            return self.shaped(rows)
        if isinstance(rows, Mapping):
            return self._mapping(rows, 0)
        if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):
            return self._by_value({str(name): _numbers(rows[name], str(name)) for name in rows.columns})
        if isinstance(rows, Iterable) and not isinstance(rows, bytes | bytearray | memoryview):
            return self._sequence(list(rows))
        raise DataError(f"rows of type {type(rows).__name__}", hint="pass arrays, mappings, a table or a data frame")

    def _sequence(self, rows: list[Any]) -> FloatArray:
        if not rows:
            return self.blank(0)
        if any(isinstance(row, Mapping) for row in rows):
            return np.concatenate([self._mapping(row, number) for number, row in enumerate(rows)])
        return self.shaped(_numbers(rows, "a row"))

    def _mapping(self, row: Any, number: int) -> FloatArray:
        if not isinstance(row, Mapping):
            raise DataError(f"row {number} is of type {type(row).__name__}, expected a mapping as the others are")
        if self.names and not set(row) & set(self._places) and set(row) & set(self.names):
            return self._by_value({str(name): np.atleast_1d(_numbers(cell, str(name))) for name, cell in row.items()})
        unknown = sorted(ascii(name)[:60] for name in row if name not in self._places)
        absent = [tensor.name for tensor in self.asked if tensor.name not in row]
        if unknown or absent:
            what = f"no input is called {unknown[0]}" if unknown else f"input {absent[0]} is absent"
            raise DataError(f"row {number}: {what}", hint=self._wanted())
        parts = {t.name: self._tensor(t, row[t.name], number) for t in self.tensors if t.name in row}
        counts = {len(part) for part in parts.values()}
        if len(counts) != 1:
            raise DataError(f"row {number}: the tensors have different numbers of rows: {sorted(counts)}")
        matrix = np.zeros((counts.pop(), self.width), np.float32)
        for name, part in parts.items():
            matrix[:, self._places[name]] = part
        return matrix

    def _tensor(self, tensor: TensorSpec, value: Any, number: int) -> FloatArray:
        """Values (rows, size) of one tensor."""
        found = _numbers(value, tensor.name)
        if found.shape != tensor.shape and found.shape[1:] != tensor.shape:
            raise DataError(
                f"row {number}: input {tensor.name} has shape {found.shape}, expected {tensor.shape} "
                f"or (rows, {', '.join(map(str, tensor.shape))})"
            )
        with np.errstate(over="ignore"):
            return found.reshape(-1, tensor.size).astype(np.float32)

    def _table(self, table: RawTable) -> FloatArray:
        self._check_columns(table.columns, table.name)
        rule = {name: CellRule(name, self._reading) for name in self.names}
        return self._by_value({name: read_column(table, rule[name], "rule: a finite number") for name in self.names})

    def _by_value(self, columns: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
        self._check_columns(columns, "the row")
        with np.errstate(over="ignore"):
            return self.shaped(np.stack([columns[name].reshape(-1) for name in self.names], axis=1).astype(np.float32))

    def _check_columns(self, columns: Iterable[str], where: str) -> None:
        if not self.names:
            raise DataError(f"{where}: a row of {total(self.asked)} values is no table", hint=self._wanted())
        present = set(columns)
        absent = [name for name in self.names if name not in present]
        if absent:
            raise DataError(f"{where}: column {absent[0]} is absent ({len(absent)} absent)", hint=self._wanted())

    def _refuse(self, row: int, place: int, value: float) -> NoReturn:
        tensor = next(t for t in self.tensors if place < self._places[t.name].stop)
        name = tensor.value_names()[place - self._places[tensor.name].start]
        rule = f"a whole number from {tensor.low:g} to {tensor.high:g}" if tensor.whole else "a finite number"
        raise DataError(f"row {row}, {name}: {value:g} breaks the rule: {rule}")

    def _wanted(self) -> str:
        return "the model takes " + ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in self.asked[:8])


def _numbers(value: Any, name: str) -> npt.NDArray[Any]:
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{ascii(name)[:60]}: not an array: {str(error)[:80]}") from error
    if found.dtype.kind not in NUMBERS:
        raise DataError(f"{ascii(name)[:60]}: values of type {found.dtype}, expected numbers of one shape")
    return found


def _cells(line: str) -> list[float]:
    try:
        return [float(cell) for cell in line.split(",")]
    except ValueError as error:
        raise DataError(f"row {line[:60]!r} is not a line of numbers with commas between them") from error
