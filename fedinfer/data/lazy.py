"""Populations whose devices have rows only while they are asked for: memory follows the cohort and the table.

A table stays one block of memory, or is a memory-mapped file; a device is a slice of an order of its rows. Drawn rows
are not kept at all. The split into training and held-out rows follows from (run seed, number of the device).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.data.builtin import complete
from fedinfer.data.partition import by_column, group_at_random
from fedinfer.data.sources import read_source
from fedinfer.data.synthetic import SyntheticRows
from fedinfer.data.table import Indices, Rows, Table, Targets
from fedinfer.data.targets import strata
from fedinfer.errors import ConfigError
from fedinfer.schema import Schema
from fedinfer.system import simulation_rng


class Held(Protocol):
    """The rows of each device of a population."""

    @property
    def schema(self) -> Schema:
        """Columns and label."""

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Rows of each device, (devices,)."""

    def rows(self, device: int, seconds: float) -> tuple[Rows, Targets]:
        """All rows of a device.

        Args:
            device: number, 0-based.
            seconds: of the virtual clock, >= 0.
        """

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """What was read from files, by name; nothing where rows are drawn."""


class TableRows:
    """Devices as slices of one order of a table's rows.

    Args:
        schema: of the table.
        table: its rows; they may be memory-mapped.
        order: numbers of rows, those of a device behind each other.
        ends: where the slice of each device ends in `order`, (devices,).
    """

    def __init__(self, schema: Schema, table: Table, order: Indices, ends: Indices) -> None:
        self.schema, self._table, self._order = schema, table, order
        self._starts = np.concatenate([[0], ends[:-1]])
        self._ends = ends
        self.sizes = (ends - self._starts).astype(np.int32)

    def rows(self, device: int, seconds: float) -> tuple[Rows, Targets]:
        """As `Held.rows`: a copy of the device's rows; a table does not change with time."""
        at = self._order[self._starts[device] : self._ends[device]]
        return np.asarray(self._table.x[at]), np.asarray(self._table.y[at])

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """As `Held.read`: all rows, and who holds them."""
        return {"x": self._table.x, "y": self._table.y, "order": self._order, "ends": self._ends}


@dataclass(frozen=True, slots=True)
class LazyRows:
    """A population: what its devices train and are judged with.

    Args:
        held: rows of each device.
        test_fraction: part of a device's rows that is held out, in (0, 1).
        seed: of the run; says which rows are held out.
        warnings: what a reader of the report must know.
    """

    held: Held
    test_fraction: float
    seed: int
    warnings: tuple[str, ...] = ()

    @property
    def schema(self) -> Schema:
        """Columns and label."""
        return self.held.schema

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self.held.sizes)

    def training_sizes_of(self, devices: Indices) -> npt.NDArray[np.int32]:
        """Rows that some devices train with, at least 1.

        Args:
            devices: numbers, (k,).

        Returns:
            (k,) int32.
        """
        sizes = self.held.sizes[devices]
        return (sizes - self._held_out(sizes)).astype(np.int32)

    def training(self, device: int, seconds: float) -> tuple[Rows, Targets]:
        """Rows and labels that a device trains with.

        Args:
            device: number, 0-based.
            seconds: of the virtual clock, >= 0.
        """
        return self._part(device, seconds, kept=True)

    def test(self, devices: Sequence[int], seconds: float) -> tuple[Rows, Targets]:
        """Held-out rows and labels of some devices.

        Args:
            devices: numbers, at least one.
            seconds: of the virtual clock, >= 0.
        """
        parts = [self._part(device, seconds, kept=False) for device in devices]
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])

    def _part(self, device: int, seconds: float, *, kept: bool) -> tuple[Rows, Targets]:
        x, y = self.held.rows(device, seconds)
        order = simulation_rng(self.seed, "lazy", "split", device).permutation(len(y))
        out = int(self._held_out(np.array([len(y)]))[0])
        at = np.sort(order[out:] if kept else order[:out])
        return x[at], y[at]

    def _held_out(self, sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """One row at least stays for training, and one is held out where there are two."""
        wanted = np.maximum(np.rint(sizes * self.test_fraction), 1)
        held: npt.NDArray[np.int64] = np.minimum(wanted, sizes - 1).astype(np.int64)
        return held


def lazy_rows(scenario: Scenario) -> LazyRows:
    """The population of a scenario.

    Args:
        scenario: with its [data] section. Public rows are not taken out: a lazy population has none.

    Raises:
        ConfigError: public rows, or pre-training on them, are asked for; more devices than rows.
        DataError: the table breaks its description, or a device is empty.
        MissingExtra: the source needs a package that is not installed.
    """
    data, seed = scenario.data, scenario.scenario.seed
    if data.public_fraction or scenario.training.pretrain:
        raise ConfigError(
            f"[data] public_fraction = {data.public_fraction:g}, [training] pretrain = "
            f"{str(scenario.training.pretrain).lower()}: a virtual fleet has no public rows",
            hint="--set data.public_fraction=0 --set training.pretrain=false",
        )
    if data.source == "synthetic":
        drawn = SyntheticRows(data.synthetic, data.partition.devices, seed)
        return LazyRows(drawn, data.test_fraction, seed)
    schema, table, warnings = read_source(scenario)
    partition = (complete(data) if data.source == "builtin" else data).partition
    if table.device is not None:
        groups = by_column(table.device)
    elif partition.devices > len(table):
        raise ConfigError(
            f"[data.partition] devices = {partition.devices}: the table has {len(table)} rows",
            hint="fewer devices, or [data] source = 'synthetic'",
        )
    elif partition.scheme == "iid":
        order = simulation_rng(seed, "data", "partition").permutation(len(table))
        ends = np.arange(1, partition.devices + 1) * len(table) // partition.devices
        return LazyRows(TableRows(schema, table, order, ends), data.test_fraction, seed, warnings)
    else:
        groups = group_at_random(strata(table.y), partition, simulation_rng(seed, "data", "partition"))
    order = np.concatenate(list(groups.values()))
    ends = np.cumsum([len(rows) for rows in groups.values()])
    return LazyRows(TableRows(schema, table, order, ends), data.test_fraction, seed, warnings)
