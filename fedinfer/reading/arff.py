"""ARFF, the table format of Weka: attributes with types, then rows; `?` is missing.

Source: Weka, ARFF (developer version), dense data.
"""

from __future__ import annotations

import csv
import re

from fedinfer.errors import DataError
from fedinfer.reading.dialect import check_header
from fedinfer.reading.rules import BLANKS

_NAME = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s{]+"
_ATTRIBUTE = re.compile(rf"@attribute\s+({_NAME})\s*(.+)", re.IGNORECASE)


def read_arff(name: str, text: str) -> dict[str, list[str]]:
    """Columns of text of an ARFF file.

    Args:
        name: of the file, for messages.
        text: whole content.

    Raises:
        DataError: no attributes, sparse rows, or a row of another length; names the line.
    """
    header, rows, in_data = list[str](), list[list[str]](), False
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(BLANKS)
        if not stripped or stripped.startswith("%"):
            continue
        if in_data:
            rows.append(_row(name, number, stripped, len(header)))
        elif stripped.lower().startswith("@data"):
            in_data = True
        elif stripped.lower().startswith("@attribute"):
            header.append(_attribute(name, number, stripped))
        elif not stripped.lower().startswith("@relation"):
            raise DataError(
                f"{name}: line {number}: {stripped[:60]!r} is no ARFF", hint="a .csv file by another ending?"
            )
    check_header(name, header)
    return {column: [row[place] for row in rows] for place, column in enumerate(header)}


def _attribute(name: str, number: int, line: str) -> str:
    found = _ATTRIBUTE.match(line)
    if found is None:
        raise DataError(f"{name}: line {number}: {line[:60]!r} names no attribute and type")
    return _bare(found[1])


def _row(name: str, number: int, line: str, width: int) -> list[str]:
    if line.startswith("{"):
        raise DataError(f"{name}: line {number}: sparse ARFF is not read", hint="save it as CSV or as dense ARFF")
    quote = '"' if '"' in line and "'" not in line else "'"
    try:
        cells = next(csv.reader([line], quotechar=quote, escapechar="\\", skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise DataError(f"{name}: line {number} cannot be read: {error}") from error
    if len(cells) != width:
        raise DataError(f"{name}: line {number} has {len(cells)} cells, there are {width} attributes")
    return [cell.strip(BLANKS) for cell in cells]


def _bare(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] in "'\"" else text
