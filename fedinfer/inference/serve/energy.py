"""Energy of predictions, always with the name of its source.

* `measured`: the processor's own counter (Linux powercap, `energy_uj`), or the battery's `power_now` times time.
  Both count the whole machine, so on a busy one the figure is an upper bound for one process.
* `estimated`: processor time of this process times watts that somebody typed in.
* `unavailable`: none of these; no number is invented. Usual in virtual machines, which have no counter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.rows import FloatArray
from fedinfer.ports import Clock

CpuSeconds = Callable[[], float]
"""Processor time of this process, seconds."""


class EnergySource(StrEnum):
    """Where a figure comes from."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    UNAVAILABLE = "unavailable"


Mark = tuple[float, ...]
"""Readings of a meter at one time; empty = it could not be read."""


class Meter(Protocol):
    """Counts energy upwards."""

    @property
    def source(self) -> EnergySource:
        """What its figures are worth."""

    def mark(self) -> Mark:
        """Where it stands now."""

    def joules_since(self, mark: Mark) -> float | None:
        """Joules from the mark to now; None = not available.

        Args:
            mark: of this meter.
        """


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy per prediction.

    Args:
        joules_per_prediction: None without a source.
        source: where the figure comes from.
    """

    joules_per_prediction: float | None
    source: EnergySource


@dataclass(frozen=True, slots=True)
class CounterMeter:
    """Powercap counters, one per package of the processor, with their wrap-around.

    Args:
        zones: folders with `energy_uj` and `max_energy_range_uj`.
    """

    zones: tuple[Path, ...]

    @property
    def source(self) -> EnergySource:
        """Measured."""
        return EnergySource.MEASURED

    def mark(self) -> Mark:
        """Microjoules of each package."""
        try:
            return tuple(float(_number(zone / "energy_uj")) for zone in self.zones)
        except (OSError, ValueError):
            return ()

    def joules_since(self, mark: Mark) -> float | None:
        """Joules, summed over the packages. One wrap-around per package since the mark is seen, a second one is not.

        Args:
            mark: microjoules of each package.
        """
        now = self.mark()
        if not now or len(now) != len(mark):
            return None
        try:
            spans = [_number(zone / "max_energy_range_uj") for zone in self.zones]
        except (OSError, ValueError):
            return None
        steps = zip(now, mark, spans, strict=True)
        return sum(end - start if end >= start else end - start + span for end, start, span in steps) / 1e6


@dataclass(frozen=True, slots=True)
class BatteryMeter:
    """What the battery gives at the moment of reading, taken for the whole time since the mark.

    Args:
        battery: folder with `power_now` in microwatts.
        clock: for durations.
    """

    battery: Path
    clock: Clock

    @property
    def source(self) -> EnergySource:
        """Measured."""
        return EnergySource.MEASURED

    def mark(self) -> Mark:
        """Seconds."""
        return (self.clock.seconds(),)

    def joules_since(self, mark: Mark) -> float | None:
        """Power now times seconds, in joules.

        Args:
            mark: seconds of the clock.
        """
        try:
            return abs(_number(self.battery / "power_now")) / 1e6 * (self.clock.seconds() - mark[0])
        except (OSError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class EstimateMeter:
    """Processor time times watts.

    Args:
        watts: of one busy core, > 0, from a data sheet or a plug meter.
        cpu_seconds: processor time of this process.
    """

    watts: float
    cpu_seconds: CpuSeconds

    @property
    def source(self) -> EnergySource:
        """Estimated."""
        return EnergySource.ESTIMATED

    def mark(self) -> Mark:
        """Seconds of processor time."""
        return (self.cpu_seconds(),)

    def joules_since(self, mark: Mark) -> float | None:
        """Watts times processor seconds, in joules.

        Args:
            mark: seconds of processor time.
        """
        return self.watts * (self.cpu_seconds() - mark[0])


@dataclass(frozen=True, slots=True)
class NoMeter:
    """Nothing to read."""

    @property
    def source(self) -> EnergySource:
        """Unavailable."""
        return EnergySource.UNAVAILABLE

    def mark(self) -> Mark:
        """Nothing."""
        return ()

    def joules_since(self, mark: Mark) -> float | None:
        """Not available.

        Args:
            mark: empty.
        """
        return None


def find_meter(system: Path, clock: Clock, watts: float | None, cpu_seconds: CpuSeconds = time.process_time) -> Meter:
    """The best meter of this machine.

    Args:
        system: where the kernel shows its devices, `/sys`.
        clock: for durations.
        watts: of one busy core; None = do not estimate.
        cpu_seconds: processor time of this process.
    """
    zones = tuple(zone for zone in sorted((system / "class/powercap").glob("*:*")) if _is_package(zone))
    if zones:
        return CounterMeter(zones)
    for battery in sorted((system / "class/power_supply").glob("BAT*")):
        if _readable(battery / "power_now") and _text(battery / "status") == "Discharging":
            return BatteryMeter(battery, clock)
    return EstimateMeter(watts, cpu_seconds) if watts else NoMeter()


def energy_per_prediction(predictor: Predictor, matrix: FloatArray, meter: Meter, repeats: int) -> Energy:
    """Predict rows one by one, several times, and divide the energy by the number of predictions.

    Args:
        predictor: the model.
        matrix: checked rows, float32 (n, width), n >= 1.
        meter: of `find_meter`.
        repeats: how many times, >= 1; a counter needs many predictions to move.

    Raises:
        GateFailed: when the model fails or answers NaN or infinity.
    """
    mark = meter.mark()
    for _ in range(repeats):
        for row in matrix:
            predictor.predict_one(row)
    joules = meter.joules_since(mark)
    if joules is None:
        return Energy(None, EnergySource.UNAVAILABLE)
    return Energy(joules / (repeats * len(matrix)), meter.source)


def _is_package(zone: Path) -> bool:
    """Top-level zones only: "intel-rapl:0", not its part "intel-rapl:0:1", which the package counts already."""
    return zone.name.count(":") == 1 and _readable(zone / "energy_uj") and _readable(zone / "max_energy_range_uj")


def _readable(path: Path) -> bool:
    try:
        _number(path)
    except (OSError, ValueError):
        return False
    return True


def _number(path: Path) -> int:
    return int(path.read_text())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
