"""Is this sum what the reference says? A chi-square test that knows its noise.

A channel's sum H over `size` units (devices, or rows for unit `example`) is compared as a rate x = H / size with the
reference rate x0. Everything is linear in the two sums, so the noise of secure aggregation enters the null hypothesis
exactly:

    d = A'(x - x0),   cov(d) = A'(R + R0)A,   R = V/size + variance/size^2 I,   Q = d' cov(d)^-1 d ~ chi2(df)

* V = diag(q) - qq' with ONE sample per unit bounds the covariance of any device's normalised (and clipped) report, for
  any number of rows and any dependence inside a device: a report is a mixture of unit vectors and 0 with mean q, so
  E[hh'] <= diag(q) (Jensen). It holds for different devices too. The null is therefore conservative. A report whose
  bins sum to at most s < 1 (a flag of a clipped device) has E[hh'] <= s diag(q) (Cauchy-Schwarz).
* The columns of A are fixed and public, they do not depend on the noisy reference: all contrasts for categories
  (df = bins - 1), polynomials of degree 1 to 3 in the bin number for ordered bins (Neyman 1937; more power for shifts
  and changes of scale at every epsilon), every bin by itself for shares (df = bins), whose total may move.
* Every function takes a sum or many of them at once: leading dimensions are runs of a simulation.

Cut-offs that ignore the noise (PSI 0.1 or 0.25, plain chi-square) raise false alarms in most windows and are not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import assert_never

import numpy as np

from fedinfer.drift.channels import Bins, Channel, Floats
from fedinfer.errors import ConfigError

SMOOTH_DEGREE = 3
"""Degree of the polynomials for ordered bins; 3 or 4 beat the full test for shifts and changes of scale."""


@dataclass(frozen=True, slots=True)
class NoisySum:
    """A decoded sum of one channel.

    Args:
        total: shape (..., bins); may be negative where noise is.
        size: units in it: devices, or rows for unit `example`; > 0; of many runs (...).
        noise_variance: variance of the summed noise per bin, >= 0, in squared units of `total`.
    """

    total: Floats
    size: float | Floats
    noise_variance: float

    def __post_init__(self) -> None:
        if not np.all(np.greater(self.size, 0)) or not self.noise_variance >= 0:
            raise ConfigError(f"sum over {self.size} units with noise variance {self.noise_variance} cannot be tested")


@cache
def contrasts(bins: int, kind: Bins) -> Floats:
    """Directions in which a channel is tested: orthonormal columns, orthogonal to the constant except for shares.

    Args:
        bins: of the channel, >= 2; >= 1 for shares.
        kind: all directions for categories, polynomials up to `SMOOTH_DEGREE` for ordered bins, every bin for shares.

    Returns:
        A, (bins, df) float64, read-only and shared.
    """
    match kind:
        case Bins.CATEGORIES:
            basis = np.c_[np.ones(bins), np.eye(bins)[:, : bins - 1]]
        case Bins.ORDERED:
            degree = min(SMOOTH_DEGREE, bins - 1)
            basis = np.vander(np.linspace(-1.0, 1.0, bins), degree + 1, increasing=True)
        case Bins.SHARES:
            each: Floats = np.eye(bins)
            each.flags.writeable = False
            return each
        case _:
            assert_never(kind)
    # Only differences between bins are tested: the constant is the total, which is known and cannot drift.
    columns: Floats = np.linalg.qr(basis)[0][:, 1:]
    columns.flags.writeable = False
    return columns


def degrees_of_freedom(channel: Channel) -> int:
    """Number of contrasts tested: bins - 1 for categories, at most 3 for ordered bins.

    Args:
        channel: of a report.
    """
    return int(contrasts(channel.bins, channel.kind).shape[1])


def column(size: float | Floats) -> Floats:
    """Sizes beside their bins.

    Args:
        size: one, or (...) of many runs.

    Returns:
        (..., 1).
    """
    return np.asarray(size, np.float64)[..., None]


def unit_covariance(channel: Channel, total: Floats, size: float | Floats) -> Floats:
    """A'VA: the covariance of ONE unit's report in contrast space, from a (noisy) sum.

    Half a count is added to every bin (Jeffreys), so that a bin nobody has used yet is possible, not infinitely
    surprising; negative bins are noise and count as 0.

    Args:
        channel: of a report.
        total: (..., bins), a sum of reports, possibly with noise.
        size: units in it, >= 0.

    Returns:
        (..., df, df) float64, positive definite.
    """
    q = _likely(channel, total, size)
    a = contrasts(channel.bins, channel.kind)
    mean = q @ a
    spread = (a.T * q[..., None, :]) @ a - mean[..., :, None] * mean[..., None, :]
    covariance: Floats = channel.most**2 * spread
    return covariance


def cautious_covariance(channel: Channel, reference: NoisySum, caution: float) -> Floats:
    """`unit_covariance` from a reference that is itself noisy, with a part of the standard error of every bin on top.

    A covariance that comes out too small by chance raises more false alarms than one that is too large saves (as with
    Hotelling's T, whose tail is longer than chi-square's).

    Args:
        channel: of a report.
        reference: sum of the reference windows, (..., bins).
        caution: standard errors, >= 0.

    Returns:
        (..., df, df) float64, positive definite.
    """
    a = contrasts(channel.bins, channel.kind)
    extra = caution * channel.most * _standard_error(reference)
    widened: Floats = (a.T * extra[..., None, :]) @ a
    return unit_covariance(channel, reference.total, reference.size) + widened


def cautious_variance(channel: Channel, reference: NoisySum, caution: float) -> Floats:
    """The diagonal of `cautious_covariance` in the space of bins.

    Args:
        channel: of a report.
        reference: sum of the reference windows, (..., bins).
        caution: standard errors, >= 0.

    Returns:
        (..., bins) float64, > 0.
    """
    extra = caution * channel.most * _standard_error(reference)
    return bin_variance(channel, reference.total, reference.size) + extra


def _standard_error(reference: NoisySum) -> Floats:
    """Of the rate of each bin: one sample per unit, and the noise."""
    error: Floats = np.sqrt(np.maximum(reference.total, 0.0) + reference.noise_variance) / column(reference.size)
    return error


def bin_variance(channel: Channel, total: Floats, size: float | Floats) -> Floats:
    """The variance of ONE unit's report in every bin, from a (noisy) sum; see `unit_covariance`.

    Args:
        channel: of a report.
        total: (..., bins).
        size: units in it, >= 0.

    Returns:
        (..., bins) float64, > 0.
    """
    q = _likely(channel, total, size)
    variance: Floats = channel.most**2 * q * (1.0 - q)
    return variance


def _likely(channel: Channel, total: Floats, size: float | Floats) -> Floats:
    """Mean report in units of its largest sum, smoothed: sums to at most 1, every bin above 0."""
    filled = np.maximum(total, 0.0) + 0.5
    whole = channel.most * column(size) + 0.5 * (channel.bins + (not channel.kind.exclusive))
    shares: Floats = filled / np.maximum(filled.sum(axis=-1, keepdims=True), whole)
    return shares


def rate(channel: Channel, observed: NoisySum) -> Floats:
    """The rate of a sum in contrast space: A'(H / size).

    Args:
        channel: of a report.
        observed: its sum.

    Returns:
        (..., df) float64.
    """
    result: Floats = (observed.total / column(observed.size)) @ contrasts(channel.bins, channel.kind)
    return result


def rate_covariance(one_unit: Floats, observed: NoisySum, spread: Floats | None = None) -> Floats:
    """A'RA: covariance of a rate, from the sampling of `size` units plus the noise of the sum.

    Args:
        one_unit: from `unit_covariance`, (..., df, df).
        observed: the sum whose rate it is.
        spread: of unit noise in contrast space, (..., df, df); None: the identity, see `labelled.noise_spread`.

    Returns:
        (..., df, df) float64.
    """
    size = column(column(observed.size))
    unit_noise = np.eye(one_unit.shape[-1]) if spread is None else spread
    covariance: Floats = one_unit / size + observed.noise_variance / size**2 * unit_noise
    return covariance


def quadratic_form(difference: Floats, covariance: Floats) -> Floats:
    """Squared length of a vector in units of its covariance (Mahalanobis).

    Args:
        difference: (..., df).
        covariance: (..., df, df), positive definite.

    Returns:
        (...), each >= 0.
    """
    whitened = np.linalg.solve(covariance, difference[..., None])[..., 0]
    squared: Floats = (difference * whitened).sum(axis=-1)
    return squared


def chi2_tail(value: float, df: int) -> float:
    """The chance that a chi-square variable exceeds a value.

    A closed form for whole df (Abramowitz and Stegun 26.4.4, 26.4.5).

    Args:
        value: of the statistic; below 0 counts as 0.
        df: degrees of freedom, >= 1.

    Returns:
        In [0, 1].
    """
    if value <= 0.0:
        return 1.0
    half, offset = value / 2.0, 0.5 * (df % 2)
    powers = (offset + step for step in range(df // 2))
    tail = sum(math.exp(power * math.log(half) - half - math.lgamma(power + 1.0)) for power in powers)
    return min(tail + (math.erfc(math.sqrt(half)) if df % 2 else 0.0), 1.0)
