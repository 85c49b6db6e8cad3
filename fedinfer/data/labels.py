"""From the label column to class numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from fedinfer.config import DataSection
from fedinfer.data.columns import is_number, numbers
from fedinfer.data.read import FIRST_ROW, RawTable
from fedinfer.data.table import Labels
from fedinfer.errors import DataError

MOST_CLASSES = 100
TWO_CLASSES = ("0", "1")
NO_LABEL = -1


def class_names(raw: RawTable, data: DataSection) -> tuple[str, ...]:
    """Names of the classes: what the scenario lists, else what the table holds.

    Args:
        raw: the table as text.
        data: label column and rules.

    Raises:
        DataError: fewer than two classes in the table, or more than 100.
    """
    cells = label_cells(raw, data)
    counts = Counter(cell for cell in cells if cell is not None)
    if len(counts) < 2:
        only = f"only class {next(iter(counts))!r}" if counts else "no class at all"
        raise DataError(f"{raw.name}: label column {data.label!r} holds {only} in {len(cells)} rows; two are needed")
    names = data.labels or in_order(counts)
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{raw.name}: label column {data.label!r} has {len(names)} values; at most {MOST_CLASSES} classes",
            hint="make two classes of a number with [data] label_above, or choose another label",
        )
    return names


def read_labels(raw: RawTable, data: DataSection, names: Sequence[str]) -> Labels:
    """Class numbers, shape (n,); -1 where the label is missing and the scenario drops such rows.

    Args:
        raw: the table.
        data: label column and rules.
        names: class names in order.

    Raises:
        DataError: missing labels that the scenario refuses, or a label that is not among the names.
    """
    cells = label_cells(raw, data)
    empty = [row for row, cell in enumerate(cells) if cell is None]
    if empty and data.unlabelled == "refuse":
        raise DataError(
            f"{raw.name}: label column {data.label!r} empty in {len(empty)} of {len(cells)} rows, first in row "
            f"{empty[0] + FIRST_ROW}",
            hint='fill them in, or leave these rows out with [data] unlabelled = "drop"',
        )
    index = {name: number for number, name in enumerate(names)}
    unknown = next((row for row, cell in enumerate(cells) if cell is not None and cell not in index), None)
    if unknown is not None:
        raise DataError(
            f"{raw.name}: label column {data.label!r}, row {unknown + FIRST_ROW}: {cells[unknown]!r} is not one of "
            f"[data] labels: {', '.join(names)}"
        )
    return np.array([NO_LABEL if cell is None else index[cell] for cell in cells], dtype=np.int64)


def label_cells(raw: RawTable, data: DataSection) -> list[str | None]:
    """The class name of every row; None where the label is missing.

    Args:
        raw: the table as text.
        data: label column, `label_above`, and which cells mean missing.

    Raises:
        DataError: no such column, or text in a label that `label_above` compares.
    """
    cells, missing = raw.column("label", data.label), frozenset(data.missing_text)
    if data.label_above is None:
        return [None if cell in missing else cell for cell in cells]
    values = numbers(raw.name, data.label, cells, missing, "label_above is for numeric labels")
    below, above = data.labels or TWO_CLASSES
    return [None if math.isnan(value) else above if value > data.label_above else below for value in values]


def in_order(found: Collection[str]) -> tuple[str, ...]:
    """Different labels in order: numbers by value, else by name.

    Args:
        found: class names as the table has them.
    """
    if all(is_number(cell) for cell in found):
        return tuple(sorted(found, key=lambda cell: (float(cell), cell)))
    return tuple(sorted(found))
