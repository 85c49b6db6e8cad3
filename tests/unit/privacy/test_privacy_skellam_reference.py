"""The Skellam bound against a transcription of its theorem that shares nothing with the product.

The exact divergence alone would not do: it stays below the bound also when half of the L1 term is missing. What makes
the number a bound is the proof, so the number must be the proven one.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedinfer.privacy.accounting.events import SkellamEvent
from fedinfer.privacy.accounting.rdp import event_curve, noise_curve
from fedinfer.types import Relation
from tests.reference.skellam import renyi_divergence, theorem

ORDERS = np.array([2, 3, 8, 31, 100])
SHIFTS = ((1,), (3, 4), (2, -2, 1), (1,) * 16, (40,), (-7, 0, 2))
VARIANCES = (Fraction(1, 2), Fraction(3), Fraction(10), Fraction(4000))


def norms(shift: tuple[int, ...]) -> tuple[float, float]:
    return float(np.linalg.norm(shift)), float(np.abs(shift).sum())


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_bound_is_the_one_of_the_theorem(variance: Fraction, shift: tuple[int, ...]) -> None:
    expected = [float(theorem(int(order), variance, shift)) for order in ORDERS]
    curve = noise_curve(SkellamEvent(float(variance), *norms(shift)), ORDERS, 1.0)
    np.testing.assert_allclose(curve, expected, rtol=1e-12)


def test_both_sides_of_the_minimum_by_hand() -> None:
    """mu = 10, (3, 4), order 2: 50/20 + min((75 + 42)/400, 21/20) = 2.7925; mu = 1/2, (1,), order 10: 10 + 3."""
    assert theorem(2, Fraction(10), (3, 4)) == Fraction(27925, 10000)
    assert theorem(10, Fraction(1, 2), (1,)) == 13
    assert noise_curve(SkellamEvent(10.0, 5.0, 7.0), np.array([2]), 1.0)[0] == pytest.approx(2.7925)
    assert noise_curve(SkellamEvent(0.5, 1.0, 1.0), np.array([10]), 1.0)[0] == pytest.approx(13.0)


@pytest.mark.parametrize("shift", SHIFTS[:3])
def test_replacing_a_unit_moves_by_twice_the_vector(shift: tuple[int, ...]) -> None:
    curve = event_curve(SkellamEvent(10.0, *norms(shift)), Relation.REPLACE_ONE)
    doubled = tuple(2 * v for v in shift)
    assert curve[0] == pytest.approx(float(theorem(2, Fraction(10), doubled)), rel=1e-12)


@pytest.mark.parametrize(("shift", "variance"), [(1, 0.5), (2, 3.0), (5, 10.0)])
def test_the_theorem_covers_the_law(shift: int, variance: float) -> None:
    for order in (2, 3, 8):
        exact = float(renyi_divergence(shift, variance, order, 60))
        assert 0 < exact <= float(theorem(order, Fraction(variance), (shift,)))
        curve = noise_curve(SkellamEvent(variance, float(shift), float(shift)), np.array([order]), 1.0)
        assert exact <= curve[0] * (1 + 1e-12)
