"""The chance that a graph of drawn holders lets a server see more than one sum, bounded by exact tails.

Setting: n devices, of which C are corrupt and known to the server before anybody draws; H = n - C are honest. Each
honest device draws k holders uniformly among the n - 1 others; t shares rebuild a secret. A quorum of signatures makes
all honest openers open the same survivor set S with |S| >= least (docs/secure-aggregation.md has the whole proof). The
server then sees more than the sum over the honest devices of S only if one of two things happens:

1. t or more of one honest device's holders are corrupt, so that its secrets are known without anybody's help;
2. the honest devices of S fall into K and W, both not empty, where all of K are opened and no device of K holds for
   one of W or the other way round. K and W have at least m = least - C devices together.

For a size s of K, and any number w <= max(1, m - s), the chance of 2 is at most each of

* closed: C(H, s) * p^s with p = Pr[Hyp(n - 1, s - 1 + C, k) >= t]. Every device of K was opened by t of its holders,
  each of which is corrupt or in K (an honest opener shares a mask with whom it opens); devices draw independently;
* apart: C(H, w) * min_r C(H - w, r) / C(s, r) * q(w)^r * q(r)^w with q(a) = C(n - 1 - a, k) / C(n - 1, k). Some w
  devices of W (W has at least that many) and all of K chose nobody of each other. The number X of r-subsets of honest
  devices that are apart from these w in both directions has the mean C(H - w, r) q(w)^r q(r)^w, and K alone makes
  C(s, r) of them, so Markov's inequality for X gives the quotient, for every r in 1..s.

`log2_failure` adds up the smaller of both over s = 2..H - 1, and `closed` for s = 1: that is H times the chance of 1
for one device, and a single device that was opened by nobody else is a case of 1.

The accepted least numbers are an interval up to n: `least` enters only through the range w <= max(1, least - C - s). A
larger one only allows more w, and the minimum over more w is not larger; so the bound does not rise with `least`.

Sources: Bell et al. 2020 (CCS), section 4, for the setting; the bounds are computed here as stated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedinfer.secagg.hypergeometric import CORRECTNESS_BITS, FloatArray, fewest_marked, log_choose, log_tail

IntArray = npt.NDArray[np.int64]
_CUTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Values of w that are tried; each is a bound, so a coarse list is safe."""
_MOMENTS = 40
"""Values of r that are tried for each size; the same holds."""


@lru_cache(maxsize=1024)
def log2_failure(n: int, degree: int, threshold: int, corrupt: int, least: int) -> float:
    """Upper bound on the chance per session, as a logarithm to base 2.

    Args:
        n: devices of the cohort.
        degree: holders that each draws, 1..n - 2.
        threshold: shares that rebuild a secret.
        corrupt: devices that work for the server, 0..n - 2.
        least: fewest survivors, above `corrupt`.

    Returns:
        At most 0; -inf where it cannot happen.
    """
    sizes = np.arange(1, n - corrupt)
    return _sum_of(_by_size(n, degree, threshold, corrupt, least, sizes))


def may_suffice(n: int, degree: int, threshold: int, corrupt: int, least: int, bits: float) -> bool:
    """Tell whether the bound may be small enough, from a few sizes of K only: a cheap test before `log2_failure`.

    Args:
        n: devices of the cohort.
        degree: holders that each draws, 1..n - 2.
        threshold: shares that rebuild a secret.
        corrupt: devices that work for the server, 0..n - 2.
        least: fewest survivors, above `corrupt`.
        bits: wanted security, > 0.

    Returns:
        False when `log2_failure` is certainly above -bits, because some terms of its sum are; True when it may not be.
    """
    honest = n - corrupt
    few = {1, 2, 3, 4, max(least - corrupt - 2, 1), max(least - corrupt - 1, 1), honest - 1}
    sizes = np.array(sorted(size for size in few if 0 < size < honest))
    return bool(_sum_of(_by_size(n, degree, threshold, corrupt, least, sizes)) <= -bits)


def largest_threshold(n: int, degree: int, dropped: int) -> int:
    """Largest threshold with which every device keeps enough holders to be unmasked, but for a chance of 2^-20.

    Args:
        n: devices of the cohort.
        degree: holders that each draws.
        dropped: devices that may drop out during the session, >= 0.

    Returns:
        0..degree; each device alone may fail with a chance of 2^-20 / n (union bound).
    """
    others = n - 1
    return fewest_marked(others, others - min(dropped, others), degree, 2.0**-CORRECTNESS_BITS / n)


def _by_size(n: int, degree: int, threshold: int, corrupt: int, least: int, sizes: IntArray) -> FloatArray:
    """Log of the smaller bound for each size of K."""
    honest = n - corrupt
    best = log_choose(honest, sizes) + sizes * log_tail(n - 1, sizes - 1 + corrupt, degree, threshold)
    for cut in _CUTS:
        possible = (sizes > 1) & (cut <= np.maximum(1, least - corrupt - sizes)) & (cut + sizes <= honest)
        if possible.any():
            best[possible] = np.minimum(best[possible], _apart(n, honest, degree, sizes[possible], cut))
    return np.minimum(best, 0.0)


def _apart(n: int, honest: int, degree: int, sizes: IntArray, cut: int) -> FloatArray:
    """Log of the bound that some `cut` honest devices and `sizes` others chose nobody of each other."""
    moments = np.maximum(1, np.round(sizes[:, None] * np.linspace(1 / _MOMENTS, 1, _MOMENTS)).astype(np.int64))
    ways = log_choose(honest - cut, moments) - log_choose(sizes[:, None], moments)
    with np.errstate(invalid="ignore"):
        avoid = moments * _log_avoid(n, degree, cut) + cut * _log_avoid(n, degree, moments)
    bound: FloatArray = log_choose(honest, cut) + (ways + avoid).min(axis=1)
    return bound


def _log_avoid(n: int, degree: int, others: npt.ArrayLike) -> FloatArray:
    """Log of the chance that a device chose nobody of so many others."""
    return log_choose(n - 1 - np.asarray(others), degree) - log_choose(n - 1, degree)


def _sum_of(logs: FloatArray) -> float:
    top = float(logs.max(initial=-np.inf))
    if math.isinf(top):
        return -math.inf
    return min((top + math.log(np.exp(logs - top).sum())) / math.log(2), 0.0)
