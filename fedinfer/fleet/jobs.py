"""What becomes of devices that were asked: when each answers, or why it does not, and the energy that took."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fedinfer.config import FleetSection
from fedinfer.fleet.devices import SECONDS_PER_HOUR, costs_of
from fedinfer.fleet.draws import Devices, Floats, uniform_of
from fedinfer.fleet.selection import Registry


class Fate(IntEnum):
    """How a job ends by itself."""

    ANSWERED = 0
    DROPPED = 1
    CRASHED = 2
    LEFT = 3
    FLAT = 4


FATES = {
    Fate.ANSWERED: "answered",
    Fate.DROPPED: "dropped out",
    Fate.CRASHED: "crashed",
    Fate.LEFT: "no longer available",
    Fate.FLAT: "battery flat",
}


@dataclass(frozen=True, slots=True)
class JobSize:
    """What one job is, the same for all devices.

    Args:
        passes: over the rows of a device; 0: `rows` of it are used.
        rows: rows of all steps together, where steps are counted.
        down: bytes that a device receives.
        up: bytes that it sends.
    """

    passes: int
    rows: int
    down: int
    up: int

    def rows_of(self, training: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Rows that devices go through, all passes together, (k,).

        Args:
            training: rows that each has, (k,).
        """
        if not self.passes:
            return np.full(len(training), self.rows, np.int64)
        return training.astype(np.int64) * self.passes


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs that began together; arrays have one entry per device, (k,).

    Args:
        devices: who works.
        began: virtual seconds.
        end: when each answers or fails.
        fate: `Fate` of each, int8.
        watt_hours: what each takes until its end.
    """

    devices: Devices
    began: float
    end: Floats
    fate: npt.NDArray[np.int8]
    watt_hours: Floats

    def until(self, stop: float) -> Floats:
        """Energy that each has taken when the server calls the jobs off, watt-hours, (k,).

        Args:
            stop: virtual seconds.
        """
        share = np.clip((stop - self.began) / (self.end - self.began), 0.0, 1.0)
        return self.watt_hours * share


def begin_jobs(
    registry: Registry,
    fleet: FleetSection,
    work: JobSize,
    devices: Devices,
    rows: npt.NDArray[np.int64],
    now: float,
    job: int,
) -> Jobs:
    """Draw what becomes of devices that are asked now. Nothing here depends on the rows themselves, only their number.

    Args:
        registry: knows capacities, charge and availability.
        fleet: dropouts, crashes, power.
        work: what a job is.
        devices: who is asked, (k,).
        rows: rows that each goes through, (k,).
        now: virtual seconds.
        job: number of the occasion; the same device never has the same number twice.
    """
    costs = costs_of(registry.capacities, fleet.device, devices, rows, work.down, work.up)
    end, fate = now + costs.seconds, np.full(len(devices), Fate.ANSWERED, np.int8)
    fate[uniform_of(registry.seed, "dropout", devices, job) < fleet.dropout] = Fate.DROPPED
    capacity = registry.charge(devices, now) * registry.capacities.battery_wh[devices]
    causes = (
        (Fate.CRASHED, now + _crash_after(registry.seed, fleet.device.crash_per_hour, devices, job)),
        (Fate.LEFT, registry.availability.until(devices, now)),
        (Fate.FLAT, now + costs.seconds * capacity / np.maximum(costs.watt_hours, 1e-12)),
    )
    for cause, when in causes:
        earlier = when < end
        end[earlier], fate[earlier] = when[earlier], cause
    return Jobs(devices, now, end, fate, costs.watt_hours * (end - now) / costs.seconds)


def _crash_after(seed: int, per_hour: float, devices: Devices, job: int) -> Floats:
    """Seconds to the first crash: exponential, by inversion; infinite where nothing crashes."""
    if not per_hour:
        return np.full(len(devices), np.inf)
    return -np.log1p(-uniform_of(seed, "crash", devices, job)) * SECONDS_PER_HOUR / per_hour
