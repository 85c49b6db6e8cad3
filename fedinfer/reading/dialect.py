"""CSV text as rows of cells, in any common dialect; every fault is named with its row."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

from fedinfer.errors import DataError
from fedinfer.reading.rules import BLANKS, ReadingRules

DELIMITERS = ",;\t|"
_DECLARED = re.compile(r"sep=([^\w\s]|\t)\r?\n", re.IGNORECASE)
_LOOKED_AT = 100
"""Lines from which a delimiter is guessed."""


class Parsed(NamedTuple):
    """A CSV text, cut into cells.

    Args:
        header: names of the columns.
        rows: as many cells each.
        numbers: of the rows in the file; blank lines count.
    """

    header: list[str]
    rows: list[list[str]]
    numbers: list[int]


def parsed(name: str, text: str, rules: ReadingRules, wanted: Sequence[str] = ()) -> Parsed:
    """Header and rows of a CSV text; blank lines are skipped.

    Args:
        name: of the table, for messages.
        text: whole content.
        rules: delimiter, quote, header.
        wanted: columns that a reader needs. Where the rules' delimiter finds none of them and another one finds all,
            the file is of another dialect and that one is taken.

    Returns:
        Names of the columns, rows of as many cells, and the number of each row in the file.

    Raises:
        DataError: no row, a ragged one, a duplicate name, or quotes that do not fit; names the row.
    """
    declared, text = declared_delimiter(text)
    delimiter = declared or _delimiter(text, rules, wanted)
    lines = _numbered(name, records(text, delimiter, rules.quote), 1 + bool(declared))
    start, first = next(((number, row) for number, row in lines if not _is_blank(row)), (0, []))
    if rules.header:
        header = [cell.strip(BLANKS) or f"column_{place}" for place, cell in enumerate(first, start=1)]
    else:
        header = [f"column_{place}" for place in range(1, len(first) + 1)]
    check_header(name, header)
    rows, numbers = ([], []) if rules.header else ([first], [start])
    for number, row in lines:
        if len(row) == len(header):
            rows.append(row)
            numbers.append(number)
        elif not _is_blank(row):
            what = "the header has" if rules.header else "row 1 has"
            raise DataError(
                f"{name}: row {number} has {len(row)} cells, {what} {len(header)}",
                hint=_ragged_hint(row, delimiter, rules),
            )
    return Parsed(header, rows, numbers)


def declared_delimiter(text: str) -> tuple[str, str]:
    """The delimiter that a first line `sep=;` declares, as Excel writes it, and the rest of the text.

    Args:
        text: whole content.

    Returns:
        (delimiter, empty without such a line; the text behind the line).
    """
    found = _DECLARED.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def _delimiter(text: str, rules: ReadingRules, wanted: Sequence[str]) -> str:
    delimiter = rules.delimiter or guess_delimiter(text, rules.quote)
    if rules.delimiter and wanted and not _finds(text, delimiter, rules, wanted):
        other = guess_delimiter(text, rules.quote)
        return other if _finds(text, other, rules, wanted) else delimiter
    return delimiter


def _is_blank(row: Sequence[str]) -> bool:
    """A line of nothing, or of blanks only."""
    return not row or (len(row) == 1 and not row[0].strip(BLANKS))


def records(text: str, delimiter: str, quote: str) -> Any:
    """The csv module's reader for one dialect.

    Args:
        text: whole content.
        delimiter: one character.
        quote: one character; empty: quotes are ordinary.
    """
    lines = io.StringIO(text, newline="")  # `splitlines` would end a line at more characters than CSV does
    if quote:
        return csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=True)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)


def guess_delimiter(text: str, quote: str = '"') -> str:
    """The character that cuts the first lines into equally many cells, the more the better.

    Args:
        text: whole content.
        quote: one character; empty: quotes are ordinary.
    """
    head = "\n".join(text[: 1 << 18].replace("\r\n", "\n").replace("\r", "\n").split("\n", _LOOKED_AT)[:_LOOKED_AT])

    def fit(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in _tolerant(head, delimiter, quote) if row]
        first = widths[0] if widths else 0
        return (sum(width == first for width in widths) / max(len(widths), 1) if first > 1 else 0.0), first

    return max(DELIMITERS, key=fit)


def check_header(name: str, header: Sequence[str]) -> None:
    """Refuse a table without columns or with two of one name.

    Args:
        name: of the table.
        header: names of the columns.

    Raises:
        DataError: with the names.
    """
    if not header:
        raise DataError(f"{name}: empty: no header line")
    twice = [cell for cell, times in Counter(header).items() if times > 1]
    if twice:
        looks = all(any(mark.isdigit() for mark in cell) for cell in twice)
        hint = "set [data] header = false if the first row is data (init: --no-header)" if looks else "rename one"
        raise DataError(f"{name}: duplicate column {', '.join(map(repr, twice[:5]))} in the header", hint=hint)


def _numbered(name: str, reader: Any, first: int) -> Iterator[tuple[int, list[str]]]:
    for number in count(first):
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{name}: row {number} (line {reader.line_num + first - 1}) is not CSV: {error}",
                hint='if quotes are ordinary characters there, set [data] quote = ""',
            ) from error
        yield number, row


def _tolerant(text: str, delimiter: str, quote: str) -> list[list[str]]:
    """Rows as far as they can be read: the end of a sample may cut a quoted cell."""
    rows: list[list[str]] = []
    reader = records(text, delimiter, quote)
    while True:
        try:
            rows.append(next(reader))
        except (StopIteration, csv.Error):
            return rows


def _finds(text: str, delimiter: str, rules: ReadingRules, wanted: Sequence[str]) -> bool:
    head = _tolerant(text[: 1 << 18].split("\n", 1)[0], delimiter, rules.quote)
    return bool(head) and set(wanted) <= {cell.strip(BLANKS) for cell in head[0]}


def _ragged_hint(row: Sequence[str], delimiter: str, rules: ReadingRules) -> str:
    if len(row) == 1 and delimiter not in row[0]:
        return f"the file was cut at {delimiter!r}; another character is set with [data] delimiter"
    if rules.decimal == "," and delimiter == ",":
        return "decimal commas need quotes or another delimiter"
    return "a cell that holds the delimiter needs quotes around it"
