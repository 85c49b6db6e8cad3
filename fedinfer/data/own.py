"""A deployment: the schema from the scenario alone, and a device's own table read by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedinfer.config import DataSection, Scenario
from fedinfer.data.builtin import ARRAYS, builtin_schema, complete
from fedinfer.data.columns import numeric_columns, read_inputs
from fedinfer.data.labels import TWO_CLASSES
from fedinfer.data.order import check_in_order, moments
from fedinfer.data.read import read_table
from fedinfer.data.synthetic import synthetic_schema
from fedinfer.data.table import DeviceData
from fedinfer.data.targets import read_target
from fedinfer.data.vocabulary import text_column, vocabulary_of
from fedinfer.errors import DataError, Misbehaviour
from fedinfer.reading import DEFAULT_RULES, ReadingRules
from fedinfer.schema import Categorical, Column, Numeric, Schema, Text

_KEYS = {Numeric: "ranges", Categorical: "categories", Text: "text"}


def public_schema(scenario: Scenario) -> Schema:
    """The schema that follows from the scenario and its word list; no row is read.

    All devices and the server must agree on it, so it needs class names and, for every input column, a range or a
    list of categories, all confirmed as public. `load` gives the same schema for such a scenario.

    Args:
        scenario: of the deployment.

    Raises:
        DataError: the description is not complete, or not confirmed, or its word list cannot be used.
    """
    return _described_schema(scenario, vocabulary_of(scenario))


def _described_schema(scenario: Scenario, words: tuple[str, ...]) -> Schema:
    if scenario.data.source == "builtin" and scenario.data.name in ARRAYS:
        return builtin_schema(scenario.data.name)
    if scenario.data.source == "synthetic":
        return synthetic_schema(scenario.data.synthetic)
    if scenario.data.source == "arrays":
        raise DataError("[data] source = 'arrays' is for simulations", hint="describe the devices' tables as csv")
    data = _described(scenario)
    _check_public(data)
    if data.text:
        return _schema((text_column(data, words),), data, data.reading())
    unused = {data.label, data.device, data.time, *data.drop}
    ranges = {name: pair for name, pair in data.ranges.items() if name not in unused}
    numbers, rules = numeric_columns(ranges, dict.fromkeys(ranges, True), data.breaks, data.reading())
    listed = (Categorical(name, names) for name, names in data.categories.items() if name not in unused)
    return _schema((*numbers.values(), *listed), data, rules)


def _schema(columns: tuple[Column, ...], data: DataSection, rules: ReadingRules) -> Schema:
    bounds, unit = data.label_range, data.label_unit
    return Schema(columns, data.label, _labels(data), reading=rules, label_range=bounds, label_unit=unit)


def load_own(scenario: Scenario, schema: Schema, path: Path, rng: np.random.Generator) -> DeviceData:
    """Read the table of one device in a deployment.

    Columns that the schema does not name are not read. One class is enough here: other devices may hold the others.

    Args:
        scenario: the scenario of the pilot; `data.device` and `data.partition` are ignored.
        schema: what server and devices agreed on. A device takes the word list from it and opens no file that a
            scenario names.
        path: the device's own CSV or Parquet file.
        rng: choice of held-out rows.

    Returns:
        Rows with a label. Held out are exactly the public part of the table's slots, at random, not class by class: a
        choice that depends on labels would let one row decide where others go. With `data.time`: the last slots.

    Raises:
        DataError: the table breaks the description, or the description is not complete and confirmed.
        Misbehaviour: the schema is not what the scenario describes.
    """
    text, data = schema.text, _described(scenario)
    if schema != _described_schema(scenario, text.vocabulary if text else ()):
        raise Misbehaviour("the schema of the task is not the one that its scenario describes")
    wanted = [data.label, *(column.name for column in schema.columns)]
    raw = read_table(path, data.reading(), text.name if text else "", wanted)
    for column in schema.columns:
        raw.require(_KEYS[type(column)], column.name)
    target = read_target(raw, data, schema.labels)
    y, keep = target.y, target.known
    if not keep.any():
        raise DataError(f"{path}: empty device: none of {len(y)} rows has a label")
    x, y = read_inputs(raw, schema)[keep], y[keep]
    # Drawn over the slots of the table, whatever is in them: with or without one row, the others stay where they are.
    in_order = bool(data.time)
    if in_order:
        check_in_order(
            raw.name, data.time, moments(raw.name, data.time, raw.column("time", data.time), data.missing_text)
        )
    held_out = _held_out(len(keep), data.test_fraction, None if in_order else rng)[keep]
    return DeviceData(x[~held_out], y[~held_out], x[held_out], y[held_out], in_order)


def training_slots(scenario: Scenario, path: Path) -> int:
    """Number of training rows as the length of a device's table alone gives it: no label and no value has a say.

    Args:
        scenario: with `data.test_fraction`.
        path: the device's own CSV or Parquet file.

    Raises:
        DataError: the table cannot be read.
    """
    count = all_slots(scenario, path)
    return count - _held_out_count(count, _described(scenario).test_fraction)


def all_slots(scenario: Scenario, path: Path) -> int:
    """Length of a device's table. Which of its rows are held out follows from it, `data.test_fraction` and the choice.

    Args:
        scenario: says how the file is read.
        path: the device's own CSV or Parquet file.

    Raises:
        DataError: the table cannot be read.
    """
    data = _described(scenario)
    return read_table(path, data.reading(), wanted=[data.label] if data.label else ()).rows


def cut_of(scenario: Scenario) -> str:
    """What the scenario says about where a row of a table ends, and so about which row has which place.

    Args:
        scenario: says how the file is read.

    Returns:
        Empty where it leaves that to the file, as most do.
    """
    data = _described(scenario)
    rules = data.reading()
    names = ("delimiter", "quote", "encoding", "header")
    said = {name: getattr(rules, name) for name in names if getattr(rules, name) != getattr(DEFAULT_RULES, name)}
    if rules.delimiter:  # it counts only where it finds the label in the header
        said["label"] = data.label
    return ", ".join(f"{name} {value!r}" for name, value in said.items())


def _held_out(count: int, fraction: float, rng: np.random.Generator | None) -> np.ndarray:
    """Which slots are held out: drawn, or the last ones where nothing is drawn."""
    slots = np.arange(count)[::-1] if rng is None else rng.permutation(count)
    mask = np.zeros(count, dtype=np.bool_)
    mask[slots[: _held_out_count(count, fraction)]] = True
    return mask


def _held_out_count(count: int, fraction: float) -> int:
    return min(max(round(fraction * count), 1), count - 1)


def _described(scenario: Scenario) -> DataSection:
    return complete(scenario.data) if scenario.data.source == "builtin" else scenario.data


def _labels(data: DataSection) -> tuple[str, ...]:
    return data.labels or (TWO_CLASSES if data.label_above is not None else ())


def _check_public(data: DataSection) -> None:
    if not data.ranges_confirmed:
        raise DataError(
            "[data] ranges_confirmed = false: a deployment needs public ranges and categories",
            hint="replace them by what an outsider would expect, then set ranges_confirmed = true",
        )
    if data.label_range is None and len(_labels(data)) < 2:
        raise DataError(
            "[data] labels: a deployment needs the list of class names",
            hint='labels = ["no", "yes"], or label_range = [low, high] for a number',
        )
    unlisted = [name for name in data.categorical if name not in data.categories]
    if unlisted:
        raise DataError(
            f"[data] categorical = {unlisted[0]!r}: a deployment needs its public list",
            hint=f"add [data.categories] {unlisted[0]} = [..]",
        )
    if not data.ranges and not data.categories and not data.text:
        raise DataError("[data]: a deployment needs a range or a list of categories for every input column, or text")
