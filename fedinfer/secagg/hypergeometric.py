"""Degree and threshold of the neighbour graph by exact hypergeometric tails.

For n devices, of which floor(gn) may be corrupt and floor(dn) may drop out, with B = both together:
* connected: n (n-k-1) / 2 * B! (n-k)! / (n! (B-k)!) < 2^-41, so that the honest surviving graph hangs together;
* t1 = least t with Pr[Hypergeom(n, gn, k) > t] <= 2^-41 / n: more corrupt neighbours than t1 do not happen;
* t2 = largest t with Pr[Hypergeom(n, (1-d)n, k) < t] <= 2^-20 / n: fewer surviving neighbours do not happen;
* semi-honest server: threshold t1 + 1; semi-malicious server: t1 is first raised to ceil((t1 + k - 1.25) / 2), so that
  2 * threshold > k + corrupt neighbours and nobody can gather both secrets of one device; feasible when t1 < t2.

Source: Bell et al. 2020 (CCS), theorems 3.10 and 4.9; google-parfait/federated-compute
`fcp/secagg/server/graph_parameter_finder.cc` (Apache-2.0), whose published test vectors are in tests/vectors/secagg.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SECURITY_BITS = 40
CORRECTNESS_BITS = 20
SHRUNK_BITS = 30
"""Security in bits against a server that leaves out as many honest devices as it may."""
_ROUNDING = 1e-14
_MOST_LOST = 0.9
"""Largest g + d (semi-honest) or g + 2d (semi-malicious) that the publisher's finder takes."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ring:
    """A feasible ring.

    Args:
        degree: neighbours of each device, even.
        threshold: shares that rebuild a secret.
        surviving: neighbours that survive but for a chance of 2^-20 / n (t2).
    """

    degree: int
    threshold: int
    surviving: int


def search_ring(n: int, dropout_rate: float, corruption_rate: float, *, raised: bool) -> Ring | None:
    """Ring of least degree that meets all bounds, or None.

    Args:
        n: devices, >= 3.
        dropout_rate: share that may drop out, in [0, 1).
        corruption_rate: share that may collude with the server, in [0, 1).
        raised: the bound of the semi-malicious server instead of the semi-honest one.
    """
    if corruption_rate + (1 + raised) * dropout_rate > _MOST_LOST + _ROUNDING:
        return None
    log_factorial = _log_factorials(n)
    degrees = np.arange(2, n - 1, 2)
    connected = _log_disconnected(log_factorial, n, degrees, corrupt_or_dropped(n, dropout_rate, corruption_rate))
    for degree in map(int, degrees[connected < -(SECURITY_BITS + 1) * math.log(2)]):
        least = corrupt_bound(log_factorial, n, corruption_rate, degree, raised=raised)
        surviving = surviving_bound(log_factorial, n, dropout_rate, degree)
        if least < surviving:
            return Ring(degree, max(least + 1, 2), surviving)
    return None


def ring_is_safe(n: int, degree: int, threshold: int, dropout_rate: float, corruption_rate: float) -> bool:
    """Tell whether a ring protects its devices from a semi-malicious server.

    Args:
        n: devices.
        degree: neighbours, even, < n - 1.
        threshold: shares that rebuild a secret.
        dropout_rate: share that may drop out.
        corruption_rate: share that may collude with the server.
    """
    log_factorial = _log_factorials(n)
    bad = corrupt_or_dropped(n, dropout_rate, corruption_rate)
    broken = _log_disconnected(log_factorial, n, np.array([degree]), bad)
    least = corrupt_bound(log_factorial, n, corruption_rate, degree, raised=True)
    return bool(broken[0] < -(SECURITY_BITS + 1) * math.log(2)) and threshold > least


def keeps_secrets_apart(n: int, members: int, corrupt: int, degree: int, threshold: int) -> bool:
    """Tell whether a server that leaves honest devices out of the key list still cannot surround anybody.

    Among fewer members the corrupt devices, who all stay, are more frequent than the bounds above count on. Both
    secrets of a device need 2 * threshold <= degree + its corrupt neighbours; that may happen to any of the n devices
    with a chance of 2^-30 at most.

    Args:
        n: devices that are asked.
        members: fewest of them that the key list may hold, > corrupt.
        corrupt: how many collude with the server.
        degree: neighbours, even.
        threshold: shares that rebuild a secret.
    """
    others = members - 1
    draws, marked = min(degree, others), min(corrupt, others)
    return 2 * threshold > draws + most_marked(others, marked, draws, 2.0**-SHRUNK_BITS / n)


def most_marked(n: int, marked: int, draws: int, chance: float) -> int:
    """Least t with Pr[more than t of the marked] <= chance, when `draws` of n are drawn without replacement.

    Args:
        n: devices.
        marked: how many of them, 0..n.
        draws: how many are drawn, 1..n.
        chance: in (0, 1).
    """
    return _upper_quantile(_log_factorials(n), n, marked, draws, chance)


def share_of(n: int, rate: float) -> int:
    """floor(rate * n) of the numbers that were meant: 29 for 0.29 of 100, whose product in binary is below 29."""
    return math.floor((rate + _ROUNDING) * n)


def corrupt_or_dropped(n: int, dropout_rate: float, corruption_rate: float) -> int:
    """Devices that are not both honest and present, at most."""
    return share_of(n, corruption_rate) + share_of(n, dropout_rate)


def corrupt_bound(log_factorial: FloatArray, n: int, rate: float, degree: int, *, raised: bool) -> int:
    """t1: the threshold must be above it."""
    corrupt = share_of(n, rate)
    bound = _upper_quantile(log_factorial, n, corrupt, degree, 2.0 ** -(SECURITY_BITS + 1) / n)
    return math.ceil((bound + degree - 1.25) / 2) if raised else bound


def surviving_bound(log_factorial: FloatArray, n: int, rate: float, degree: int) -> int:
    """t2: the threshold must not be above it."""
    surviving = math.ceil((1 - rate - _ROUNDING) * n)
    return _lower_quantile(log_factorial, n, surviving, degree, 2.0**-CORRECTNESS_BITS / n)


def _log_factorials(n: int) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _log_disconnected(f: FloatArray, n: int, degrees: npt.NDArray[np.int64], bad: int) -> FloatArray:
    """Log of the bound on the chance that the graph falls apart; -inf when there are too few to cut it."""
    bound = (
        math.log(n / 2) + np.log(n - degrees - 1.0) + f[bad] + f[n - degrees] - f[n] - f[np.maximum(bad - degrees, 0)]
    )
    return np.where(degrees > bad, -np.inf, bound)


def _probabilities(f: FloatArray, n: int, marked: int, draws: int) -> tuple[int, FloatArray]:
    """Hypergeometric probabilities from the returned value on: 12 standard deviations + 60 to each side."""
    share = marked / n
    reach = 12 * math.sqrt(draws * share * (1 - share)) + 60
    low = max(0, draws - (n - marked), math.floor(draws * share - reach))
    x = np.arange(low, min(draws, marked, math.ceil(draws * share + reach)) + 1)
    rest = n - marked
    log_p = f[marked] - f[x] - f[marked - x] + f[rest] - f[draws - x] - f[rest - draws + x]
    return low, np.exp(log_p - f[n] + f[draws] + f[n - draws])


def _upper_quantile(f: FloatArray, n: int, marked: int, draws: int, p: float) -> int:
    """Least t with Pr[X > t] <= p."""
    low, probabilities = _probabilities(f, n, marked, draws)
    at_least = np.cumsum(probabilities[::-1])[::-1]
    over = np.flatnonzero(at_least > p)
    return low + int(over[-1]) if over.size else low


def _lower_quantile(f: FloatArray, n: int, marked: int, draws: int, p: float) -> int:
    """Largest t with Pr[X < t] <= p."""
    low, probabilities = _probabilities(f, n, marked, draws)
    return low + int(np.searchsorted(np.cumsum(probabilities), p, side="right"))
