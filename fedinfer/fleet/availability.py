"""When devices can be asked: drawn by hour and time zone, or read from a trace. Asked for k devices, it costs k."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.errors import DataError
from fedinfer.fleet.devices import SECONDS_PER_HOUR, Capacities, read_columns
from fedinfer.fleet.draws import Devices, Floats, uniform_of

NIGHT_HOUR = 3.0
"""Local time at which most devices are available."""
TRACE_COLUMNS = ("trace", "start_seconds", "end_seconds")


class Availability(Protocol):
    """Says until when devices stay available."""

    def until(self, devices: Devices, seconds: float) -> Floats:
        """End of the stretch in which a device is available now; -inf where it is not.

        Args:
            devices: (k,).
            seconds: virtual time.

        Returns:
            (k,) seconds.
        """


@dataclass(frozen=True, slots=True)
class DrawnAvailability:
    """Each device is available in an hour or not, independently, with a probability that follows its local time.

    Args:
        zone: hours east of UTC, (devices,).
        mean: probability over the day.
        swing: relative amplitude of its daily wave.
        start_hour: time of day at second 0, UTC.
        seed: of the run.
    """

    zone: npt.NDArray[np.int8]
    mean: float
    swing: float
    start_hour: float
    seed: int

    def until(self, devices: Devices, seconds: float) -> Floats:
        """As `Availability.until`: the end of the last of the coming hours without a break, looking one day ahead."""
        first = int((seconds + self.start_hour * SECONDS_PER_HOUR) // SECONDS_PER_HOUR)
        end, still = np.full(len(devices), -np.inf), np.arange(len(devices))
        for hour in range(first, first + 24):
            still = still[self._in_hour(devices[still], hour)]
            if not len(still):
                break
            end[still] = (hour + 1 - self.start_hour) * SECONDS_PER_HOUR
        return end

    def _in_hour(self, devices: Devices, hour: int) -> npt.NDArray[np.bool_]:
        angle = 2 * np.pi * (hour + self.zone[devices].astype(np.int64) - NIGHT_HOUR) / 24
        likely = self.mean * (1 + self.swing * np.cos(angle))
        return uniform_of(self.seed, "available", devices, hour) < likely


@dataclass(frozen=True, slots=True)
class TracedAvailability:
    """Each device repeats one recorded trace, from a place of its own.

    Args:
        starts: of all stretches, those of a trace behind each other and ascending, seconds.
        ends: of the same stretches.
        offsets: where the stretches of each trace begin in `starts`; one more than there are traces.
        period: seconds after which every trace repeats.
        seed: of the run; says which trace and place a device has.
    """

    starts: Floats
    ends: Floats
    offsets: npt.NDArray[np.int64]
    period: float
    seed: int

    def until(self, devices: Devices, seconds: float) -> Floats:
        """As `Availability.until`; a stretch ends at the end of the period at the latest."""
        traces = (uniform_of(self.seed, "trace", devices, 0) * (len(self.offsets) - 1)).astype(np.int64)
        now = (seconds + uniform_of(self.seed, "trace", devices, 1) * self.period) % self.period
        end = np.full(len(devices), -np.inf)
        for place, (trace, moment) in enumerate(zip(traces, now, strict=True)):
            own = slice(self.offsets[trace], self.offsets[trace + 1])
            at = int(np.searchsorted(self.starts[own], moment, side="right")) - 1
            if at >= 0 and moment < self.ends[own][at]:
                end[place] = seconds + self.ends[own][at] - moment
        return end


def availability_of(scenario: Scenario, capacities: Capacities) -> Availability:
    """What a scenario says about availability.

    Args:
        scenario: with [fleet.device] and [fleet.clock].
        capacities: know the zones.

    Raises:
        DataError: the trace cannot be read or its stretches overlap.
    """
    section, seed = scenario.fleet.device, scenario.scenario.seed
    if not section.availability_trace:
        start = scenario.fleet.clock.start_hour
        return DrawnAvailability(capacities.zone, section.available, section.available_swing, start, seed)
    return _traced(scenario.base / Path(section.availability_trace), seed)


def _traced(path: Path, seed: int) -> TracedAvailability:
    lines = read_columns(path, TRACE_COLUMNS)
    lines = lines[np.lexsort((lines[:, 1], lines[:, 0]))]
    trace, starts, ends = lines.T
    if (starts < 0).any() or (ends <= starts).any():
        raise DataError(f"{path}: a stretch must begin at 0 or later and end after it begins")
    same = trace[1:] == trace[:-1]
    if (same & (starts[1:] < ends[:-1])).any():
        wrong = trace[1:][same & (starts[1:] < ends[:-1])][0]
        raise DataError(f"{path}: stretches of trace {wrong:g} overlap")
    offsets = np.concatenate([[0], np.flatnonzero(~same) + 1, [len(lines)]])
    return TracedAvailability(starts, ends, offsets, float(ends.max()), seed)
