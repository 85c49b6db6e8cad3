"""Noise on a lattice: its law, coins that double precision cannot decide, sums that show nothing below the noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from fedinfer import lattice_noise
from fedinfer.lattice_noise import MOST_STEPS, discrete_gaussian, lattice_gaussian

Words = Callable[[int], npt.NDArray[np.uint64]]


def source(seed: int) -> Words:
    rng = np.random.default_rng(seed)
    return lambda count: rng.integers(0, 2**64, count, np.uint64, endpoint=False)


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 23])
def test_every_integer_has_its_probability(steps: int) -> None:
    count = 40_000
    drawn = discrete_gaussian(steps, count, source(steps))
    edge = 4 * steps
    places = np.arange(-edge, edge + 1)
    weights = np.exp(-(places**2) / (2 * steps**2))
    seen = np.bincount(np.clip(drawn, -edge, edge) + edge, minlength=places.size)
    law = weights / weights.sum()
    enough = law * count > 5
    seen, law = np.append(seen[enough], seen[~enough].sum()), np.append(law[enough], law[~enough].sum())
    assert stats.chisquare(seen[law > 0], (law / law.sum() * count)[law > 0]).pvalue > 1e-4


@pytest.mark.parametrize("steps", [2**32 + 12345, 2**40, MOST_STEPS])
def test_large_deviations_are_normal_down_to_the_last_bit(steps: int) -> None:
    drawn = discrete_gaussian(steps, 20_000, source(steps % 97))
    assert stats.kstest(drawn / steps, "norm").pvalue > 1e-4
    for bit in range(6):
        assert abs(float(((drawn >> bit) & 1).mean()) - 0.5) < 0.02


def test_it_is_a_little_more_than_what_was_asked_for_on_whole_units() -> None:
    noise = lattice_gaussian(0.75, 2.0**-34, 50_000, source(3))
    assert np.array_equal(noise * 2.0**34, np.trunc(noise * 2.0**34))
    assert noise.std() == pytest.approx(0.75, rel=0.02)
    for std, unit in ((1.0, 2.0**-48), (1e300, 1.0)):
        with pytest.raises(ValueError, match="at most"):
            lattice_gaussian(std, unit, 1, source(1))
    assert lattice_gaussian(1.0, 0.5, 0, source(1)).size == 0


@pytest.mark.parametrize("exponent", [Fraction(1), Fraction(1, 3), Fraction(7, 2), Fraction(10**30 + 1, 10**30)])
@pytest.mark.parametrize("aside", [-2, -1, 0, 1, 2])
def test_coins_that_double_precision_cannot_decide_are_decided_to_128_bits(exponent: Fraction, aside: int) -> None:
    """The uniform number is within some units of 2^-128 of the chance; all its last bits count."""
    mpmath.mp.dps = 60
    bar = int(mpmath.floor(mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator) * mpmath.mpf(2) ** 128))
    high, low = divmod(bar + aside, 2**64)
    asked = iter([high, low])
    words: Words = lambda count: np.array([next(asked) for _ in range(count)], np.uint64)  # noqa: E731
    (heads,) = lattice_noise._coins(np.array([float(exponent)]), lambda _: exponent, words)
    assert heads == (aside <= 0)


def test_most_coins_need_one_word() -> None:
    asked: list[int] = []
    fair = source(5)

    def words(count: int) -> npt.NDArray[np.uint64]:
        asked.append(count)
        return fair(count)

    lattice_noise._coins(np.full(50_000, 0.7), lambda _: Fraction(7, 10), words)
    assert asked == [50_000]


@pytest.mark.parametrize("s", [3, 10, 100])
def test_it_is_as_near_to_a_rounded_normal_number_as_the_proof_says(s: int) -> None:
    mpmath.mp.dps = 40
    whole = mpmath.fsum(mpmath.exp(-mpmath.mpf(k * k) / (2 * s * s)) for k in range(-20 * s, 20 * s + 1))
    for k in (0, 1, s, 3 * s, 8 * s, 15 * s):
        own = mpmath.exp(-mpmath.mpf(k * k) / (2 * s * s)) / whole
        rounded = mpmath.ncdf((k + mpmath.mpf("0.5")) / s) - mpmath.ncdf((k - mpmath.mpf("0.5")) / s)
        if k:
            rounded = mpmath.ncdf((-k + mpmath.mpf("0.5")) / s) - mpmath.ncdf((-k - mpmath.mpf("0.5")) / s)
        distance = abs(mpmath.log(own / rounded))
        assert distance <= (0.125 + (k / s) ** 2 / 24 + 2.0**-9) / s**2
        assert distance <= 11 / s**2


def test_a_noised_number_lies_on_one_grid_whatever_the_number_is() -> None:
    """Half of a float32 unit beside a number leaves no trace: sums of both have the same last bits."""
    unit = 2.0**-32
    for value in (0.0, 1.0, 0.3, -0.7, 1e-9):
        row = math.trunc(value / unit) * unit
        sums = row + lattice_gaussian(2.0, unit, 4_000, source(int(1e6 * abs(value))))
        units = sums / unit
        assert np.array_equal(units, np.trunc(units)), "nothing was rounded"
        assert abs(float((np.abs(units) % 2).mean()) - 0.5) < 0.04
