"""Table files as rows of a model, with or without a label column."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.inference import array_names, labelled_arrays, reader_of, rows_in_file, rows_kind
from fedinfer.reading import RawTable, Spellings, plain_numbers, read_bytes, read_file
from fedinfer.schema import Schema
from fedinfer.text import tokens


def read_rows_file(path: Path, schema: Schema) -> RawTable:
    """A table file as columns of text, cut into cells by the reading rules of a model.

    Args:
        path: of the file; "-" is standard input, CSV or its gzip.
        schema: of the task.

    Raises:
        DataError: when it cannot be read; names the row.
        MissingExtra: when a package that reads this kind of file is not installed.
    """
    verbatim = schema.text.name if schema.text is not None else ""
    wanted = [column.name for column in schema.columns]
    if str(path) == "-":
        return read_bytes(Path("standard input"), sys.stdin.buffer.read(), schema.reading, verbatim, wanted)
    return read_file(path, schema.reading, verbatim, wanted)


def read_rows(path: Path, schema: Schema) -> npt.NDArray[np.float32]:
    """Rows of a table file as a model is trained on them, float32 (n, width); texts become token numbers.

    Args:
        path: of the file, or "-".
        schema: of the task; other columns are not read.

    Raises:
        DataError: names row, column, value and rule.
    """
    return _rows(read_rows_file(path, schema), schema)


def read_labelled(path: Path, schema: Schema) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Rows and labels of a table file.

    Args:
        path: of the file, or "-" for standard input.
        schema: of the task: input columns, label column and class names.

    Returns:
        Inputs float32 (n, width) and classes int64 (n,), or values of a numeric label, float64 (n,).

    Raises:
        DataError: no label column, or a label that the schema does not list or that is no number, with its row.
    """
    if path.suffix == ".npz":
        return labelled_arrays(path, schema)
    table = read_rows_file(path, schema)
    return _rows(table, schema), labels_of(table, schema)


def labels_of(table: RawTable, schema: Schema) -> npt.NDArray[Any]:
    """Labels of a table.

    Args:
        table: of a file.
        schema: of the task: label column and class names.

    Returns:
        Classes int64 (n,), or values of a numeric label, float64 (n,).

    Raises:
        DataError: no label column, or a label that the schema does not list or that is no number, with its row.
    """
    if schema.label not in table.columns:
        raise DataError(
            f"{table.name}: label column {schema.label} is absent", hint=f"the file has {', '.join(table.columns)}"
        )
    if schema.label_range is not None:
        return _values(table, schema)
    labels, spellings = table.columns[schema.label], Spellings(schema.labels, schema.reading.of_column(schema.label))
    places = {label: spellings.place(label) for label in set(labels)}
    for row, label in enumerate(labels):
        if places[label] is None:
            raise DataError(
                f"{table.place(schema.label, row)}: {label[:60]!r} is no label",
                hint=f"labels are {', '.join(schema.labels[:20])}",
            )
    return np.array([places[label] for label in labels], np.int64)


def has_label(path: Path, schema: Schema) -> bool:
    """Whether a file of rows says what their labels are.

    Args:
        path: of a table or an .npz file; other kinds have none.
        schema: names the label.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix == ".npz":
        return schema.label in array_names(path)
    if path.is_dir() or rows_kind(path):
        return False
    return schema.label in read_rows_file(path, schema).columns


def read_model_rows(path: Path, schema: Schema) -> npt.NDArray[np.float32]:
    """Rows of a file of any kind, float32 (n, width): a table, .npy, .npz, JSON lines, an image, a sound or a folder.

    Args:
        path: of the file, or "-" for a table on standard input.
        schema: of the model.

    Raises:
        DataError: names row, column or tensor, value and rule.
    """
    found = rows_in_file(path, schema)
    return read_rows(path, schema) if found is None else found


def _rows(table: RawTable, schema: Schema) -> npt.NDArray[np.float32]:
    matrix = reader_of(schema).matrix(table)
    return matrix if schema.text is None else tokens(list(matrix[:, 0]), schema.text)


def _values(table: RawTable, schema: Schema) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = plain_numbers(table, schema.label, schema.reading, "the label is a number")
    missing = np.flatnonzero(np.isnan(values))
    if missing.size:
        raise DataError(f"{table.place(schema.label, int(missing[0]))}: the label is missing")
    return values
