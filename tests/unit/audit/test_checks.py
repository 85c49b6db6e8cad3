"""The tests of an audit accuse sound mechanisms as rarely as they say, and find what they say they would."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fedinfer.audit.checks import (
    POWER,
    clipping_check,
    excess_check,
    fresh_noise_check,
    fresh_sample_check,
    ledger_check,
    noise_check,
)
from fedinfer.audit.residuals import whitened

RNG = np.random.default_rng(7)


def _rate(accused: list[bool]) -> float:
    return sum(accused) / len(accused)


@pytest.mark.parametrize("check", [noise_check, excess_check, fresh_noise_check])
def test_a_sound_mechanism_is_accused_as_often_as_the_level_says(check: object) -> None:
    level = 0.05
    accused = [check("", "", RNG.standard_normal((6, 9)), level).failed for _ in range(500)]  # type: ignore[operator]
    # Bonferroni may only make it rarer; 3.5 standard deviations of 500 draws are 0.034.
    assert _rate(accused) <= level + 0.034
    if check is not fresh_noise_check:
        assert _rate(accused) >= level - 0.034


def test_the_least_noise_that_is_promised_to_be_found_is_found_with_that_power() -> None:
    least = noise_check("", "", np.ones((20, 13)), 1e-3).figures["least_ratio"]
    found = [noise_check("", "", least * RNG.standard_normal((20, 13)), 1e-3).failed for _ in range(500)]
    assert _rate(found) == pytest.approx(POWER, abs=0.047)
    assert noise_check("", "", 0.5 * RNG.standard_normal((20, 13)), 1e-3).failed


def test_a_stranger_of_the_stated_length_is_found_with_that_power() -> None:
    sound = excess_check("", "", np.ones((5, 8)), 1e-3)
    stranger = np.zeros(40)
    stranger[0] = sound.figures["least_length"]
    found = [excess_check("", "", RNG.standard_normal(40) + stranger, 1e-3).failed for _ in range(500)]
    assert _rate(found) == pytest.approx(POWER, abs=0.047)


def test_noise_that_rounds_share_is_found_with_the_stated_power() -> None:
    share = fresh_noise_check("", "", RNG.standard_normal((10, 30)), 1e-3).figures["least_shared"]
    assert 0 < share < 0.5
    found = []
    for _ in range(300):
        common, own = RNG.standard_normal(30), RNG.standard_normal((10, 30))
        found.append(fresh_noise_check("", "", math.sqrt(share) * common + math.sqrt(1 - share) * own, 1e-3).failed)
    assert _rate(found) == pytest.approx(POWER, abs=0.06)


def test_one_pair_of_rounds_with_the_same_noise_is_found_whatever_its_size() -> None:
    noise = RNG.standard_normal((20, 13))
    noise[17] = 3.0 * noise[4]
    assert fresh_noise_check("", "", noise, 1e-3).failed
    assert fresh_noise_check("", "", 1e6 * noise, 1e-3).failed, "freshness does not ask how large noise is"


def test_noise_that_cancels_in_the_sum_of_all_rounds_is_found() -> None:
    noise = RNG.standard_normal((20, 40))
    assert fresh_noise_check("", "", noise - noise.mean(axis=0), 1e-3).failed


def test_the_law_of_coincidences_is_exact() -> None:
    """Against all 2^9 outcomes of three rows in three samples."""
    rate, outcomes = 0.3, list(itertools.product((0, 1), repeat=9))
    for seen in ((3, 0, 0), (2, 2, 1), (3, 3, 3), (0, 0, 0)):
        counts = np.array(seen)
        value = int((counts * (counts - 1) // 2).sum())
        tail = lower = upper = 0.0
        for outcome in outcomes:
            drawn = np.array(outcome).reshape(3, 3).sum(axis=0)
            chance = rate ** sum(outcome) * (1 - rate) ** (9 - sum(outcome))
            tail += chance * ((drawn * (drawn - 1) // 2).sum() >= value)
            lower += chance * (drawn.sum() <= counts.sum())
            upper += chance * (drawn.sum() >= counts.sum())
        check = fresh_sample_check("", "", counts, 3, rate, 1e-3)
        assert check.p_value == pytest.approx(min(1.0, 3 * tail, 3 * lower, 3 * upper), rel=1e-9)


def test_the_same_rows_in_every_round_are_found_and_so_is_another_rate() -> None:
    once = RNG.random(14) < 0.4
    assert fresh_sample_check("", "", 20 * once.astype(np.int64), 20, 0.4, 1e-3).failed
    assert fresh_sample_check("", "", RNG.binomial(20, 0.7, 14), 20, 0.4, 1e-3).failed
    accused = [fresh_sample_check("", "", RNG.binomial(20, 0.4, 14), 20, 0.4, 0.05).failed for _ in range(300)]
    assert _rate(accused) <= 0.05 + 0.044


def test_a_contribution_that_is_too_long_is_found() -> None:
    assert clipping_check("", "", np.array([0.3, 1.01]), 1.0, 1e-3, 1e-3).failed
    assert not clipping_check("", "", np.array([0.3, 1.0]), 1.0, 1e-3, 1e-3).failed


def test_a_wrong_entry_is_found_and_named() -> None:
    check = ledger_check(9, ("server window-0001",), 1e-3)
    assert check.failed
    assert "window-0001" in check.seen
    assert not ledger_check(9, (), 1e-3).failed


def test_correlated_noise_is_whitened_by_its_strategy() -> None:
    coefficients, fresh = (1.0, 0.5, 0.25), RNG.standard_normal((12, 5))
    matrix = sum(c * np.eye(12, k=-lag) for lag, c in enumerate(coefficients))
    correlated = np.linalg.solve(matrix, fresh)
    assert whitened(correlated, coefficients) == pytest.approx(fresh)
    many = np.linalg.solve(
        sum(c * np.eye(200, k=-lag) for lag, c in enumerate(coefficients)), RNG.standard_normal((200, 40))
    )
    assert fresh_noise_check("", "", many, 1e-3).failed, "and is not fresh before that"
    assert not fresh_noise_check("", "", whitened(many, coefficients), 1e-3).failed


def test_the_laws_are_those_of_scipy() -> None:
    residuals = RNG.standard_normal((4, 6))
    assert noise_check("", "", residuals, 0.01).p_value == pytest.approx(stats.chi2.cdf((residuals**2).sum(), 24))
