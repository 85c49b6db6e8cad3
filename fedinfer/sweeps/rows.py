"""Whose rows a sweep trains on: the scenario's own, public ones, or made ones. The last two cost nobody privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario, override
from fedinfer.data import DeviceData, Federation, load
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.simulation import Prepared, prepare_federation
from fedinfer.system import simulation_rng

FEWEST_PUBLIC = 40
"""Public rows below which they say nothing about settings."""
STRENGTH = 1.5
"""Standard deviation of a made label's signal; its noise is that of a logistic law. The best answer to two equally
frequent classes then has an AUC of about 0.83."""
Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.generic]]


class SweepRows(StrEnum):
    """Whose rows train and judge."""

    OWN = "own"
    PUBLIC = "public"
    SYNTHETIC = "synthetic"


def rows_of(name: str) -> SweepRows:
    """The kind of a name.

    Args:
        name: own, public or synthetic.

    Raises:
        ConfigError: it is none of them.
    """
    try:
        return SweepRows(name)
    except ValueError as error:
        raise ConfigError(f"rows {name!r}", hint=f"one of {', '.join(SweepRows)}") from error


def prepared_for(scenario: Scenario, rows: str) -> Prepared:
    """A scenario with the rows that a sweep wants; devices and their numbers of rows, which are public, stay.

    Args:
        scenario: of a cell.
        rows: one of `SweepRows`.

    Raises:
        FedInferError: scenario or data are wrong, no plan is possible, or there are no such rows.
    """
    federation = load(scenario)
    rng = simulation_rng(scenario.scenario.seed, "sweep", rows)
    match rows_of(rows):
        case SweepRows.OWN:
            return prepare_federation(scenario, federation)
        case SweepRows.PUBLIC:
            return prepare_federation(scenario, public_federation(federation, scenario.data.test_fraction, rng))
        case SweepRows.SYNTHETIC:
            return prepare_federation(scenario, synthetic_federation(federation, rng))
        case unknown:
            assert_never(unknown)


def prepared_for_selection(scenario: Scenario, split: int) -> Prepared:
    """A scenario for private selection: one fixed split of the rows, whatever the seed of the run is.

    Args:
        scenario: of a run, with its own seed.
        split: seed by which rows are public and belong to devices.

    Raises:
        FedInferError: as `prepared_for`.
    """
    federation = load(override(scenario, {"scenario.seed": split}))
    return prepare_federation(scenario, selection_federation(federation, simulation_rng(split, "selection", "judged")))


def public_federation(federation: Federation, test_fraction: float, rng: np.random.Generator) -> Federation:
    """Devices as large as the real ones, whose rows are drawn with replacement from public rows.

    Training and held-out rows come from different public rows, and pre-training sees only those of the first kind.

    Args:
        federation: with public rows.
        test_fraction: part of the public rows that is held out, in [0, 1); a tenth at least.
        rng: the draw.

    Raises:
        ConfigError: too few public rows.
    """
    x, y = federation.public
    _check_enough(len(y), "[data] public_fraction makes a part of the table public; or --rows synthetic")
    order = rng.permutation(len(y))
    held = max(round(max(test_fraction, 0.1) * len(y)), 1)
    test, train = order[:held], order[held:]

    def drawn(source: npt.NDArray[np.int64], count: int) -> Pair:
        chosen = rng.choice(source, count)
        return x[chosen], y[chosen]

    devices = {
        name: DeviceData(*drawn(train, len(data.train_y)), *drawn(test, len(data.test_y)), data.in_order)
        for name, data in federation.devices.items()
    }
    return _with(replace(federation, public=(x[train], y[train])), devices)


def synthetic_federation(federation: Federation, rng: np.random.Generator) -> Federation:
    """Devices as large as the real ones with rows made from the public schema alone; no row of anybody is looked at.

    Numbers fill their public ranges, categories are drawn from their public lists, and the label follows a law that
    is linear in them: settings that do well there suit tables of this shape, not this table.

    Args:
        federation: its schema and numbers of rows are used.
        rng: the draw.

    Raises:
        ConfigError: rows are images or texts.
    """
    make = _Maker(federation.schema, rng)
    devices = {
        name: DeviceData(*make(len(data.train_y)), *make(len(data.test_y)), data.in_order)
        for name, data in federation.devices.items()
    }
    return _with(replace(federation, public=make(len(federation.public[1]))), devices)


def selection_federation(federation: Federation, rng: np.random.Generator) -> Federation:
    """The devices' own training rows, and public rows wherever a run judges or predicts.

    So everything that a run says follows from its private releases and from public rows.

    Args:
        federation: with public rows.
        rng: the draw of the public rows that stand for held-out ones, with replacement.

    Raises:
        ConfigError: too few public rows.
    """
    x, y = federation.public
    _check_enough(len(y), "[data] public_fraction makes a part of the table public")

    def judged(data: DeviceData) -> DeviceData:
        chosen = rng.choice(len(y), len(data.test_y))
        return DeviceData(data.train_x, data.train_y, x[chosen], y[chosen], data.in_order)

    return _with(federation, {name: judged(data) for name, data in federation.devices.items()})


def _check_enough(count: int, hint: str) -> None:
    if count < FEWEST_PUBLIC:
        raise ConfigError(f"{count} public rows: this needs {FEWEST_PUBLIC}", hint=hint)


class _Maker:
    """One drawn law, and rows that follow it."""

    def __init__(self, schema: Schema, rng: np.random.Generator) -> None:
        if schema.shape or schema.text is not None or not schema.columns:
            raise ConfigError("rows of images or texts cannot be made from their schema", hint="--rows public")
        self._schema, self._rng = schema, rng
        answers = 1 if schema.label_range is not None else schema.classes
        self._weights = [rng.standard_normal((_levels(column), answers)) for column in schema.columns]

    def __call__(self, count: int) -> Pair:
        columns = zip(self._columns(), self._weights, strict=True)
        drawn = [self._column(column, weights, count) for column, weights in columns]
        x = np.stack([values for values, _ in drawn], axis=1).astype(np.float32)
        score = np.sum([effect for _, effect in drawn], axis=0) * (STRENGTH / np.sqrt(len(drawn)))
        return x, self._label(score)

    def _columns(self) -> list[Numeric | Categorical]:
        return [column for column in self._schema.columns if not isinstance(column, Text)]

    def _column(
        self, column: Numeric | Categorical, weights: npt.NDArray[np.float64], count: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Values, and what each adds to the score of each answer, (count, answers)."""
        if isinstance(column, Categorical):
            level = self._rng.integers(len(column.categories), size=count)
            return level.astype(np.float64), weights[level]
        place = self._rng.random(count)
        # A uniform place has the variance 1/12: scaled to 1.
        return column.low + place * (column.high - column.low), (place[:, None] - 0.5) * np.sqrt(12) * weights

    def _label(self, score: npt.NDArray[np.float64]) -> npt.NDArray[np.generic]:
        if self._schema.label_range is not None:
            low, high = self._schema.label_range
            noisy = score[:, 0] + self._rng.standard_normal(len(score))
            return (low + (high - low) / (1 + np.exp(-noisy))).astype(np.float32)
        return np.asarray(np.argmax(score + self._rng.gumbel(size=score.shape), axis=1), dtype=np.int64)


def _levels(column: Numeric | Categorical | Text) -> int:
    return len(column.categories) if isinstance(column, Categorical) else 1


def _with(federation: Federation, devices: Mapping[str, DeviceData]) -> Federation:
    x = np.concatenate([device.test_x for device in devices.values()])
    return replace(federation, devices=devices, test=(x, np.concatenate([d.test_y for d in devices.values()])))
