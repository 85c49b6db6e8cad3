"""From the label column to class numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from fedinfer.config import DataSection
from fedinfer.data.table import Labels
from fedinfer.errors import DataError
from fedinfer.reading import (
    RawTable,
    Spellings,
    is_number,
    number_reader,
    one_spelling,
    plain_numbers,
)

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
    names = data.labels or in_order(
        set(one_spelling(counts, data.reading().of_column(data.label)).values()), data.reading().marks_of(data.label)
    )
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
            f"{raw.number(empty[0])}",
            hint='fill them in, or leave these rows out with [data] unlabelled = "drop"',
        )
    spellings = Spellings(names, data.reading().of_column(data.label))
    index = {cell: spellings.place(cell) for cell in dict.fromkeys(cells) if cell is not None}
    unknown = next((row for row, cell in enumerate(cells) if cell is not None and index[cell] is None), None)
    if unknown is not None:
        raise DataError(
            f"{raw.name}: label column {data.label!r}, row {raw.number(unknown)}: {cells[unknown]!r} is not one of "
            f"[data] labels: {', '.join(names)}"
        )
    numbers = {cell: -1 if place is None else place for cell, place in index.items()}
    return np.array([NO_LABEL if cell is None else numbers[cell] for cell in cells], dtype=np.int64)


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
        unlabelled = {cell for cell in set(cells) if cell in missing or _is_sentinel(cell, data)}
        return [None if cell in unlabelled else cell for cell in cells]
    values = plain_numbers(raw, data.label, data.reading(), "label_above is for numeric labels")
    below, above = data.labels or TWO_CLASSES
    return [None if math.isnan(value) else above if value > data.label_above else below for value in values]


def in_order(found: Collection[str], marks: tuple[str, str] = (".", "")) -> tuple[str, ...]:
    """Different labels in order: numbers by value, else by name.

    Args:
        found: class names as the table has them.
        marks: decimal and thousands mark of numbers.
    """
    if all(is_number(cell, *marks) for cell in found):
        value = number_reader(*marks)
        return tuple(sorted(found, key=lambda cell: (value(cell), cell)))
    return tuple(sorted(found))


def _is_sentinel(cell: str, data: DataSection) -> bool:
    """A number that means missing, where the scenario lists some for the label."""
    sentinels, marks = data.missing_values.get(data.label, ()), data.reading().marks_of(data.label)
    return bool(sentinels) and is_number(cell, *marks) and number_reader(*marks)(cell) in sentinels
