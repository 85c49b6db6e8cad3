"""Who is asked: devices that are free, available, charged, large enough and not used up, drawn at random.

Devices are drawn and looked at until there are enough: the cost follows the cohort, not the population.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.config import FleetClockSection
from fedinfer.fleet.availability import Availability
from fedinfer.fleet.devices import SECONDS_PER_HOUR, Capacities
from fedinfer.fleet.draws import Devices, Floats, uniform_of

SECONDS_PER_DAY = 24 * SECONDS_PER_HOUR
MOST_LOOKS = 400
"""Batches of devices that are looked at before fewer than wanted are asked."""
SMALL = 8
"""A population of fewer than so many times the wanted devices is looked at as a whole."""


@dataclass(slots=True)
class Registry:
    """Everything about registered devices that changes; each array has one number per device.

    Args:
        capacities: what they can do.
        availability: when they can be asked.
        clock: least memory and battery.
        most: sums that one device's answers may go into.
        seed: of the run.
    """

    capacities: Capacities
    availability: Availability
    clock: FleetClockSection
    most: int
    seed: int
    busy: npt.NDArray[np.bool_] = field(init=False)
    participations: npt.NDArray[np.uint16] = field(init=False)
    _spent_wh: npt.NDArray[np.float32] = field(init=False)
    _spent_day: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        count = self.devices
        self.busy, self.participations = np.zeros(count, np.bool_), np.zeros(count, np.uint16)
        self._spent_wh, self._spent_day = np.zeros(count, np.float32), np.full(count, -1, np.int32)

    @property
    def devices(self) -> int:
        """How many there are."""
        return len(self.capacities.zone)

    def touched(self) -> dict[str, npt.NDArray[Any]]:
        """What changed since the start, by names for a checkpoint: one number per device that was asked."""
        at = np.flatnonzero(self.busy | (self.participations > 0) | (self._spent_day >= 0))
        return {"asked": at} | {f"asked_{name}": array[at] for name, array in self._changing().items()}

    def put_back(self, kept: Mapping[str, npt.NDArray[Any]]) -> None:
        """Inverse of `touched`, for a registry at its start.

        Args:
            kept: as `touched` made it.

        Raises:
            KeyError, ValueError, IndexError: it is not of this registry.
        """
        for name, array in self._changing().items():
            array[kept["asked"]] = kept[f"asked_{name}"]

    def _changing(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "busy": self.busy,
            "participations": self.participations,
            "spent_wh": self._spent_wh,
            "spent_day": self._spent_day,
        }

    def select(self, wanted: int, seconds: float, rng: np.random.Generator) -> Devices:
        """Draw devices that can be asked now, without replacement.

        Args:
            wanted: how many, >= 0.
            seconds: virtual time.
            rng: the draw.

        Returns:
            At most `wanted` different devices; fewer where too few are ready.
        """
        if self.devices <= SMALL * wanted:
            everybody = rng.permutation(self.devices)
            return everybody[self.ready(everybody, seconds)][:wanted]
        found = np.empty(0, np.int64)
        for _ in range(MOST_LOOKS):
            if len(found) >= wanted:
                break
            drawn = rng.integers(0, self.devices, max(16, 2 * (wanted - len(found))))
            joined = np.concatenate([found, drawn[self.ready(drawn, seconds)]])
            _, first = np.unique(joined, return_index=True)
            found = joined[np.sort(first)]
        return found[:wanted]

    def ready(self, devices: Devices, seconds: float) -> npt.NDArray[np.bool_]:
        """Which devices can be asked now, (k,).

        Args:
            devices: (k,).
            seconds: virtual time.
        """
        able = ~self.busy[devices] & (self.participations[devices] < self.most)
        able &= self.capacities.memory_mb[devices] >= self.clock.least_memory_mb
        able[able] = self.charge(devices[able], seconds) >= self.clock.least_battery
        able[able] = self.availability.until(devices[able], seconds) > seconds
        return able

    def charge(self, devices: Devices, seconds: float) -> Floats:
        """How full batteries are, in [0, 1]: a level drawn for each device and day, less what jobs of that day took.

        Args:
            devices: (k,).
            seconds: virtual time.
        """
        day = int(seconds // SECONDS_PER_DAY)
        level = uniform_of(self.seed, "charge", devices, day)
        today = self._spent_day[devices] == day
        return np.maximum(
            level - np.where(today, self._spent_wh[devices], 0.0) / self.capacities.battery_wh[devices], 0.0
        )

    def spend(self, devices: Devices, watt_hours: Floats, seconds: float) -> None:
        """Take energy from batteries.

        Args:
            devices: (k,), all different.
            watt_hours: (k,).
            seconds: virtual time; a new day begins with a new level.
        """
        day = int(seconds // SECONDS_PER_DAY)
        before = np.where(self._spent_day[devices] == day, self._spent_wh[devices], 0.0)
        self._spent_wh[devices], self._spent_day[devices] = before + watt_hours, day
