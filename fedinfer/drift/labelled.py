"""Channels of rows whose label has come: their sum says how labelled rows are shared out, not how many there are.

Labels come late, for few rows, and not equally many in every window. So the rate of such a channel is H / S with S =
1'H, the units that have labels; S is as noisy as H. To first order (delta method), with shares p,

    H/S - p = (I - p 1') (H - n p) / S,   cov(A'H/S) = A'VA / S + s^2 M M' / S^2,   M = A'(I - p 1')

V is the covariance of one sample with shares p, which bounds that of any unit's shares; s^2 the variance of the noise
per bin. A window in which S does not stand out of its own noise says nothing and is passed over.
"""

from __future__ import annotations

import math

import numpy as np

from fedinfer.drift.channels import Channel, Floats
from fedinfer.drift.statistics import NoisySum, contrasts
from fedinfer.types import Unit

LEAST_SURE = 5.0
"""S must be so many standard deviations of its noise: its own error is then at most a fifth."""


def measured(channel: Channel, unit: Unit, observed: NoisySum) -> NoisySum:
    """A sum in units of what is in it.

    Args:
        channel: of a report.
        unit: of the report.
        observed: its sum, (..., bins).

    Returns:
        For channels of labelled rows the sum of shares, its size the units with labels; others as they are.
    """
    if not channel.source.labelled:
        return observed
    scale = channel.scale(unit)
    total = observed.total / scale
    size = np.maximum(total.sum(axis=-1), 1e-9)
    return NoisySum(total, size, observed.noise_variance / scale**2)


def says_something(channel: Channel, observed: NoisySum) -> bool:
    """Whether a sum holds enough labels to be compared, or to be part of a reference.

    Args:
        channel: of a report.
        observed: its sum, (..., bins); of many runs: all of them hold enough.
    """
    if not channel.source.labelled:
        return True
    whole, noise = observed.total.sum(axis=-1), math.sqrt(observed.noise_variance * channel.bins)
    return bool(np.all(whole > LEAST_SURE * noise))


def noise_spread(channel: Channel, reference: NoisySum) -> Floats | None:
    """M M': how noise of variance 1 per bin reaches the rate of a channel of labelled rows.

    Args:
        channel: of a report.
        reference: measured, (..., bins).

    Returns:
        (..., df, df); None for other channels, where noise reaches the rate as it is.
    """
    if not channel.source.labelled:
        return None
    shares = _shares(reference)
    directions = contrasts(channel.bins, channel.kind).T  # (df, bins)
    centred = directions - (directions @ shares[..., None])
    spread: Floats = centred @ np.swapaxes(centred, -1, -2)
    return spread


def bin_spread(channel: Channel, reference: NoisySum) -> Floats:
    """The same for the share of each bin: (I - p 1')(I - p 1')' on the diagonal.

    Args:
        channel: of a report.
        reference: measured, (..., bins).

    Returns:
        (..., bins); ones for other channels.
    """
    if not channel.source.labelled:
        return np.ones(channel.bins)
    shares = _shares(reference)
    spread: Floats = (1.0 - shares) ** 2 + (channel.bins - 1) * shares**2
    return spread


def _shares(reference: NoisySum) -> Floats:
    positive = np.maximum(reference.total, 0.0) + 1e-9
    shares: Floats = positive / positive.sum(axis=-1, keepdims=True)
    return shares
