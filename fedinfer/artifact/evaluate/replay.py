"""Raw rows through both ways of reading, before a version is published: as training read, and as devices will.

Rules:
* training reads a table column by column, a device cell by cell, by the schema that stands in the published file;
* the rows are texts made of the public schema: numbers in and beyond their range with the marks of the rules, missing
  texts, sentinels, times, categories in their spellings, and texts that nobody listed; no row of anybody is needed;
* both ways must give the same float32, bit for bit, and the value that was written.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from fedinfer.errors import DataError, GateFailed
from fedinfer.reading import LIMITS, PARENTHESES, CellRule, RawTable, pack, read_column, read_text, written
from fedinfer.schema import Numeric, Schema

_STEPS = 24
"""Numbers that are drawn of a column."""
_UNLISTED = "~ nobody listed this ~"
_Drawn = tuple[str, float]
"""A cell, and the value of the row that it stands for; infinity where only the two ways are compared."""


def replay(schema: Schema, published: Schema) -> int:
    """Compare both ways of reading.

    Args:
        schema: that training had.
        published: as it is read back from the finished file.

    Returns:
        Number of cells that were read both ways; 0 for images and texts, which no cells describe.

    Raises:
        GateFailed: a cell that is read in two ways, or not as it was written; names column and cell.
    """
    if published != schema:
        raise GateFailed("the schema of the finished file is not the one of training")
    cells = {rule.name: list(_drawn(schema, place, rule)) for place, rule in enumerate(schema.cells())}
    if not cells:
        return 0
    longest = max(map(len, cells.values()))
    columns = {name: [drawn[row % len(drawn)] for row in range(longest)] for name, drawn in cells.items()}
    for table in _tables(schema, columns):
        for rule, other in zip(schema.cells(), published.cells(), strict=True):
            _compare(table, rule, other, columns[rule.name])
    return longest * len(columns)


def _compare(table: RawTable, rule: CellRule, other: CellRule, drawn: list[_Drawn]) -> None:
    try:
        trained, reader = read_column(table, rule), other.reader()
        on_device = np.array([reader(cell) for cell, _ in drawn], np.float32)
    except (DataError, ValueError, TypeError, ArithmeticError) as error:
        raise GateFailed(f"column {rule.name}: a cell that its reading rules allow cannot be read: {error}") from error
    expected = np.array([value for _, value in drawn], np.float32)
    wrong = _differ(trained, on_device) | (_differ(trained, expected) & ~np.isinf(expected))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise GateFailed(
            f"column {rule.name}: {drawn[row][0]!r} is {trained[row]:g} in training, {on_device[row]:g} on a device, "
            f"and stands for {expected[row]:g}"
        )


def _differ(one: Any, other: Any) -> Any:
    return (one != other) & ~(np.isnan(one) & np.isnan(other))


def _tables(schema: Schema, columns: dict[str, list[_Drawn]]) -> Iterator[RawTable]:
    """The rows out of a CSV text, and packed as a large file is."""
    texts = {name: [cell for cell, _ in drawn] for name, drawn in columns.items()}
    rules = schema.reading
    if rules.quote:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=rules.delimiter or ",", quotechar=rules.quote, quoting=csv.QUOTE_ALL)
        writer.writerows(([list(texts)] if rules.header else []) + list(map(list, zip(*texts.values(), strict=True))))
        read = read_text("replay", text.getvalue(), rules, wanted=tuple(texts) if rules.header else ())
        yield RawTable(read.name, dict(zip(texts, read.columns.values(), strict=True)))
    else:
        yield RawTable("replay", texts)
    if find_spec("pyarrow") is not None:
        yield RawTable("replay", pack(texts))


def _drawn(schema: Schema, place: int, rule: CellRule) -> Iterator[_Drawn]:
    column, times = schema.columns[place], dict(rule.rules.times)
    listed = rule.categories or ()
    yield from ((text, math.nan) for text in rule.rules.missing_text if text not in listed and text == text.strip())
    if rule.categories is not None:
        yield from _categories(rule.categories)
    elif isinstance(column, Numeric) and rule.name in times:
        yield from _times(column, rule, times[rule.name])
    elif isinstance(column, Numeric):
        yield from _numbers(column, rule)


def _categories(names: tuple[str, ...]) -> Iterator[_Drawn]:
    for number, name in enumerate(names):
        if name == name.strip():
            yield name, float(number)
        yield from ((text, math.inf) for text in (name.lower(), name.upper(), f"{name}.0"))
    yield _UNLISTED, float(names.index(_UNLISTED)) if _UNLISTED in names else math.nan


def _numbers(column: Numeric, rule: CellRule) -> Iterator[_Drawn]:
    """Numbers from a tenth of the range below it to a tenth above, whole ones and ones with many digits."""
    decimal, thousands = rule.rules.marks_of(rule.name)
    offset, sentinels = rule.rules.offset(rule.name), rule.rules.sentinels(rule.name)
    width = column.high - column.low
    for step in range(_STEPS):
        raw = column.low + offset + width * (1.2 * (step * 0.6180339887 % 1) - 0.1)
        plain = repr(round(raw)) if step % 3 == 0 and abs(raw) < 1e15 else repr(raw)
        value = math.nan if float(plain) in sentinels else float(plain) - offset
        grouped = f"{float(plain):,.3f}" if thousands and abs(raw) < 1e12 else ""
        unit = rule.rules.unit(rule.name)
        cell = plain.replace(".", decimal)
        yield (_with_unit(cell, unit, step) if step % 2 else cell), _fed(value)
        if grouped:
            number = float(grouped.replace(",", ""))
            marked = grouped.replace(",", "\0").replace(".", decimal).replace("\0", thousands)
            yield marked, math.nan if number in sentinels else _fed(number - offset)
    for sentinel in sentinels:
        yield repr(sentinel).replace(".", decimal), math.nan
    yield "nan", math.nan


def _with_unit(cell: str, unit: str, step: int) -> str:
    """A number as its column may write it: beside its unit, and now and then as a limit of measurement."""
    beside = unit.removeprefix(LIMITS).removeprefix(PARENTHESES)
    limit = ("", "<", "> ", "\u2264")[step // 2 % 4] if unit.startswith(LIMITS) else ""
    if unit.removeprefix(LIMITS).startswith(PARENTHESES) and cell.startswith("-"):
        return f"({cell[1:]} {beside})"
    return f"{limit}{cell} {beside}".strip()


def _times(column: Numeric, rule: CellRule, time: str) -> Iterator[_Drawn]:
    """Whole days and moments; a layout may leave parts of a moment out, so only the two ways are compared."""
    offset = rule.rules.offset(rule.name)
    for step in range(_STEPS):
        value = column.low + offset + (column.high - column.low) * step / _STEPS
        try:
            yield written(math.floor(value) if step % 2 else value, time), math.inf
        except OverflowError:  # beyond the calendar, where no cell is
            continue


def _fed(value: float) -> float:
    """Infinity, which compares the two ways only, for what float32 cannot hold."""
    return value if abs(value) < float(np.finfo(np.float32).max) else math.inf
