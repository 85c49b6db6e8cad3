"""The table of a scenario as columns of text; `fedinfer.reading` knows the kinds of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedinfer.errors import DataError
from fedinfer.reading import DEFAULT_RULES, RawTable, ReadingRules, read_file


def read_table(
    path: Path, rules: ReadingRules = DEFAULT_RULES, verbatim: str = "", wanted: Sequence[str] = ()
) -> RawTable:
    """Read a table file: CSV, its gzip, Parquet, Arrow, Excel or ARFF.

    Args:
        path: the file.
        rules: how a CSV is cut into cells.
        verbatim: column whose cells are not stripped, as a device does not strip them; empty: none.
        wanted: columns that the caller needs, for a message about the delimiter.

    Raises:
        DataError: missing, unreadable, ragged, duplicate header, fewer than two rows.
        MissingExtra: the kind of file needs a package that is not installed.
    """
    table = read_file(path, rules, verbatim, wanted)
    if table.rows < 2:
        raise DataError(f"{path}: {table.rows} rows; at least 2 are needed, one to train and one to test")
    return table
