"""Texts of any usual kind to what a graph of texts takes, checked against the schema.

Accepted: sequences of texts, arrays of texts, pandas data frames, dicts, CSV text with a header. Rules:

* the text column must be there; other columns are ignored;
* a text is a `str` of at most `MOST_CHARACTERS` characters that UTF-8 can write; what it says is not judged;
* None and NaN are the empty text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.printable import is_unicode
from fedinfer.reading import DEFAULT_RULES, RawTable, ReadingRules, read_text
from fedinfer.schema import Text
from fedinfer.text import MOST_CHARACTERS, column_of

TextArray = npt.NDArray[Any]
RULE = f"a text of at most {MOST_CHARACTERS:,} characters in valid Unicode"


class TextReader:
    """Turns rows into arrays of texts for one text column; the counterpart of `RowReader`.

    Args:
        column: of the schema.
        reading: how a CSV text is cut into cells.
    """

    width = 1

    def __init__(self, column: Text, reading: ReadingRules = DEFAULT_RULES) -> None:
        self.names = (column.name,)
        self._name = column.name
        self._reading = reading

    def matrix(self, rows: Any) -> TextArray:
        """Rows as checked texts, object (n, 1).

        Args:
            rows: sequence or array of texts, data frame, dict or dicts, or CSV text with a header.

        Raises:
            DataError: names row, column, value and rule.
        """
        if isinstance(rows, str):
            rows = read_text("CSV text", rows, self._reading, verbatim=self._name, wanted=self.names)
        if isinstance(rows, RawTable):
            rows = self._cells_of(rows)
        elif hasattr(rows, "columns") and hasattr(rows, "__getitem__"):
            rows = self._column(rows)
        elif isinstance(rows, Mapping):
            rows = [rows]
        elif not isinstance(rows, Iterable) or isinstance(rows, bytes | bytearray | memoryview):
            raise DataError(f"rows of type {type(rows).__name__}", hint="pass texts, a data frame, CSV text or dicts")
        return column_of([self._text(number, self._cell(number, row)) for number, row in enumerate(rows)])

    def one(self, row: Any) -> TextArray:
        """One text as a checked array, object (1, 1).

        Args:
            row: a text, alone, in a dict or in a sequence of one.

        Raises:
            DataError: names column, value and rule.
        """
        return column_of([self._text(0, self._cell(0, row))])

    def blank(self, rows: int) -> TextArray:
        """Empty texts, object (rows, 1).

        Args:
            rows: how many, >= 0.
        """
        return column_of([""] * rows)

    def _cells_of(self, table: RawTable) -> Sequence[str]:
        if self._name not in table.columns:
            raise DataError(
                f"{table.name}: column {self._name} is absent",
                hint=f"the file has {', '.join(list(table.columns)[:20])}",
            )
        return table.columns[self._name]

    def _column(self, frame: Any) -> list[Any]:
        if self._name not in {str(name) for name in frame.columns}:
            self._absent(0)
        return list(frame[self._name])

    def _cell(self, number: int, row: Any) -> Any:
        if isinstance(row, Mapping):
            return row[self._name] if self._name in row else self._absent(number)
        if isinstance(row, list | tuple | np.ndarray):
            cells = np.ravel(row).tolist() if isinstance(row, np.ndarray) else row
            if len(cells) != 1:
                raise DataError(f"row {number} has {len(cells)} values, expected 1: {self._name}")
            return cells[0]
        return row

    def _absent(self, number: int) -> Any:
        raise DataError(
            f"row {number}: column {self._name} is absent",
            hint="rule: the text column of the schema is present; give None for no text",
        )

    def _text(self, number: int, value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, str) and len(value) <= MOST_CHARACTERS and is_unicode(value):
            return str(value)
        size = f" ({len(value):,} characters)" if isinstance(value, str) else f" ({type(value).__name__})"
        raise DataError(f"row {number}, column {self._name}: {repr(value)[:60]}{size} breaks the rule: {RULE}")
