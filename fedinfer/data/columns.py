"""From text to numbers, as the schema says: float32 columns, class numbers, device names."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from fedinfer.config import DataSection
from fedinfer.data.read import FIRST_ROW, RawTable
from fedinfer.data.table import Labels
from fedinfer.errors import DataError
from fedinfer.schema import Categorical, Column, Numeric
from fedinfer.types import DeviceId

MOST_CATEGORIES = 50
"""Of a categorical column for which the scenario lists none."""
MOST_CLASSES = 100
LONGEST_ID = 64


def numbers(
    table: str, name: str, cells: Sequence[str], missing: Collection[str], hint: str
) -> npt.NDArray[np.float64]:
    """Read a numeric column; `missing` texts become NaN.

    Args:
        table: table name, for messages.
        name: column name, for messages.
        cells: n texts.
        missing: texts that mean missing.
        hint: what to do about text that is not a number.

    Returns:
        float64, shape (n,).

    Raises:
        DataError: text that is not a number, or an infinite one; names the row.
    """
    try:
        values = np.array([math.nan if cell in missing else float(cell) for cell in cells], dtype=np.float64)
    except ValueError:
        row = next(row for row, cell in enumerate(cells) if cell not in missing and not is_number(cell))
        raise DataError(f"{_place(table, name, row)}: {cells[row]!r} is not a number", hint=hint) from None
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        row = int(infinite[0])
        raise DataError(f"{_place(table, name, row)}: {cells[row]!r} is not a finite number", hint=hint)
    return values


def _place(table: str, name: str, row: int) -> str:
    return f"{table}: column {name!r}, row {row + FIRST_ROW}"


def is_number(cell: str) -> bool:
    """Whether a cell reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def describe_column(raw: RawTable, name: str, data: DataSection) -> Column:
    """The schema of one input column: what the scenario says, else what the data shows (then not confirmed).

    Raises:
        DataError: a numeric column holds text, or no value at all and no range.
    """
    if name in data.categories:
        return Categorical(name, data.categories[name], data.ranges_confirmed)
    if name in data.categorical:
        return Categorical(name, seen_categories(raw.columns[name], data.missing_text, MOST_CATEGORIES), False)
    if name in data.ranges:
        low, high = data.ranges[name]
        return Numeric(name, low, high, data.ranges_confirmed)
    low, high = round_outwards(*_seen_range(raw, name, data))
    return Numeric(name, low, high, False)


def read_column(raw: RawTable, column: Column, data: DataSection) -> npt.NDArray[np.float32]:
    """One column as the model gets it: float32, shape (n,), NaN where missing or not a listed category."""
    cells = raw.columns[column.name]
    if isinstance(column, Categorical):
        index = {category: float(number) for number, category in enumerate(column.categories)}
        return np.array([index.get(cell, math.nan) for cell in cells], dtype=np.float32)
    return _numeric_cells(raw, column.name, data).astype(np.float32)


def seen_categories(cells: Sequence[str], missing: Collection[str], most: int) -> tuple[str, ...]:
    """The `most` most frequent categories of a column, sorted by name; rarer ones will count as missing."""
    counts = Counter(cell for cell in cells if cell not in missing)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return tuple(sorted(category for category, _ in frequent)) or ("(none)",)


def round_outwards(low: float, high: float) -> tuple[float, float]:
    """The range widened to round numbers: to a multiple of a tenth of the power of ten of its width.

    >>> round_outwards(28.0, 77.0)
    (28.0, 77.0)
    >>> round_outwards(103.2, 4711.0)
    (100.0, 4800.0)
    """
    if low == high:
        return low - 0.5, high + 0.5
    exponent = math.floor(math.log10(high - low)) - 1
    step = 10.0**exponent
    digits = max(0, -exponent)
    return round(math.floor(low / step) * step, digits), round(math.ceil(high / step) * step, digits)


def read_labels(raw: RawTable, data: DataSection) -> tuple[Labels, tuple[str, ...]]:
    """Class numbers and class names. Rows without a label have class -1.

    Raises:
        DataError: missing labels where the scenario refuses them, a label that is not listed, fewer than two classes.
    """
    cells = raw.column("label", data.label)
    missing = set(data.missing_text)
    empty = [row for row, cell in enumerate(cells, start=FIRST_ROW) if cell in missing]
    if empty and data.unlabelled == "refuse":
        raise DataError(
            f"{raw.name}: label column {data.label!r} empty in {len(empty)} of {len(cells)} rows, row {empty[0]} first",
            hint='fill them in, or leave these rows out with [data] unlabelled = "drop"',
        )
    if data.label_above is not None:
        cells = _above(raw, data, data.label_above)
    names = data.labels or class_names({cell for cell in cells if cell not in missing})
    _check_classes(raw.name, data, cells, names, missing)
    index = {name: number for number, name in enumerate(names)}
    return np.array([-1 if cell in missing else index[cell] for cell in cells], dtype=np.int64), names


def device_ids(names: Sequence[str]) -> dict[str, DeviceId]:
    """Safe ids for names of holders: ASCII letters, digits, `.`, `_`, `-`, at most 64 characters, all different.

    >>> device_ids(["VA Long Beach", "Basel"])
    {'VA Long Beach': 'VA-Long-Beach', 'Basel': 'Basel'}
    """
    plain = {name: re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") for name in names}
    uses = Counter(plain.values())
    return {
        name: short if short and uses[short] == 1 and len(short) <= LONGEST_ID else f"{short[:48]}-{_digest(name)}"
        for name, short in plain.items()
    }


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _numeric_cells(raw: RawTable, name: str, data: DataSection) -> npt.NDArray[np.float64]:
    hint = f"add {name!r} to [data] categorical or drop, or its text for missing to [data] missing_text"
    values = numbers(raw.name, name, raw.columns[name], frozenset(data.missing_text), hint)
    values[np.isin(values, data.missing_values.get(name, ()))] = math.nan
    return values


def _seen_range(raw: RawTable, name: str, data: DataSection) -> tuple[float, float]:
    values = _numeric_cells(raw, name, data)
    if np.isnan(values).all():
        raise DataError(f"{raw.name}: column {name!r} has no value in any row", hint="add it to [data] drop")
    return float(np.nanmin(values)), float(np.nanmax(values))


def _above(raw: RawTable, data: DataSection, threshold: float) -> list[str]:
    hint = "label_above is for numeric labels"
    values = numbers(raw.name, data.label, raw.columns[data.label], frozenset(data.missing_text), hint)
    below, above = data.labels or ("0", "1")
    return ["" if math.isnan(value) else above if value > threshold else below for value in values]


def class_names(found: Collection[str]) -> tuple[str, ...]:
    """Different labels in order: numbers by value, else by name."""
    if all(is_number(cell) for cell in found):
        return tuple(sorted(found, key=lambda cell: (float(cell), cell)))
    return tuple(sorted(found))


def _check_classes(
    table: str, data: DataSection, cells: Sequence[str], names: Sequence[str], missing: Collection[str]
) -> None:
    counts = Counter(cell for cell in cells if cell not in missing)
    unknown = sorted(set(counts) - set(names))
    if unknown:
        raise DataError(f"{table}: label column {data.label!r} holds {unknown[0]!r}, which [data] labels does not list")
    if len(counts) < 2:
        only = f"only class {next(iter(counts))!r}" if counts else "no class at all"
        raise DataError(f"{table}: label column {data.label!r} holds {only} in {len(cells)} rows; two are needed")
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{table}: label column {data.label!r} has {len(names)} different values; at most {MOST_CLASSES} classes",
            hint="make two classes of a number with [data] label_above, or choose another label",
        )
