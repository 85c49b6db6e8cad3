"""Where rows come from: a table file or a built-in, as a schema and a table of arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.config import DataSection, Scenario
from fedinfer.data.arrays import arrays_table
from fedinfer.data.builtin import ARRAYS, TEXT, complete
from fedinfer.data.columns import describe_columns, device_ids, read_inputs
from fedinfer.data.order import moments
from fedinfer.data.read import read_table
from fedinfer.data.synthetic import synthetic_table
from fedinfer.data.table import Table
from fedinfer.data.targets import check_varied, read_target
from fedinfer.data.vocabulary import text_column, vocabulary_of
from fedinfer.errors import DataError
from fedinfer.reading import RawTable
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.types import DeviceId

RENAMED_SHOWN = 3
Mask: TypeAlias = npt.NDArray[np.bool_]
_PUBLIC = {Numeric: "range", Categorical: "categories", Text: "vocabulary"}


def read_source(scenario: Scenario) -> tuple[Schema, Table, tuple[str, ...]]:
    """Read all rows of a scenario.

    Args:
        scenario: with its [data] section; relative paths start from its folder.

    Returns:
        (schema, table, warnings).

    Raises:
        DataError: the table breaks its description; names file, column, value and rule.
        MissingExtra: the source needs a package that is not installed.
    """
    data = scenario.data
    if data.source == "synthetic":
        return synthetic_table(scenario)
    if data.source == "arrays":
        return arrays_table(scenario)
    if data.source == "builtin" and data.name in ARRAYS:
        return (*ARRAYS[data.name](), ())
    if data.source == "builtin":
        data = complete(data)
        return arrays(TEXT[data.name](), data, ())
    raw = read_table(scenario.base / Path(data.path), data.reading(), data.text)
    return arrays(raw, data, vocabulary_of(scenario))


def arrays(raw: RawTable, data: DataSection, words: tuple[str, ...]) -> tuple[Schema, Table, tuple[str, ...]]:
    """Turn columns of text into a schema and arrays.

    Args:
        raw: the table as text.
        data: which columns are inputs, label and holder; which cells mean missing.
        words: vocabulary of a column of free text; empty without one.

    Returns:
        (schema, table, warnings); rows without a label or a holder are left out.

    Raises:
        DataError: the table breaks its description, or the rows that are left have fewer than two classes.
    """
    inputs = input_columns(raw, data)
    target = read_target(raw, data)
    y, keep = target.y, target.known
    columns, rules = ((text_column(data, words),), data.reading()) if data.text else describe_columns(raw, inputs, data)
    bounds, unit = data.label_range, data.label_unit
    schema = Schema(columns, data.label, target.labels, reading=rules, label_range=bounds, label_unit=unit)
    holder = raw.column("device", data.device) if data.device else None
    missing = frozenset(data.missing_text)
    if holder is not None:
        keep = keep & np.array([cell not in missing for cell in holder])
    check_varied(y[keep], schema, raw.name)
    x = read_inputs(raw, schema)
    x = x if keep.all() else x[keep]
    table = _sorted(Table(x, y[keep], _devices(holder, keep)), raw, data, keep)
    renamed = _renamed(holder, keep) if data.source == "csv" else ()
    return schema, table, (*raw.notes, *_left_out(raw, holder, keep), *renamed, *target.warnings, *_unconfirmed(schema))


def _sorted(table: Table, raw: RawTable, data: DataSection, keep: Mask) -> Table:
    """The rows in the order of time, where the scenario names a column for it; those of one moment as they were."""
    if not data.time:
        return table
    when = moments(raw.name, data.time, raw.column("time", data.time), frozenset(data.missing_text))[keep]
    order = np.argsort(when, kind="stable")
    device = None if table.device is None else tuple(table.device[row] for row in order)
    return Table(table.x[order], table.y[order], device, in_order=True)


def input_columns(raw: RawTable, data: DataSection) -> tuple[str, ...]:
    """Columns that the model gets: those with a range, those with categories, then the others as the table has them.

    Where the scenario describes every column, the order follows from the scenario alone, so devices with their own
    tables agree on it.

    Args:
        raw: the table as text.
        data: which columns are label, holder, dropped, or described.

    Raises:
        DataError: the scenario names a column that does not exist, or leaves none.
    """
    raw.require("label", data.label)
    if data.device:
        raw.require("device", data.device)
    if data.text:
        raw.require("text", data.text)
    for key in ("drop", "categorical", "categories", "ranges", "breaks", "missing_values", "times", "marks", "units"):
        for name in getattr(data, key):
            raw.require(key, name)
    if data.time:
        raw.require("time", data.time)
    unused = {data.label, data.device, data.time, *data.drop}
    names = tuple(name for name in dict.fromkeys((*data.ranges, *data.categories, *raw.columns)) if name not in unused)
    if data.text and names != (data.text,):
        others = [name for name in names if name != data.text]
        raise DataError(
            f"{raw.name}: [data] text = {data.text!r} stands alone, the table has {', '.join(map(repr, others))} too",
            hint=f"drop = [{', '.join(json.dumps(name, ensure_ascii=False) for name in others)}]",
        )
    if not names:
        raise DataError(f"{raw.name}: no input column is left besides {', '.join(sorted(unused - {''}))}")
    return names


def _devices(holder: Sequence[str] | None, keep: Mask) -> tuple[DeviceId, ...] | None:
    if holder is None:
        return None
    names = _kept(holder, keep)
    ids = device_ids(sorted(set(names)))
    return tuple(ids[name] for name in names)


def _renamed(holder: Sequence[str] | None, keep: Mask) -> tuple[str, ...]:
    """Devices that are called by another name in folders, ledgers and reports than in the table."""
    names = device_ids(sorted(set(_kept(holder, keep)))) if holder is not None else {}
    others = [f"{name!r} is {device}" for name, device in names.items() if name != device]
    if not others:
        return ()
    more = f" and {len(others) - RENAMED_SHOWN} more" if len(others) > RENAMED_SHOWN else ""
    return (f"Devices have names that fit files and ledgers: {', '.join(others[:RENAMED_SHOWN])}{more}.",)


def _kept(cells: Sequence[str], keep: Mask) -> list[str]:
    return [cell for cell, kept in zip(cells, keep, strict=True) if kept]


def _left_out(raw: RawTable, holder: Sequence[str] | None, keep: Mask) -> tuple[str, ...]:
    if keep.all():
        return ()
    count = f"{raw.name}: {int((~keep).sum())} of {len(keep)} rows left out: no label or no device"
    gone = sorted(set(_kept(holder, ~keep)) - set(_kept(holder, keep)) - {""}) if holder else []
    return (count + (f"; devices without a usable row: {', '.join(gone)}" if gone else ""),)


def _unconfirmed(schema: Schema) -> tuple[str, ...]:
    columns = [column for column in schema.columns if not column.confirmed]
    if not columns:
        return ()
    kinds = [f"{column.name} ({_PUBLIC[type(column)]})" for column in columns]
    return (
        "Ranges or lists were read off the data, or nobody has confirmed that they are public: "
        f"{', '.join(kinds)}. The privacy statement holds only for public ranges and lists.",
    )
