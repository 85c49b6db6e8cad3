"""Exact hypergeometric tails, and how rates become numbers of devices.

Nothing is sampled and nothing approximated: probabilities are sums of products of factorials, in logarithms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SECURITY_BITS = 40
CORRECTNESS_BITS = 20
_ROUNDING = 1e-14

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def share_of(n: int, rate: float) -> int:
    """Devices that may drop out: floor(rate * n) of the decimal number that was written.

    29 for 0.29 of 100, whose product in binary is below 29. Fewer dropouts mean more survivors are promised, so the
    safe rounding is down.

    Args:
        n: devices.
        rate: share that may drop out, in [0, 1).
    """
    return math.floor((rate + _ROUNDING) * n)


def corrupt_among(n: int, rate: float) -> int:
    """Devices that may work for the attacker: ceil(rate * n) of the decimal number that was written.

    A rate above zero counts on one device at least, however few there are: the safe rounding is up.

    Args:
        n: devices.
        rate: share that may be corrupt, in [0, 1).
    """
    return math.ceil((rate - _ROUNDING) * n) if rate > 0 else 0


def most_marked(n: int, marked: int, draws: int, chance: float) -> int:
    """Least t with Pr[more than t of the marked] <= chance, when `draws` of n are drawn without replacement.

    Args:
        n: devices.
        marked: how many of them, 0..n.
        draws: how many are drawn, 1..n.
        chance: in (0, 1).
    """
    at_least = np.cumsum(_probabilities(n, marked, draws)[::-1])[::-1]
    over = np.flatnonzero(at_least > chance)
    return int(over[-1]) if over.size else 0


def fewest_marked(n: int, marked: int, draws: int, chance: float) -> int:
    """Largest t with Pr[fewer than t of the marked] <= chance, when `draws` of n are drawn without replacement.

    Args:
        n: devices.
        marked: how many of them, 0..n.
        draws: how many are drawn, 1..n.
        chance: in (0, 1).
    """
    return min(int(np.searchsorted(np.cumsum(_probabilities(n, marked, draws)), chance, side="right")), draws)


def log_choose(n: npt.ArrayLike, k: npt.ArrayLike) -> FloatArray:
    """Natural logarithm of the binomial coefficient.

    Args:
        n: integers >= 0, any shape.
        k: integers, of a shape that broadcasts with `n`.

    Returns:
        float64 of the common shape; -inf where k is not in 0..n.
    """
    n, k = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(k, np.int64))
    possible = (k >= 0) & (k <= n)
    top, chosen = np.where(possible, n, 0), np.where(possible, k, 0)
    f = _log_factorials(1 << int(top.max(initial=1)).bit_length())
    return np.where(possible, f[top] - f[chosen] - f[top - chosen], -np.inf)


def log_tail(n: int, marked: IntArray, draws: int, least: int) -> FloatArray:
    """Log of Pr[at least `least` of the marked], when `draws` of n are drawn without replacement.

    Args:
        n: devices.
        marked: how many of them, shape (m,), each 0..n.
        draws: how many are drawn, 0..n.
        least: wanted.

    Returns:
        Shape (m,), at most 0; -inf where it cannot happen.
    """
    if least > draws:
        return np.full(marked.shape, -np.inf)
    hits = np.arange(max(least, 0), draws + 1)
    logs = log_choose(marked[:, None], hits) + log_choose(n - marked[:, None], draws - hits) - log_choose(n, draws)
    # log-sum-exp: the terms reach far below the smallest double.
    top = logs.max(axis=1)
    finite = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        tails: FloatArray = np.minimum(finite + np.log(np.exp(logs - finite[:, None]).sum(axis=1)), 0.0)
    return tails


@lru_cache(maxsize=32)
def _log_factorials(n: int) -> FloatArray:
    """log(i!) for i = 0..n, summed in order."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _probabilities(n: int, marked: int, draws: int) -> FloatArray:
    """Of 0, 1, ... `draws` marked ones."""
    x = np.arange(draws + 1)
    return np.exp(log_choose(marked, x) + log_choose(n - marked, draws - x) - log_choose(n, draws))
