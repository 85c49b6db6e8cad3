"""A table as text: columns of cells, before any rule has read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.reading.cells import CellRule, float32_of, plain_number_reader
from fedinfer.reading.numbers import is_number
from fedinfer.reading.packed import PackedColumns
from fedinfer.reading.rules import BLANKS, ReadingRules

FIRST_ROW = 2
"""Rows are counted as a spreadsheet does: the header is row 1."""


@dataclass(frozen=True, slots=True)
class RawTable:
    """Columns of text, stripped of blanks but for a column of free text; empty text where a cell is empty.

    Args:
        name: file or table name, for messages.
        columns: cells by column name, all of the same length.
        first_row: number of the first row of cells in the file.
        notes: what a reader must know, for instance a guessed encoding.
        numbers: of the rows in the file, where blank lines lie between them; empty: they follow on the first.
    """

    name: str
    columns: Mapping[str, Sequence[str]]
    first_row: int = FIRST_ROW
    notes: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows."""
        if isinstance(self.columns, PackedColumns):
            return self.columns.rows
        return len(next(iter(self.columns.values()), []))

    def column(self, key: str, name: str) -> Sequence[str]:
        """Cells of column `name`, which the scenario asks for under `key`.

        Args:
            key: of the [data] section, for the message.
            name: of the column.

        Raises:
            DataError: no such column.
        """
        self.require(key, name)
        return self.columns[name]

    def require(self, key: str, name: str) -> None:
        """Refuse a table without column `name`; its cells are not looked at.

        Args:
            key: of the [data] section, for the message.
            name: of the column.

        Raises:
            DataError: no such column.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.name}: [data] {key} = {name!r}: no such column", hint=_column_hint(list(self.columns))
            )

    def place(self, name: str, row: int) -> str:
        """Where a cell is, for messages.

        Args:
            name: of the column.
            row: counted from 0.
        """
        return f"{self.name}: column {name!r}, row {self.number(row)}"

    def number(self, row: int) -> int:
        """The number of a row in the file.

        Args:
            row: counted from 0.
        """
        return self.numbers[row] if self.numbers else row + self.first_row


def plain_numbers(raw: RawTable, name: str, rules: ReadingRules, hint: str = "") -> npt.NDArray[np.float64]:
    """A column of numbers in the unit of the table, NaN where missing; the offset is not taken off.

    Args:
        raw: n rows.
        name: of the column.
        rules: of the table.
        hint: what to do about text that is not a number.

    Returns:
        float64, shape (n,).

    Raises:
        DataError: text that is not a number, or not a finite one; names the row.
    """
    if isinstance(raw.columns, PackedColumns):
        packed = raw.columns.numbers(name, rules)
        if packed is not None:
            packed[np.isin(packed, rules.sentinels(name))] = np.nan
            return packed
    reader, cells = plain_number_reader(name, rules), raw.columns[name]
    values = np.empty(len(cells), np.float64)
    for row, cell in enumerate(cells):
        try:
            values[row] = reader(cell)
        except (ValueError, ArithmeticError) as error:
            what = "a time" if name in dict(rules.times) else "a finite number" if _is_infinite(cell) else "a number"
            raise DataError(
                f"{raw.place(name, row)}: {cell[:60]!r} is not {what}", hint=number_hint(name, cell, rules) or hint
            ) from error
    return values


def read_column(raw: RawTable, rule: CellRule, hint: str = "") -> npt.NDArray[np.float32]:
    """One column as the model gets it: float32, shape (n,), NaN where missing or not a listed category.

    Args:
        raw: the table as text, n rows.
        rule: of the column.
        hint: what to do about text that is not a number.

    Raises:
        DataError: text that is not a number, or a number too large for float32; names the row.
    """
    if rule.categories is not None:
        return _category_codes(raw, rule)
    values = plain_numbers(raw, rule.name, rule.rules, hint) - rule.rules.offset(rule.name)
    with np.errstate(over="ignore"):
        rounded = float32_of(values)
    infinite = np.flatnonzero(np.isinf(rounded))
    if infinite.size:
        row = int(infinite[0])
        cell = raw.columns[rule.name][row]
        raise DataError(f"{raw.place(rule.name, row)}: {cell[:60]!r} is too large for float32", hint=hint)
    return rounded


def number_hint(column: str, cell: str, rules: ReadingRules) -> str:
    """The setting under which a text would be a number; empty: none.

    Args:
        column: its name.
        cell: that is no number under the rules.
        rules: that were used.
    """
    for marks in (".", ",", ".,", ",.", ". ", ", ", ".'", ",'"):
        if (marks[0], marks[1:]) != rules.marks_of(column) and is_number(cell.strip(BLANKS), marks[0], marks[1:]):
            thousands = f' and thousands = "{marks[1:]}"' if marks[1:] else ""
            return f'if it is a number, set [data] decimal = "{marks[0]}"{thousands}, or marks.{column} = "{marks}"'
    return ""


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether the names of a header are more likely one more row: two or more numbers, and at least half of the names.

    Args:
        names: of all columns.
    """
    numeric = sum(is_number(name) for name in names)
    return numeric >= 2 and numeric >= len(names) / 2


def _column_hint(names: list[str]) -> str:
    """The columns that there are; where one name holds another delimiter or all are numbers, what that may mean."""
    listed = f"columns: {', '.join(names)}"
    if looks_like_data(names):
        return f"{listed}: the first row looks like data; set [data] header = false (init: --no-header)"
    if len(names) == 1 and any(mark in names[0] for mark in ",;\t|"):
        return f"{listed}: the file has another delimiter, see [data] delimiter"
    return listed


def _category_codes(raw: RawTable, rule: CellRule) -> npt.NDArray[np.float32]:
    """Each different text is looked up once."""
    reader = rule.reader()
    if isinstance(raw.columns, PackedColumns):
        texts, codes = raw.columns.coded(rule.name)
        known = np.array([reader(text) for text in texts], np.float32)
        return known[codes] if len(known) else np.full(len(codes), np.nan, np.float32)
    cells = raw.columns[rule.name]
    known_texts = {text: reader(text) for text in dict.fromkeys(cells)}
    return np.array([known_texts[cell] for cell in cells], np.float32)


def _is_infinite(cell: str) -> bool:
    try:
        return abs(float(cell)) == float("inf")
    except ValueError:
        return False
