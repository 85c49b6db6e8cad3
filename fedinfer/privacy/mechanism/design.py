"""Choosing the ring width and the scale of an integer mechanism."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from fedinfer.errors import ConfigError
from fedinfer.privacy.mechanism.mechanism import (
    MAX_BITS,
    MIN_BITS,
    IntegerMechanism,
    NoiseKind,
    Rounding,
    largest_sum,
    loss,
    magnitude,
)
from fedinfer.privacy.mechanism.tables import MAX_VARIANCE
from fedinfer.types import Unit

_PRECISION = 1e-6
_LEAST_SHARE_VARIANCE = 64
"""Shares have whole-numbered variance; from here on rounding it up adds less than 1.6 % of noise."""


def design(
    *,
    kind: NoiseKind,
    rounding: Rounding,
    dimension: int,
    clipping_norm: float,
    noise_multiplier: float,
    contributors: int,
    summands: int,
    units: int,
    max_loss: float,
) -> IntegerMechanism:
    """The narrowest ring, and in it the largest useful scale, for a distributed mechanism.

    Args:
        kind: SKELLAM or DISCRETE_GAUSSIAN.
        rounding: CONDITIONAL for unit `device`, DITHERED for unit `example`.
        dimension: length of the float vectors, >= 1.
        clipping_norm: C of one unit, > 0.
        noise_multiplier: z of the whole sum, relative to C, > 0.
        contributors: honest devices whose shares are guaranteed: ceil((1 - dishonest fraction) * threshold).
        summands: most devices in the sum, >= contributors.
        units: most clipped units in the sum: `summands` for unit `device`; for unit `example` a public bound on the
            sampled examples of all devices together (breaking it risks a wrap-around, not privacy).
        max_loss: largest accepted part of epsilon that rounding and integer noise cost, for instance 0.01. It bounds
            `loss`; half of it for DITHERED, because example sums are sampled (more than 0.004 is needed there, which is
            what the allowance for float32 sums costs).

    Returns:
        A mechanism whose sum wraps around with probability <= 2^-30 per release. Its share of noise fits one table
        where that leaves room, else the scale is the least that meets `max_loss`.

    Raises:
        ConfigError: when 32 bits are not enough, with the bits that would be; kind NONE; or when no scale meets
            `max_loss`.
    """
    if kind is NoiseKind.NONE:
        raise ConfigError("design is for mechanisms with noise; design_without_noise has no noise in the ring")
    unit = rounding.unit
    start = IntegerMechanism(
        kind, dimension, clipping_norm, noise_multiplier, MAX_BITS, 1.0, contributors, summands, units, rounding, unit
    )  # fmt: skip
    per_scale = clipping_norm * noise_multiplier / math.sqrt(contributors)  # standard deviation of a share at scale 1
    # Under sampling epsilon reacts to the norms up to twice as strongly (noise multipliers from 1 on).
    match rounding:
        case Rounding.DITHERED:
            max_loss /= 2
        case Rounding.CONDITIONAL:
            pass
        case _:
            assert_never(rounding)
    floor = math.sqrt(_LEAST_SHARE_VARIANCE) / per_scale
    needed = max(floor, _least_scale(start, max_loss))
    useful = max(needed, math.sqrt(MAX_VARIANCE) / per_scale)
    return _fit(start, needed, useful, magnitude)


def design_without_noise(
    *,
    rounding: Rounding,
    unit: Unit,
    dimension: int,
    clipping_norm: float,
    summands: int,
    units: int,
    max_loss: float,
) -> IntegerMechanism:
    """The narrowest ring for sums that carry no noise share: trust `central` and `local`, and unsafe runs.

    The sum cannot wrap around at all while inputs keep their promises: s C units + summands < 2^(bits-1). Trust
    `central` needs that, because a sum that wraps has no bounded sensitivity.

    Args:
        rounding: CONDITIONAL for whole vectors (unit `device`, and vectors that are already private), DITHERED for sums
            of clipped examples.
        unit: what the server's noise will protect, or `none`.
        dimension: length of the float vectors.
        clipping_norm: C of one unit; for unit `none` a norm that vectors rarely exceed (they are clipped to it).
        summands: most devices in the sum.
        units: most clipped units in the sum.
        max_loss: largest accepted growth of the squared sensitivity by rounding.

    Raises:
        ConfigError: when 32 bits are not enough, or when no scale meets `max_loss`.
    """
    start = IntegerMechanism(
        NoiseKind.NONE, dimension, clipping_norm, 0.0, MAX_BITS, 1.0, 1, summands, units, rounding, unit
    )
    needed = _least_scale(start, max_loss)
    return _fit(start, needed, math.inf, largest_sum)


def _least_scale(start: IntegerMechanism, max_loss: float) -> float:
    if not max_loss > 0:
        raise ConfigError(f"the accepted loss must be positive, got {max_loss}")
    unit_scale = 1 / start.clipping_norm
    return _bisect(lambda s: loss(replace(start, scale=s)) <= max_loss, unit_scale * 1e-3, unit_scale * 1e12)


def _fit(
    start: IntegerMechanism, needed: float, useful: float, bound: Callable[[IntegerMechanism], float]
) -> IntegerMechanism:
    """Least bits that hold the sum at the needed scale, then the largest scale up to `useful` that they hold."""
    bits = max(MIN_BITS, math.ceil(math.log2(bound(replace(start, scale=needed)) + 1)) + 1)
    if bits > MAX_BITS:
        raise ConfigError(
            f"{start.dimension} coordinates, {start.units} units and noise multiplier {start.noise_multiplier:g} "
            f"need a ring of {bits} bits, limit {MAX_BITS}",
            hint="accept a larger loss, or sum fewer devices per group",
        )
    top = 2.0 ** (bits - 1) - 1
    full = _bisect(lambda s: bound(replace(start, scale=s)) > top, needed, needed * 2.0**MAX_BITS)
    return replace(start, bits=bits, scale=max(needed, min(useful, full * (1 - 2 * _PRECISION))))


def _bisect(true_above: Callable[[float], bool], low: float, high: float) -> float:
    """Least scale (to _PRECISION) from which on a condition holds; the result itself fulfils it."""
    if true_above(low):
        return low
    if not true_above(high):
        raise ConfigError(f"no scale up to {high:g} meets the accepted loss", hint="accept a larger loss")
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if true_above(middle) else (middle, high)
    return high
