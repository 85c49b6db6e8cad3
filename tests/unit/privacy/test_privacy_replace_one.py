"""Replace-one with sampling: the dominating pair and its composition, against an integration that shares no code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled, Repeated
from fedinfer.types import Relation

R1, DELTA = Relation.REPLACE_ONE, 1e-5


def composed_delta(epsilon: float, rate: float, z: float, steps: int, *, up: bool) -> float:
    """delta of `steps` rounds of (1-q) N(0) + q N(1) against (1-q) N(0) + q N(-1), from above or from below.

    The privacy loss of one round is put on a grid, rounded up or down, and composed by a Fourier transform.
    """
    x = np.linspace(-14 * z - 1, 14 * z + 1, 400_001)
    width = x[1] - x[0]
    laws = [(1 - rate) * np.exp(-(x**2) / (2 * z * z)) + rate * np.exp(-((x - m) ** 2) / (2 * z * z)) for m in (1, -1)]
    mass = laws[0] * width / (z * math.sqrt(2 * math.pi))
    step, size = 2.0**-11, 2**17
    loss = np.log(laws[0] / laws[1]) / step
    places = (np.ceil(loss) if up else np.floor(loss)).astype(np.int64)
    one = np.bincount(places + size // 2, mass, size)
    total = np.fft.irfft(np.fft.rfft(np.fft.ifftshift(one)) ** steps, size)
    losses = (np.arange(size) - size // 2) * step
    return float((np.fft.fftshift(total) * np.maximum(-np.expm1(epsilon - losses), 0)).sum())


@pytest.mark.parametrize(("rate", "z", "steps"), [(0.001, 0.5, 2000), (0.01, 1.0, 1000), (0.5, 9.4, 20)])
def test_epsilon_is_that_of_an_independent_integration(rate: float, z: float, steps: int) -> None:
    epsilon = account([Repeated(PoissonSampled(rate, GaussianEvent(z)), steps)], DELTA, R1).epsilon
    assert composed_delta(epsilon, rate, z, steps, up=False) <= DELTA, "not too small"
    assert composed_delta(0.97 * epsilon, rate, z, steps, up=True) > DELTA, "and not much too large"


def test_it_is_far_below_what_two_steps_over_an_empty_place_prove() -> None:
    events = [Repeated(PoissonSampled(0.001, GaussianEvent(0.5)), 2000)]
    found = account(events, DELTA, R1)
    assert found.accountant == "pld"
    assert rdp_epsilon(events, DELTA, R1) > 30
    assert found.epsilon < 3.8
    assert found.epsilon >= account(events, DELTA, Relation.ZERO_OUT).epsilon


def divergence(growth: float, rate: float, z: float, v: tuple[float, float], w: tuple[float, float]) -> float:
    """Largest P(E) - growth Q(E) in two dimensions, by the midpoint rule."""
    line = np.linspace(-7 * z - 1, 7 * z + 1, 601)
    x, y = np.meshgrid(line, line)

    def law(m: tuple[float, float]) -> np.ndarray:
        moved = np.exp(-((x - m[0]) ** 2 + (y - m[1]) ** 2) / (2 * z * z))
        return (1 - rate) * np.exp(-(x**2 + y**2) / (2 * z * z)) + rate * moved

    cell = (line[1] - line[0]) ** 2 / (2 * math.pi * z * z)
    return float(np.maximum(law(v) - growth * law(w), 0).sum() * cell)


@pytest.mark.parametrize("growth", [0.7, 1.0, 1.2, 2.0])
def test_opposite_vectors_of_full_length_are_the_worst(growth: float) -> None:
    rng = np.random.default_rng(3)
    for rate, z in ((0.1, 0.6), (0.6, 1.5)):
        bound = divergence(growth, rate, z, (1.0, 0.0), (-1.0, 0.0))
        for _ in range(6):
            (a, b), (r, s) = rng.uniform(0, 2 * math.pi, 2), rng.uniform(0, 1, 2) ** 0.5
            v, w = (r * math.cos(a), r * math.sin(a)), (s * math.cos(b), s * math.sin(b))
            assert divergence(growth, rate, z, v, w) <= bound + 1e-6
        assert divergence(growth, rate, z, (1.0, 0.0), (1.0, 0.0)) <= bound + 1e-6
