"""From text to numbers, as the schema says: float32 columns and device names."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fedinfer.config import DataSection
from fedinfer.errors import DataError
from fedinfer.reading import (
    RawTable,
    ReadingRules,
    offset_for,
    one_spelling,
    plain_numbers,
    read_column,
    told_apart,
)
from fedinfer.schema import Categorical, Column, Numeric, Schema
from fedinfer.text import MOST_CHARACTERS, tokens
from fedinfer.types import DeviceId

MOST_CATEGORIES = 50
"""Categories of a column for which the scenario lists none; rarer ones count as missing."""
LONGEST_ID = 64


def describe_columns(raw: RawTable, names: Sequence[str], data: DataSection) -> tuple[tuple[Column, ...], ReadingRules]:
    """The schema of input columns: what the scenario says, else what the data shows (then not confirmed).

    Args:
        raw: the table as text.
        names: input columns of the table.
        data: what the scenario says about columns.

    Returns:
        (columns, reading rules with the offsets of the columns).

    Raises:
        DataError: a numeric column holds text, or no value at all and no range.
    """
    rules = data.reading()
    ranges = {
        name: _range(raw, name, data, rules) for name in names if not {name} & {*data.categories, *data.categorical}
    }
    confirmed = {name: name in data.ranges and data.ranges_confirmed for name in ranges}
    listed = {name: _categories(raw, name, data, rules) for name in names if name not in ranges}
    numbers, rules = numeric_columns(ranges, confirmed, data.breaks, rules)
    return tuple(numbers[name] if name in numbers else listed[name] for name in names), rules


def numeric_columns(
    ranges: Mapping[str, tuple[float, float]],
    confirmed: Mapping[str, bool],
    breaks: Mapping[str, tuple[float, ...]],
    rules: ReadingRules,
) -> tuple[dict[str, Numeric], ReadingRules]:
    """Columns of numbers as rows have them: less an offset where float32 could not tell the values of a range apart.

    Args:
        ranges: (low, high) of each column, in the unit of the table.
        confirmed: whether somebody has said that the range is public.
        breaks: of some columns, inside their ranges and in the same unit.
        rules: of the scenario.

    Returns:
        (columns by name, the rules with the offsets).

    Raises:
        DataError: float32 holds no such range.
        ConfigError: breaks do not rise within their range.
    """
    columns, offsets = {}, []
    for name, (low, high) in ranges.items():
        offset = offset_for(low, high)
        if not told_apart(low - offset, high - offset):
            raise DataError(
                f"column {name!r}: float32 cannot tell the ends of its range [{low!r}, {high!r}] apart",
                hint="change the unit of the column, or drop it",
            )
        inside = tuple(value - offset for value in breaks.get(name, ()))
        columns[name] = Numeric(name, low - offset, high - offset, confirmed[name], inside)
        offsets += [(name, offset)] if offset else []
    return columns, replace(rules, offsets=tuple(offsets))


def read_inputs(raw: RawTable, schema: Schema) -> npt.NDArray[np.float32]:
    """All input columns as the model is trained on them: float32, shape (n, width).

    Args:
        raw: the table as text, n rows.
        schema: which columns, in which order, and how they are read.

    Raises:
        DataError: text that is not a number, or a text that is too long; names the row.
    """
    if schema.text is not None:
        return tokens(_texts(raw, schema.text.name), schema.text)
    x = np.empty((raw.rows, schema.width), np.float32)
    for place, rule in enumerate(schema.cells()):
        x[:, place] = read_column(raw, rule, _hint(rule.name))
    return x


def _texts(raw: RawTable, name: str) -> Sequence[str]:
    """Texts as a device takes them. No cell means `missing`: it would be a word there."""
    cells = raw.columns[name]
    row = next((row for row, cell in enumerate(cells) if len(cell) > MOST_CHARACTERS), None)
    if row is not None:
        raise DataError(
            f"{raw.place(name, row)}: a text of {len(cells[row]):,} characters, at most {MOST_CHARACTERS:,}",
            hint="cut it: a model reads the first words only, see [data] text_length",
        )
    return cells


def seen_categories(cells: Sequence[str], rules: ReadingRules, most: int) -> tuple[str, ...]:
    """The `most` most frequent categories of a column, sorted by name; rarer ones will count as missing.

    Args:
        cells: of one column.
        rules: which texts mean missing, and which are spellings of one category.
        most: how many to keep, >= 1.

    Returns:
        ("(none)",) when every cell is missing.
    """
    missing = frozenset(rules.missing_text)
    counts = Counter(cell for cell in cells if cell not in missing)
    chosen, merged = one_spelling(counts, rules), Counter[str]()
    for cell, count in counts.items():
        merged[chosen[cell]] += count
    frequent = sorted(merged.items(), key=lambda item: (-item[1], item[0]))[:most]
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


def _hint(name: str) -> str:
    return f"add {name!r} to [data] categorical or drop, or its text for missing to [data] missing_text"


def _range(raw: RawTable, name: str, data: DataSection, rules: ReadingRules) -> tuple[float, float]:
    if name in data.ranges:
        return data.ranges[name]
    values = plain_numbers(raw, name, rules, _hint(name))
    if np.isnan(values).all():
        raise DataError(f"{raw.name}: column {name!r} has no value in any row", hint="add it to [data] drop")
    return round_outwards(float(np.nanmin(values)), float(np.nanmax(values)))


def _categories(raw: RawTable, name: str, data: DataSection, rules: ReadingRules) -> Categorical:
    if name in data.categories:
        return Categorical(name, data.categories[name], data.ranges_confirmed)
    return Categorical(name, seen_categories(raw.columns[name], rules.of_column(name), MOST_CATEGORIES), False)
