"""CSV files with a label column, as held-out rows."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, DataError
from fedinfer.inference import reader_of
from fedinfer.schema import Schema
from fedinfer.text import tokens


def read_text(path: Path) -> str:
    """The text of a CSV file; "-" is standard input.

    Args:
        path: of the file, or "-".

    Raises:
        ConfigError: when it cannot be read or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", hint="a CSV file in UTF-8 is expected") from error


def read_rows(text: str, schema: Schema) -> npt.NDArray[np.float32]:
    """Rows of CSV text as a model is trained on them, float32 (n, width); texts become token numbers.

    Args:
        text: CSV with a header line.
        schema: of the task; other columns are not read.

    Raises:
        DataError: names row, column, value and rule.
    """
    matrix = reader_of(schema).matrix(text)
    return matrix if schema.text is None else tokens(list(matrix[:, 0]), schema.text)


def read_labelled(path: Path, schema: Schema) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Rows and labels of a CSV file.

    Args:
        path: of the file, or "-" for standard input; UTF-8 with a header line.
        schema: of the task: input columns, label column and class names.

    Returns:
        Inputs float32 (n, width) and classes int64 (n,), or values of a numeric label, float64 (n,).

    Raises:
        DataError: no label column, or a label that the schema does not list or that is no number, with its row.
    """
    text = read_text(path)
    labels = [row.get(schema.label) for row in csv.DictReader(io.StringIO(text))]
    if schema.label_range is not None:
        return read_rows(text, schema), np.array([_value(path, schema, *each) for each in enumerate(labels)])
    for number, label in enumerate(labels):
        if label not in schema.labels:
            raise DataError(
                f"{path}: row {number}, column {schema.label}: {label!r} is no label",
                hint=f"labels are {', '.join(schema.labels[:20])}",
            )
    return read_rows(text, schema), np.array([schema.labels.index(str(label)) for label in labels], np.int64)


def _value(path: Path, schema: Schema, row: int, cell: str | None) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}: row {row}, column {schema.label}: {cell!r} is no number")
    return value
