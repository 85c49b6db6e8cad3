"""CSV that people open in a spreadsheet: no text of a table or a model becomes a formula there.

A spreadsheet runs a cell that begins with = + - or @, also after a tab or a line end. An apostrophe before it makes it
a text. Separators of other locales (; and tab) end a cell in the middle of ours, so a text is guarded behind those
too. Numbers stay numbers. `plain_cell` takes the apostrophes out again.

Source: OWASP, CSV Injection.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BEGINS = r"(^|[,;|\t\r\n\"])"
_AWAKE = r"(?= *['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])"
"""What a guard goes before: starts of a formula, full-width ones as well, and apostrophes, so that it can be undone."""
_GUARD = re.compile(_BEGINS + _AWAKE)
_GUARDED = re.compile(_BEGINS + "'" + _AWAKE)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def csv_text(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A header and rows as CSV (RFC 4180, lines end with a line feed), every text through `safe_cell`.

    Args:
        fields: column names, in order.
        rows: values by column name; all columns in every row.
    """
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for row in (dict(zip(fields, fields, strict=True)), *rows):
        cells = [safe_cell(row[name]) for name in fields]
        # The module does not quote a lone carriage return, and a reader ends the line there.
        (quoted if any("\r" in str(cell) for cell in cells) else plain).writerow(cells)
    return text.getvalue()


def safe_cell(value: Any) -> Any:
    """A text as a spreadsheet shows it and runs none of it; any other value as it is.

    Args:
        value: of one cell.

    Examples:
        >>> [safe_cell(value) for value in ("ill", "=1+1", "-5", "a;=1", "'so", 0.5)]
        ['ill', "'=1+1", '-5', "a;'=1", "''so", 0.5]
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _GUARD.sub(r"\1'", value)


def plain_cell(text: str) -> str:
    """The text that `safe_cell` was given.

    Args:
        text: of one cell.
    """
    return _GUARDED.sub(r"\1", text)
