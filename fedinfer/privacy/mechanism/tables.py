"""Exact cumulative tables of symmetric integer laws, made in integer arithmetic, and sampling from them by words.

A law is held as weights of 0, 1, ..., K with a relative error below 2^-120, and K so large that less than 2^-120 lies
beyond. Cumulative probabilities are rounded to 128 bits. A sample is the number of boundaries not above a uniform
128-bit number; its low half is drawn only when the high half equals that of a boundary. With up to 2^18 boundaries the
statistical distance of one sample to the exact law is below 2^18 * 2^-128 + 2^-110 + 2^-119 < 2^-109.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError

MAX_VARIANCE = 1 << 22
"""Largest variance of one table (standard deviation 2,048); larger noise is a sum of independent samples."""
_PRECISION = 256
_TOP = (1 << 128) - 1
_WORD = 64
_AMBIGUOUS = np.iinfo(np.int32).min


class Words(Protocol):
    """Uniform 64-bit words."""

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return `count` fresh words.

        Args:
            count: >= 0.

        Returns:
            (count,) uint64, independent and uniform.
        """


@dataclass(frozen=True, slots=True)
class SamplingTable:
    """A law as cumulative boundaries.

    Args:
        offset: largest value; a count of boundaries minus this is a sample.
        boundaries: ascending 128-bit cumulative probabilities, one per value but the largest.
        high: their upper 64 bits, uint64.
        guide: for every value of a word's leading bits the sample, or a mark where those bits do not decide, int32.
        guide_shift: how far to shift a word to get its leading bits.
    """

    offset: int
    boundaries: tuple[int, ...]
    high: npt.NDArray[np.uint64]
    guide: npt.NDArray[np.int32]
    guide_shift: np.uint64

    def look_up(self, words: npt.NDArray[np.uint64], stream: Words) -> npt.NDArray[np.int32]:
        """Samples from uniform words.

        Args:
            words: (n,) uint64, high halves.
            stream: gives low halves, asked only for ties (one in 2^46 words or fewer).

        Returns:
            (n,) int32.
        """
        out = self.guide[(words >> self.guide_shift).astype(np.intp)]
        left = np.flatnonzero(out == _AMBIGUOUS)
        wanted = words[left]
        found = np.searchsorted(self.high, wanted, "right")
        out[left] = found - self.offset
        tied = np.flatnonzero((found > 0) & (self.high[np.maximum(found, 1) - 1] == wanted))
        for place in tied:
            number = (int(wanted[place]) << _WORD) | int(stream.words(1)[0])
            out[left[place]] = bisect_right(self.boundaries, number) - self.offset
        return out


@lru_cache(maxsize=32)
def skellam_table(variance: int) -> SamplingTable:
    """Symmetric Skellam law: the difference of two Poisson variables with mean variance / 2 each.

    P(k) = exp(-mu) I_k(mu) with mu the variance. The ratios come from I_(k-1) = I_(k+1) + (2k/mu) I_k, downwards
    (Miller's algorithm: every term is positive, so relative errors do not grow).

    Args:
        variance: mu, integer in [1, MAX_VARIANCE].

    Raises:
        ConfigError: the variance is out of range.
    """
    _check(variance)
    top = _tail(variance) + 40
    weights = [0] * (top + 1)
    above, here = 0, 1 << _PRECISION
    for k in range(top, 0, -1):
        weights[k] = here
        above, here = here, above + 2 * k * here // variance
    weights[0] = here
    return _table(weights)


@lru_cache(maxsize=32)
def discrete_gaussian_table(variance: int) -> SamplingTable:
    """Discrete Gaussian with parameter sigma^2 = variance: P(k) proportional to exp(-k^2 / (2 variance)).

    w_(k+1) = w_k r_k and r_(k+1) = r_k g with r_0 = exp(-1/(2 variance)) and g = r_0^2, in fixed point.

    Args:
        variance: sigma^2, integer in [1, MAX_VARIANCE].

    Raises:
        ConfigError: the variance is out of range.
    """
    _check(variance)
    bits = 2 * _PRECISION
    ratio = _exp_minus_one_over(2 * variance, bits)
    step = ratio * ratio >> bits
    weights, here = [], 1 << bits
    for _ in range(_tail(variance) + 1):
        weights.append(here)
        here = here * ratio >> bits
        ratio = ratio * step >> bits
    return _table(weights)


def _check(variance: int) -> None:
    if not 1 <= variance <= MAX_VARIANCE:
        raise ConfigError(f"table variance {variance} is outside [1, {MAX_VARIANCE}]")


def _tail(variance: int) -> int:
    """K with less than 2^-120 beyond: Bernstein's bound 2 exp(-t^2 / (2 (variance + t/3))) for either law."""
    log_inverse = 121 * math.log(2)
    return math.ceil(log_inverse / 3 + math.sqrt((log_inverse / 3) ** 2 + 2 * variance * log_inverse))


def _exp_minus_one_over(n: int, bits: int) -> int:
    """floor-ish exp(-1/n) * 2^bits by its series; the error is below 2^-(bits - 8)."""
    total = term = 1 << bits
    k = 1
    while term:
        term = term // (n * k)
        total += -term if k % 2 else term
        k += 1
    return total


def _table(weights: Sequence[int]) -> SamplingTable:
    """Boundaries of the symmetric law with these weights at 0, 1, ..., K."""
    total = weights[0] + 2 * sum(weights[1:])
    offset = len(weights) - 1
    boundaries, cumulative = [], 0
    for value in range(-offset, offset):
        cumulative += weights[abs(value)]
        boundaries.append(min((cumulative << 2 * _WORD) // total, _TOP))
    high = np.array([b >> _WORD for b in boundaries], np.uint64)
    guide_bits = min(20, max(12, offset.bit_length() + 5))
    shift = _WORD - guide_bits
    first = np.arange(1 << guide_bits, dtype=np.uint64) << np.uint64(shift)
    last = first + np.uint64((1 << shift) - 1)
    from_first = np.searchsorted(high, first, "left")  # boundaries certainly at or below the cell, ties left out
    from_last = np.searchsorted(high, last, "right")
    guide = np.where(from_first == from_last, from_first - offset, _AMBIGUOUS).astype(np.int32)
    return SamplingTable(offset, tuple(boundaries), high, guide, np.uint64(shift))
