"""From text to numbers, as the schema says: float32 columns and device names."""

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
from fedinfer.errors import DataError
from fedinfer.schema import Categorical, Column, Numeric, Schema
from fedinfer.text import MOST_CHARACTERS, tokens
from fedinfer.types import DeviceId

MOST_CATEGORIES = 50
"""Categories of a column for which the scenario lists none; rarer ones count as missing."""
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
    """Whether a cell reads as a number.

    Args:
        cell: text as the table has it; `inf` and `nan` are numbers.
    """
    try:
        float(cell)
    except ValueError:
        return False
    return True


def describe_column(raw: RawTable, name: str, data: DataSection) -> Column:
    """The schema of one input column: what the scenario says, else what the data shows (then not confirmed).

    Args:
        raw: the table as text.
        name: an input column of the table.
        data: what the scenario says about columns.

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
    """One column as the model gets it: float32, shape (n,), NaN where missing or not a listed category.

    Args:
        raw: the table as text, n rows.
        column: of the schema.
        data: which cells and numbers mean missing.
    """
    cells = raw.columns[column.name]
    if isinstance(column, Categorical):
        index = {category: float(number) for number, category in enumerate(column.categories)}
        return np.array([index.get(cell, math.nan) for cell in cells], dtype=np.float32)
    return _numeric_cells(raw, column.name, data).astype(np.float32)


def read_inputs(raw: RawTable, schema: Schema, data: DataSection) -> npt.NDArray[np.float32]:
    """All input columns as the model is trained on them: float32, shape (n, width).

    Args:
        raw: the table as text, n rows.
        schema: which columns, in which order.
        data: which cells and numbers mean missing.

    Raises:
        DataError: text that is not a number, or a text that is too long; names the row.
    """
    if schema.text is not None:
        return tokens(_texts(raw, schema.text.name), schema.text)
    return np.stack([read_column(raw, column, data) for column in schema.columns], axis=1)


def _texts(raw: RawTable, name: str) -> list[str]:
    """Texts as a device takes them. No cell means `missing`: it would be a word there."""
    cells = raw.columns[name]
    row = next((row for row, cell in enumerate(cells) if len(cell) > MOST_CHARACTERS), None)
    if row is not None:
        raise DataError(
            f"{_place(raw.name, name, row)}: a text of {len(cells[row]):,} characters, at most {MOST_CHARACTERS:,}",
            hint="cut it: a model reads the first words only, see [data] text_length",
        )
    return cells


def seen_categories(cells: Sequence[str], missing: Collection[str], most: int) -> tuple[str, ...]:
    """The `most` most frequent categories of a column, sorted by name; rarer ones will count as missing.

    Args:
        cells: of one column.
        missing: texts that mean missing.
        most: how many to keep, >= 1.

    Returns:
        ("(none)",) when every cell is missing.
    """
    counts = Counter(cell for cell in cells if cell not in missing)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return tuple(sorted(category for category, _ in frequent)) or ("(none)",)


def round_outwards(low: float, high: float) -> tuple[float, float]:
    """The range widened to round numbers: to a multiple of a tenth of the power of ten of its width.

    Args:
        low: finite.
        high: finite, >= low; equal ones are widened by one half each.

    Examples:
        >>> round_outwards(28.0, 77.0)
        (28.0, 77.0)
        >>> round_outwards(103.2, 4711.0)
        (100.0, 4800.0)
    """
    if low == high:
        return low - 0.5, high + 0.5
    exponent = math.floor(math.log10(high - low)) - 1
    step = 10.0**exponent
    if step == 0.0:  # narrower than the smallest normal number: there is nothing rounder than the values themselves
        return low, high
    digits = max(0, -exponent)
    round_low, round_high = math.floor(low / step) * step, math.ceil(high / step) * step
    # Division and rounding may lose the last bit of a bound; the range must hold the data all the same.
    return min(round(round_low, digits), low), max(round(round_high, digits), high)


def device_ids(names: Sequence[str]) -> dict[str, DeviceId]:
    """Safe ids for names of holders: ASCII letters, digits, `.`, `_`, `-`, at most 64 characters, all different.

    Args:
        names: different names as the table has them; what cannot be kept gets a digest of the name.

    Returns:
        Id by name.

    Examples:
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
