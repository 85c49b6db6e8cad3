"""Rényi divergences of integer laws, computed term by term: what the proved bounds are held against."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ive


def log_skellam(variance: float, largest: int) -> np.ndarray:
    """Log-probabilities of -largest..largest; ratios of Bessel functions by the backward continued fraction."""
    ratio, logs = 0.0, [0.0] * (largest + 1)
    ratios = np.zeros(largest + 2)
    for k in range(largest + 1, 0, -1):
        ratio = 1 / (2 * k / variance + ratio)
        ratios[k] = ratio
    logs[0] = math.log(ive(0, variance))
    for k in range(1, largest + 1):
        logs[k] = logs[k - 1] + math.log(ratios[k])
    half = np.array(logs)
    return np.concatenate([half[:0:-1], half])


def log_discrete_gaussian_sum(variance: float, shares: int, largest: int) -> np.ndarray:
    """Log-probabilities of -largest..largest for a sum of discrete Gaussians; sums of positive terms only."""
    k = np.arange(-largest, largest + 1)
    one = -(k**2) / (2 * variance)
    one = one - np.logaddexp.reduce(one)
    total = one
    for _ in range(shares - 1):
        total = _log_convolve(total, one)
    return total


def _log_convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n = a.size
    half = n // 2
    out = np.empty(n)
    for i in range(n):
        low, high = max(0, i - half), min(n, i + half + 1)
        j = np.arange(low, high)
        out[i] = np.logaddexp.reduce(a[j] + b[i - j + half])
    return out


def shifted(log_p: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities moved by `by`, original), on the values that both cover."""
    if by == 0:
        return log_p, log_p
    return log_p[:-by], log_p[by:]


def renyi(log_p: np.ndarray, log_q: np.ndarray, order: float) -> float:
    """D_order(P || Q) on the common grid."""
    return float(np.logaddexp.reduce(order * log_p + (1 - order) * log_q)) / (order - 1)


def mixed(log_p0: np.ndarray, log_p1: np.ndarray, rate: float) -> np.ndarray:
    """Log-probabilities of (1 - rate) P0 + rate P1."""
    return np.logaddexp(math.log1p(-rate) + log_p0, math.log(rate) + log_p1)
