"""From a scenario to a federation: public rows out, devices, held-out rows. The same seed gives the same arrays."""

from __future__ import annotations

import numpy as np

from fedinfer.config import DataSection, PartitionSection, Scenario
from fedinfer.data.builtin import complete
from fedinfer.data.order import latest
from fedinfer.data.partition import by_column, group_at_random, split_held_out, stratified_take
from fedinfer.data.sources import read_source
from fedinfer.data.table import DeviceData, Federation, Indices, Labels, Table
from fedinfer.data.targets import strata
from fedinfer.errors import ConfigError, DataError
from fedinfer.system import simulation_rng
from fedinfer.types import DeviceId


def load(scenario: Scenario) -> Federation:
    """Load the data of a scenario and split it over devices.

    The public rows are taken out first, with the class mix of all rows; devices share the rest, by `data.device` or
    `data.partition`; each device holds out `data.test_fraction` of its rows, with its own class mix, or its latest ones
    (`data.time`). Nothing is
    downloaded, and everything random follows from `scenario.seed`.

    Args:
        scenario: with its [data] section.

    Raises:
        DataError: the table breaks its description, or a device is empty.
        ConfigError: a number of devices where the table names them.
        MissingExtra: the source needs a package that is not installed.
    """
    schema, table, warnings = read_source(scenario)
    data = complete(scenario.data) if scenario.data.source == "builtin" else scenario.data
    seed = scenario.scenario.seed
    mix = strata(table.y)
    is_public = stratified_take(mix, round(data.public_fraction * len(table)), simulation_rng(seed, "data", "public"))
    private = np.flatnonzero(~is_public)
    devices = {
        device: _device_data(
            table, mix, private[rows], data.test_fraction, simulation_rng(seed, "data", "split", device)
        )
        for device, rows in _deal(table, mix, private, data, seed).items()
    }
    return Federation(
        schema=schema,
        devices=devices,
        public=(table.x[is_public], table.y[is_public]),
        test=(
            np.concatenate([held.test_x for held in devices.values()]),
            np.concatenate([held.test_y for held in devices.values()]),
        ),
        warnings=warnings,
    )


def _deal(table: Table, mix: Labels, private: Indices, data: DataSection, seed: int) -> dict[DeviceId, Indices]:
    """Positions in `private` that each device holds, sorted by device."""
    if table.device is None:
        return group_at_random(mix[private], data.partition, simulation_rng(seed, "data", "partition"))
    named = len(set(table.device))
    if data.partition != PartitionSection() and data.partition.devices != named:
        raise ConfigError(
            f"[data.partition] devices = {data.partition.devices}: the table itself names its {named} devices",
            hint=f"leave [data.partition] and --devices out; the table's {named} devices take part",
        )
    held = by_column([table.device[row] for row in private])
    for device in sorted(set(table.device)):
        if device not in held:
            raise DataError(
                f"empty device: {device!r} has {table.device.count(device)} rows, all of them public",
                hint=f"a smaller [data] public_fraction (is {data.public_fraction})",
            )
    return held


def _device_data(
    table: Table, mix: Labels, rows: Indices, test_fraction: float, rng: np.random.Generator
) -> DeviceData:
    in_order = table.in_order
    train, test = latest(len(rows), test_fraction) if in_order else split_held_out(mix[rows], test_fraction, rng)
    return DeviceData(table.x[rows[train]], table.y[rows[train]], table.x[rows[test]], table.y[rows[test]], in_order)
