"""The reference of a channel: its histogram while the data distribution has not changed.

The first windows after a model push, as the same noisy sums (`ReferenceSum` grows window by window). Public rows are no
reference: with differing devices the mean of per-device histograms is not the pooled histogram of any table, and the
difference would alarm for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedinfer.drift.channels import Floats
from fedinfer.drift.statistics import NoisySum
from fedinfer.types import DeviceId


@dataclass(frozen=True, slots=True)
class ReferenceSum:
    """Sum of the reference windows of one channel.

    Args:
        total: shape (..., bins).
        size: units in it; 0 while empty.
        noise_variance: variance of its noise per bin.
        windows: windows taken in.
        reporters: windows in which each device reported; empty when the population is not needed (unit `device`).
    """

    total: Floats
    size: float
    noise_variance: float
    windows: int
    reporters: dict[DeviceId, int]

    @property
    def sum(self) -> NoisySum:
        """As a sum to test against."""
        return NoisySum(self.total, self.size, self.noise_variance)


def empty_reference(bins: int) -> ReferenceSum:
    """No window yet.

    Args:
        bins: of the channel.
    """
    return ReferenceSum(np.zeros(bins), 0.0, 0.0, 0, {})


def extend(reference: ReferenceSum, observed: NoisySum, reporters: Sequence[DeviceId]) -> ReferenceSum:
    """Take in one reference window.

    Args:
        reference: the windows so far; not changed.
        observed: sum of the new window.
        reporters: devices in it; empty for unit `device`, which needs no list of them.
    """
    counts = dict(reference.reporters)
    for device in reporters:
        counts[device] = counts.get(device, 0) + 1
    return ReferenceSum(
        total=reference.total + observed.total,
        size=reference.size + float(observed.size),
        noise_variance=reference.noise_variance + observed.noise_variance,
        windows=reference.windows + 1,
        reporters=counts,
    )


def composition(reference: ReferenceSum, reporters: Sequence[DeviceId]) -> float:
    """How far a change of reporters alone can move the rate: a variance, in units of one report's covariance V.

    With device means p_i and weights v_i now, w_i in the reference, the rate moves by sum (v_i - w_i)(p_i - p). For
    exchangeable devices each cov(p_i) <= V, hence sum (v_i - w_i)^2 V.

    Args:
        reference: with its reporters.
        reporters: devices in the window that is tested.

    Returns:
        In [0, 2]; 0 when the same devices report equally often, and when the reference does not know its reporters.
    """
    known = sum(reference.reporters.values())
    if not known or not reporters:
        return 0.0
    now = dict.fromkeys(reporters, 1.0 / len(reporters))
    return sum(
        (now.get(device, 0.0) - reference.reporters.get(device, 0) / known) ** 2
        for device in now.keys() | reference.reporters.keys()
    )
