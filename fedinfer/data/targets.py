"""What is predicted: class numbers, or numbers within a public range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.config import DataSection
from fedinfer.data.labels import class_names, read_labels
from fedinfer.data.table import Labels, Targets
from fedinfer.errors import DataError
from fedinfer.reading import RawTable, plain_numbers
from fedinfer.schema import Schema

STRATA = 10
"""Parts of equal size that numeric labels are sorted into, so that splits give everybody the same mix."""


@dataclass(frozen=True, slots=True)
class Target:
    """The label column.

    Args:
        labels: class names in order; empty for a number.
        y: class numbers int64 (n,), or values float64 (n,) within the range; -1 or NaN where the label is missing.
        known: bool (n,), False where the label is missing.
        warnings: one sentence each.
    """

    labels: tuple[str, ...]
    y: Targets
    known: npt.NDArray[np.bool_]
    warnings: tuple[str, ...] = ()


def read_target(raw: RawTable, data: DataSection, names: Sequence[str] = ()) -> Target:
    """Read the label column.

    Args:
        raw: the table as text.
        data: label column and rules; with `label_range` the label is a number.
        names: class names in order; empty: those of the scenario or of the table.

    Raises:
        DataError: missing labels that the scenario refuses, an unknown class, or text where a number is needed.
    """
    if data.label_range is not None:
        return _numbers(raw, data, data.label_range)
    labels = tuple(names) or class_names(raw, data)
    y = read_labels(raw, data, labels)
    return Target(labels, y, y >= 0)


def strata(y: Targets) -> Labels:
    """Classes as they are; numbers as the tenth of the sorted values that they lie in.

    Args:
        y: class numbers int64 (n,), or values float64 (n,).

    Returns:
        int64 (n,).
    """
    if y.dtype.kind != "f":
        return y.astype(np.int64, copy=False)
    if not len(y):
        return np.empty(0, np.int64)
    edges = np.quantile(y, np.linspace(0, 1, STRATA + 1)[1:-1])
    return np.searchsorted(edges, y, side="right").astype(np.int64)


def check_varied(y: Targets, schema: Schema, table: str) -> None:
    """Refuse a label from which nothing can be learned.

    Args:
        y: labels of the rows that are left.
        schema: says whether they are classes.
        table: its name, for the message.

    Raises:
        DataError: there is only one class, or one value.
    """
    if len(np.unique(y)) < 2:
        what = "classes" if schema.label_range is None else "different values of the label"
        raise DataError(f"{table}: rows with both a label and a device hold fewer than two {what}")


def _numbers(raw: RawTable, data: DataSection, bounds: tuple[float, float]) -> Target:
    raw.require("label", data.label)
    values = plain_numbers(raw, data.label, data.reading(), "label_range is for numeric labels")
    known = ~np.isnan(values)
    if data.unlabelled == "refuse" and not known.all():
        raise DataError(
            f"{raw.name}: label column {data.label!r} empty in {int((~known).sum())} of {len(known)} rows, first in "
            f"row {raw.number(int(np.flatnonzero(~known)[0]))}",
            hint='fill them in, or leave these rows out with [data] unlabelled = "drop"',
        )
    low, high = bounds
    outside = int(((values < low) | (values > high)).sum())
    warning = (
        f"{raw.name}: label {data.label!r} lies outside its public range [{low:g}, {high:g}] in {outside} of "
        f"{int(known.sum())} rows; they count as its nearest end"
    )
    unconfirmed = (
        f"The range of label {data.label!r} was read off the data, or nobody has confirmed that it is public. The "
        "privacy statement holds only for a public range."
    )
    said = ((warning,) if outside else ()) + (() if data.ranges_confirmed else (unconfirmed,))
    return Target((), np.clip(values, low, high), known, said)
