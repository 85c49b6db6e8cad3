"""A device's own test of its window against its own past: one bit, whatever was compared.

Drift that hits few devices drowns in the fleet's histograms. A device knows its own past much better, and it may look
at everything (every column, every answer), because only one bit leaves, clipped and noised like any other channel.

Rules:
* The first `LOCAL_WINDOWS` windows after a push are the device's reference; it raises no flag in them, and the fleet's
  reference of flags begins after them (`Channel.warm_up`). Both samples of the test then have the same sizes in every
  window, so a device that does not change raises its flag equally often in the reference and later, whatever its rows
  depend on: the fleet's test needs no nominal level.
* The statistic is that of `statistics` with rows as units and no noise; the flag goes up when the least p-value over F
  channels is below `LEVEL` / F.
* Which channels were unusual stays on the device, for its owner: one that is unusual in two windows in a row is named.
  By chance that is rare (`benchmarks/drift.py` counts it), and a device does not decide by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedinfer.drift.channels import Channel, Counts, Floats
from fedinfer.drift.statistics import (
    NoisySum,
    chi2_tail,
    degrees_of_freedom,
    quadratic_form,
    rate,
    rate_covariance,
    unit_covariance,
)

LEVEL = 0.05
"""About how often a device raises its flag without drift."""
LOCAL_WINDOWS = 4
"""Windows of a device's own reference."""
NAMED_AFTER = 2
"""Unusual windows in a row after which a channel is named to the owner of the device."""


@dataclass(frozen=True, slots=True)
class LocalReference:
    """What a device was like right after it got its model.

    Args:
        version: of the model.
        counts: of its reference windows, one array per local channel.
        rows: in them.
        windows: how many.
        unusual: in how many windows in a row each channel has been unusual, up to the last one.
    """

    version: int
    counts: tuple[Counts, ...]
    rows: int
    windows: int
    unusual: tuple[int, ...] = ()


def judge_window(
    channels: Sequence[Channel],
    reference: LocalReference | None,
    version: int,
    counts: Sequence[Counts],
    rows: int,
) -> tuple[LocalReference, bool]:
    """Take in one window of a device.

    Args:
        channels: compared on the device.
        reference: so far; None before the first window. One of another model version is forgotten.
        version: of the model that answered.
        counts: of the window, one array per channel.
        rows: in it.

    Returns:
        The reference after it, and whether the flag goes up.
    """
    if reference is None or reference.version != version:
        nothing = tuple(np.zeros(channel.bins) for channel in channels)
        reference = LocalReference(version, nothing, 0, 0, (0,) * len(channels))
    if reference.windows < LOCAL_WINDOWS:
        both = tuple(old + new for old, new in zip(reference.counts, counts, strict=True))
        learned = replace(reference, counts=both, rows=reference.rows + rows, windows=reference.windows + 1)
        return learned, False
    if not rows or not reference.rows:
        return reference, False
    found = [
        _p_value(channel, old, reference.rows, new, rows) < LEVEL / len(channels)
        for channel, old, new in zip(channels, reference.counts, counts, strict=True)
    ]
    before = reference.unusual or (0,) * len(channels)
    lasting = tuple((old + 1) * now for old, now in zip(before, found, strict=True))
    return replace(reference, unusual=lasting), any(found)


def named(channels: Sequence[Channel], reference: LocalReference) -> tuple[str, ...]:
    """Channels that have been unusual for `NAMED_AFTER` windows or more, up to the last one.

    Args:
        channels: compared on the device.
        reference: of the device.
    """
    pairs = zip(channels, reference.unusual, strict=False)
    return tuple(channel.name for channel, windows in pairs if windows >= NAMED_AFTER)


def pack_reference(reference: LocalReference) -> Floats:
    """One float64 vector for the device's database.

    Args:
        reference: of the device.
    """
    head = [reference.version, reference.rows, reference.windows]
    unusual = reference.unusual or (0,) * len(reference.counts)
    return np.concatenate([np.array([*head, *unusual], np.float64), *reference.counts])


def unpack_reference(vector: Floats, channels: Sequence[Channel]) -> LocalReference | None:
    """Inverse of `pack_reference`.

    Args:
        vector: float64.
        channels: compared on the device.

    Returns:
        None when it is the reference of other channels: the device has taken up another task, or another release of
        this program.
    """
    bins, many = [channel.bins for channel in channels], len(channels)
    if vector.shape != (3 + many + sum(bins),):
        return None
    version, rows, windows, *unusual = map(int, vector[: 3 + many])
    counts = tuple(np.split(vector[3 + many :], np.cumsum(bins)[:-1]))
    return LocalReference(version, counts, rows, windows, tuple(unusual))


def _p_value(channel: Channel, old: Counts, old_rows: int, new: Counts, rows: int) -> float:
    """Two samples of rows, the covariance of one row pooled from both."""
    before, now = NoisySum(old, old_rows, 0.0), NoisySum(new, rows, 0.0)
    one_row = unit_covariance(channel, old + new, old_rows + rows)
    covariance = rate_covariance(one_row, before) + rate_covariance(one_row, now)
    difference = rate(channel, now) - rate(channel, before)
    return chi2_tail(float(quadratic_form(difference, covariance)), degrees_of_freedom(channel))
