"""Gaussian noise on whole multiples of a small unit, without a rounding error: for sums that are such multiples too.

Floating-point noise has a grid of its own, and where a noised number lies on it can tell what is below the noise
(Mironov 2012, *On significance of the least significant bits for differential privacy*). Here number and noise are
whole multiples of one unit, a power of two, and far below 2^53 of it, so their sum is exact and has the same grid
whatever the number is. What is rounded afterwards is post-processing.

**What holds.** Let one unit of privacy move the sum by at most C, and s be the noise's deviation in units, an integer.
The noise has the law P(k) proportional to exp(-k^2 / 2 s^2) on the integers, each number within 2^-108 of it. Against
R, a normal number of deviation s rounded to an integer, |log P(k) - log R(k)| <= (1/8 + y^2/24 + 2^-9) / s^2 with
y = k / s: R(k) is the normal density times E[exp(-u^2 / 2 s^2) cosh(k u / s^2)] for u uniform on [-1/2, 1/2], and the
sum of the density over the integers is 1 up to 2 exp(-2 pi^2 s^2) (Poisson summation). With R everything is
post-processing of the Gaussian mechanism on integer vectors, because moving by integers and rounding can be swapped. So
what is (e, d)-private for Gaussian noise is (e + 2 n c, d exp(n c) + (1 + exp(e + n c)) n 2^-108)-private for n numbers
of this noise, where c = 11 / s^2 bounds that distance up to y = 16, and less than 2^-180 lies beyond. With s >= 2^32
and n <= 2^40 numbers, 2 n c < 2^-19. []

The sampler is that of Canonne, Kamath and Steinke 2020, *The discrete Gaussian for differential privacy*, Algorithms 2
and 3: a discrete Laplace number that is accepted with a probability of the form exp(-x). Every coin is one comparison
of a uniform number with exp(-x), in double precision where that decides, else to 128 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import numpy.typing as npt

Words = Callable[[int], npt.NDArray[np.uint64]]
"""So many uniform words of 64 bits."""
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

MOST_STEPS = 1 << 47
"""Largest deviation in units: 40 of it, and a sum beside it, stay below 2^53."""
_SURE = 2.0**-48
"""Twice the largest error of exp(-x) and of x itself in double precision."""
_DIGITS = Context(prec=60)
_BATCH = 1 << 14


def lattice_gaussian(std: float, unit: float, count: int, words: Words) -> Floats:
    """Independent Gaussian numbers on whole multiples of a unit.

    Args:
        std: standard deviation, > 0; a little more is drawn, so that it is a whole number of units.
        unit: a power of two.
        count: >= 0.
        words: source of randomness; that of the operating system in a real deployment.

    Returns:
        (count,) float64, whole multiples of `unit`.

    Raises:
        ValueError: the deviation is above MOST_STEPS units, where sums would not be exact any more.
    """
    steps = math.ceil(std / unit * (1 + 2.0**-30))  # what a clipped number may be too long by in double precision
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"noise of deviation {std:g} in units of {unit:g}: {steps} of them, at most 2^47")
    return discrete_gaussian(steps, count, words).astype(np.float64) * unit


def discrete_gaussian(steps: int, count: int, words: Words) -> Integers:
    """Independent integers k with probability proportional to exp(-k^2 / (2 steps^2)).

    Args:
        steps: standard deviation, integer in [1, MOST_STEPS].
        count: >= 0.
        words: source of randomness.

    Returns:
        (count,) int64.
    """
    bits = steps.bit_length()
    scale, square = 1 << bits, steps * steps
    out, done = np.empty(count, np.int64), 0
    while done < count:
        found = _laplace(bits, min(2 * (count - done) + 16, _BATCH), words)
        size = np.abs(found)
        exponent: Floats = (size - square / scale) ** 2 / (2.0 * square)
        kept = _coins(exponent, partial(_exact, size, scale, square), words)
        some = found[kept][: count - done]
        out[done : done + some.size] = some
        done += some.size
    return out


def _exact(size: Integers, scale: int, square: int, at: int) -> Fraction:
    """(|k| - s^2 / t)^2 / 2 s^2 of the candidate k at a place, t being the scale of the Laplace law."""
    return Fraction((int(size[at]) * scale - square) ** 2, 2 * square * scale**2)


def _laplace(bits: int, count: int, words: Words) -> Integers:
    """At most `count` integers k with probability proportional to exp(-|k| / 2^bits): as many as were accepted."""
    drawn = words(count)
    low = (drawn & np.uint64((1 << bits) - 1)).astype(np.int64)
    part: Floats = low.astype(np.float64) * 2.0**-bits
    kept = _coins(part, lambda at: Fraction(int(low[at]), 1 << bits), words)
    drawn, low = drawn[kept], low[kept]
    whole, going = np.zeros(low.size, np.int64), np.arange(low.size)
    while going.size:  # so many coins of exp(-1) in a row
        going = going[_coins(np.ones(going.size), lambda _: Fraction(1), words)]
        whole[going] += 1
    size, negative = low + (whole << bits), (drawn >> np.uint64(63)).astype(np.bool_)
    once = ~(negative & (size == 0))  # zero has no second sign
    found: Integers = np.where(negative, -size, size)[once]
    return found


def _coins(exponent: Floats, exact: Callable[[int], Fraction], words: Words) -> Flags:
    """Independent coins that are true with probability exp(-exponent).

    Args:
        exponent: (n,) >= 0, in double precision.
        exact: the same number without an error, by its place.
        words: source of randomness.
    """
    drawn, chance = words(exponent.size), np.exp(-exponent)
    uniform = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
    heads = uniform < chance
    for at in np.flatnonzero(np.abs(uniform - chance) < _SURE).tolist():
        heads[at] = _settled(int(drawn[at]), exact(at), words)
    return heads


def _settled(drawn: int, exponent: Fraction, words: Words) -> bool:
    """Whether a uniform number of 128 bits, of which the first 64 are drawn, is below exp(-exponent)."""
    number = (drawn << 64) | int(words(1)[0])
    power = _DIGITS.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
    return Decimal(number) < _DIGITS.multiply(_DIGITS.exp(power), Decimal(1 << 128))
