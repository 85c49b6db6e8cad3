"""What each registered device can do, as arrays: 32 bytes for a device, and no object."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.config import FleetDeviceSection, Scenario
from fedinfer.errors import DataError
from fedinfer.fleet.draws import Devices, Floats
from fedinfer.system import simulation_rng

Singles: TypeAlias = npt.NDArray[np.float32]
COLUMNS = ("rows_per_second", "download_mbit", "upload_mbit", "memory_mb", "battery_wh")
BITS_PER_MBIT, SECONDS_PER_HOUR = 1e6, 3600.0


@dataclass(frozen=True, slots=True)
class Capacities:
    """What devices can do; each array has one number per device, (devices,).

    Args:
        rows_per_second: training speed.
        download_mbit: Mbit/s.
        upload_mbit: Mbit/s.
        memory_mb: MB.
        battery_wh: capacity, Wh.
        zone: hours east of UTC, 0 to 23, int8.
    """

    rows_per_second: Singles
    download_mbit: Singles
    upload_mbit: Singles
    memory_mb: Singles
    battery_wh: Singles
    zone: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Costs:
    """What one job costs some devices.

    Args:
        seconds: from the request to the end of the upload, (k,).
        watt_hours: (k,).
    """

    seconds: Floats
    watt_hours: Floats


def capacities_of(scenario: Scenario, devices: int) -> Capacities:
    """Draw the capacities of a fleet, or take them from a trace.

    Args:
        scenario: with [fleet.device]; everything follows from its seed.
        devices: how many, >= 1.

    Raises:
        DataError: the trace cannot be read.
    """
    section, rng = scenario.fleet.device, simulation_rng(scenario.scenario.seed, "fleet", "capacities")
    zone = rng.integers(0, section.zones, devices, dtype=np.int8)
    if section.capacity_trace:
        lines = read_columns(scenario.base / Path(section.capacity_trace), COLUMNS)
        if not (lines > 0).all():
            raise DataError(f"{section.capacity_trace}: every capacity must be above 0")
        taken = rng.integers(0, len(lines), devices)
        found = {name: lines[taken, place].astype(np.float32) for place, name in enumerate(COLUMNS)}
    else:
        found = {name: _lognormal(rng, *pair, devices) for name, pair in zip(COLUMNS, _medians(section), strict=True)}
    return Capacities(**found, zone=zone)


def _medians(section: FleetDeviceSection) -> tuple[tuple[float, float], ...]:
    """Median and spread in the order of `COLUMNS`."""
    return (
        (section.rows_per_second, section.speed_spread),
        (section.download_mbit, section.bandwidth_spread),
        (section.upload_mbit, section.bandwidth_spread),
        (section.memory_mb, section.memory_spread),
        (section.battery_wh, section.battery_spread),
    )


def _lognormal(rng: np.random.Generator, median: float, spread: float, count: int) -> Singles:
    drawn: Singles = np.exp(np.float32(spread) * rng.standard_normal(count, dtype=np.float32))
    return drawn * np.float32(median)


def costs_of(
    capacities: Capacities,
    section: FleetDeviceSection,
    devices: Devices,
    rows: npt.NDArray[np.int64],
    down: int,
    up: int,
) -> Costs:
    """Time and energy of one job: startup, download, training, upload, one after the other; startup takes no energy.

    Args:
        capacities: of the fleet.
        section: power of training and of the radio.
        devices: who works, (k,).
        rows: rows that each of them goes through, all passes together, (k,).
        down: bytes that each receives.
        up: bytes that each sends.
    """
    radio = down * 8 / (capacities.download_mbit[devices].astype(np.float64) * BITS_PER_MBIT)
    radio += up * 8 / (capacities.upload_mbit[devices].astype(np.float64) * BITS_PER_MBIT)
    training = rows / capacities.rows_per_second[devices].astype(np.float64)
    joules = section.train_watts * training + section.radio_watts * radio
    return Costs(section.startup_seconds + training + radio, joules / SECONDS_PER_HOUR)


def read_columns(path: Path, names: tuple[str, ...]) -> Floats:
    """Numbers of a CSV with a header.

    Args:
        path: of the file.
        names: columns that are wanted.

    Returns:
        (lines, names) float64, finite, at least one line.

    Raises:
        DataError: the file cannot be read, a column is missing, or a cell is no number; names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in names if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}", hint=f"its header needs {','.join(names)}")
            lines = [_numbers(path, number, line, names) for number, line in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", hint="a path is relative to the TOML that names it"
        ) from error
    if not lines:
        raise DataError(f"{path}: no line below the header")
    return np.array(lines)


def _numbers(path: Path, number: int, line: dict[str, str], names: tuple[str, ...]) -> list[float]:
    try:
        found = [float(line[name]) for name in names]
    except (TypeError, ValueError):
        raise DataError(f"{path}, line {number}: not a number in {', '.join(names)}") from None
    if not np.isfinite(found).all():
        raise DataError(f"{path}, line {number}: numbers must be finite")
    return found
