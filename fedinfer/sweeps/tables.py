"""Rows as files and data frames: results.csv always, results.parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedinfer.errors import StoreError
from fedinfer.private_files import only_owner
from fedinfer.sweeps.folder import PART, write_text
from fedinfer.types import Json

CSV, PARQUET = "results.csv", "results.parquet"


def write_tables(folder: Path, rows: Sequence[Json], columns: Sequence[str]) -> list[Path]:
    """Write the rows as files, each whole or not at all.

    Args:
        folder: of the sweep.
        rows: one per cell.
        columns: in their order.

    Returns:
        The files; without pyarrow only the CSV.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        write_text(folder / CSV, csv_of(rows, columns))
        files = [folder / CSV]
        if _write_parquet(folder / PARQUET, rows, columns):
            files.append(folder / PARQUET)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}", hint="free space, or choose another --out") from error
    return files


def csv_of(rows: Sequence[Json], columns: Sequence[str]) -> str:
    """Rows as CSV, RFC 4180: what is missing is empty, infinity is inf.

    Args:
        rows: one per line.
        columns: in their order.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def frame(rows: Sequence[Json], columns: Sequence[str]) -> Any:
    """A pandas DataFrame, or the list of rows without pandas.

    Args:
        rows: one per line.
        columns: in their order.
    """
    listed = [{name: row.get(name) for name in columns} for row in rows]
    try:
        import pandas
    except ImportError:
        return listed
    return pandas.DataFrame(listed, columns=list(columns))


def _write_parquet(path: Path, rows: Sequence[Json], columns: Sequence[str]) -> bool:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return False
    arrays = {name: _column([row.get(name) for row in rows]) for name in columns}
    temporary = path.with_name(path.name + PART)
    with open(temporary, "wb", opener=only_owner) as file:
        pyarrow.parquet.write_table(pyarrow.table(arrays), file)
    os.replace(temporary, path)
    return True


def _column(values: list[Any]) -> list[Any]:
    """One type per column: numbers, or texts where anything is none."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        whole = all(value is None or isinstance(value, int) for value in values)
        return values if whole else [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
