"""What is left of every release when the auditor takes away the vectors that it knows: the noise, over its promise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedinfer.audit.checks import Check, excess_check, fresh_noise_check, noise_check
from fedinfer.types import DeviceId

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Residuals:
    """All releases of one purpose.

    Args:
        title: of the purpose, for people.
        std: promised standard deviation of the noise in a release, per coordinate.
        shares: the same of what each device brings; empty where devices bring none.
        corrupt: devices that the plan takes for corrupt.
        rounding: largest standard deviation of the rounding in a release.
        totals: per release, release minus true sum, float64 (d,).
        own: per release and device, what it sent minus its true vector; empty where devices bring no noise.
    """

    title: str
    std: float
    shares: Mapping[DeviceId, float]
    corrupt: int
    rounding: float
    totals: list[Floats] = field(default_factory=list)
    own: list[Mapping[DeviceId, Floats]] = field(default_factory=list)

    def checks(self, strategy: Sequence[float], level: float) -> list[Check]:
        """Every test of this noise.

        Args:
            strategy: first column of the strategy matrix C; (1.0,): noise of rounds is independent. Releases with
                noise C^-1 Z are multiplied by C first, so that fresh noise is tested.
            level: of every check.
        """
        if not self.totals:
            return []
        noise = whitened(np.array(self.totals), strategy)
        found = [
            noise_check(f"noise of {self.title}", "noise in the sum", noise / self.std, level),
            excess_check(
                f"nothing else in {self.title}",
                "all that is in the sum",
                noise / math.hypot(self.std, self.rounding),
                level,
            ),
        ]
        if min(noise.shape) >= 2:
            what = "noise of releases, pair by pair and together"
            found.append(fresh_noise_check(f"fresh noise of {self.title}", what, noise, level))
        return [*found, *self._of_devices(level)]

    def _of_devices(self, level: float) -> list[Check]:
        if not self.own:
            return []
        devices = sorted(self.shares)
        rows = {device: np.array([release[device] for release in self.own]) for device in devices}
        # Bonferroni over devices: the one with the least noise speaks for all.
        each = [
            noise_check(f"share of {device}", "", rows[device] / self.shares[device], level / len(devices))
            for device in devices
        ]
        worst = min(each, key=lambda check: check.p_value)
        weakest = Check(
            f"shares of noise in {self.title}",
            f"each of {len(devices)} devices by itself; the weakest is {devices[each.index(worst)]}",
            min(1.0, worst.p_value * len(devices)),
            level,
            f"the weakest: {worst.seen}",
            worst.least,
            dict(worst.figures),
        )
        found = [weakest]
        if 0 < self.corrupt < len(devices):
            honest = devices[self.corrupt :]
            left = np.sum([rows[device] for device in honest], axis=0)
            std = math.sqrt(sum(self.shares[device] ** 2 for device in honest))
            what = f"noise that is left when {self.corrupt} of {len(devices)} devices tell theirs"
            found.append(noise_check(f"honest noise of {self.title}", what, left / std, level))
        alike = np.concatenate([rows[device] / self.shares[device] for device in devices])
        if min(alike.shape) >= 2:
            what = "noise of every device and release beside every other"
            found.append(fresh_noise_check(f"own noise in {self.title}", what, alike, level))
        return found


def whitened(releases: Floats, strategy: Sequence[float]) -> Floats:
    """C times the rows: fresh noise again where the noise of rounds was correlated.

    Args:
        releases: (rounds, n), row t belongs to round t of the strategy.
        strategy: c_0 = 1, c_1, ...: the first column of the Toeplitz matrix C.

    Returns:
        float64 (rounds, n): row t is the sum of c_k times row t - k.
    """
    result = np.zeros_like(releases)
    for lag, coefficient in enumerate(strategy[: len(releases)]):
        result[lag:] += coefficient * releases[: len(releases) - lag]
    return result
