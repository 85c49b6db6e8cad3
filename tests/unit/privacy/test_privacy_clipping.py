"""Adaptive clipping: it finds the quantile from noisy bits, and the bit is inside the norm that is paid for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedinfer.errors import ConfigError, DataError
from fedinfer.privacy.mechanism.clipping import AdaptiveClipping, FixedClipping, clip_rows, row_norms
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.encoding import decode, encode
from fedinfer.privacy.mechanism.mechanism import NoiseKind, Rounding
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.system import SimulatedEntropy, simulation_rng

RULE = AdaptiveClipping(quantile=0.5, rate=0.2, weight=0.3)


def sent_sum(rows: np.ndarray, rule: AdaptiveClipping, norm: float, z: float, name: object) -> np.ndarray:
    """What n devices' vectors become in a ring with Skellam noise: the released sum."""
    n, d = rows.shape
    mechanism = design(
        kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=d + 1, clipping_norm=rule.bound,
        noise_multiplier=z, contributors=n, summands=n, units=n, max_loss=0.01,
    )  # fmt: skip
    streams = [SimulatedStream(SimulatedEntropy("adaptive", name, use)) for use in ("noise", "rounding")]
    seed = str(name).encode()
    ring = encode(rule.prepare(rows, norm), mechanism, seed, *streams)
    total = (ring.astype(np.uint64).sum(axis=0) & ((1 << mechanism.bits) - 1)).astype(np.uint32)
    return decode(total, mechanism, seed)


def directions(rng: np.random.Generator, lengths: np.ndarray, d: int) -> np.ndarray:
    """Rows of given lengths in random directions."""
    rows = rng.normal(size=(len(lengths), d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True) * lengths[:, None]).astype(np.float32)


def test_what_is_sent_is_the_clipped_update_in_norms_and_the_bit() -> None:
    rows = directions(simulation_rng("sent"), np.array([0.2, 0.8, 0.81, 5.0]), 20)
    sent = RULE.prepare(rows, 0.8 * (1 + 1e-6))
    assert sent.shape == (4, 21)
    assert sent.dtype == np.float32
    assert np.sign(sent[:, -1]).tolist() == [1, 1, -1, -1]
    assert np.abs(sent[:, -1]) == pytest.approx(0.3)
    assert row_norms(sent[:, :-1]) == pytest.approx([0.25, 1, 1, 1], rel=1e-5)
    np.testing.assert_allclose(RULE.updates(sent, 0.8)[:2], rows[:2], rtol=1e-5, atol=1e-7)


def test_an_update_of_exactly_the_norm_is_not_clipped() -> None:
    sent = RULE.prepare(np.array([[3, 4], [3, 4.001]], np.float32), 5.0)
    assert np.sign(sent[:, -1]).tolist() == [1, -1]


def test_a_fixed_norm_is_not_moved_by_what_a_server_announces() -> None:
    rows = directions(simulation_rng("fixed"), np.array([0.5, 9.0]), 6)
    for announced in (1e-30, 1e30, math.nan, math.inf, -1.0):
        np.testing.assert_array_equal(FixedClipping(2.0).prepare(rows, announced), clip_rows(rows, 2.0))


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_norm_that_is_none_is_refused(norm: float) -> None:
    with pytest.raises(ConfigError, match="positive and finite"):
        RULE.prepare(np.ones((2, 3), np.float32), norm)


def test_the_fraction_comes_back_from_a_sum_exactly() -> None:
    rows = np.zeros((10, 4), np.float32)
    rows[:3, 0] = 5.0
    total = RULE.prepare(rows, 1.0).sum(axis=0)
    assert RULE.updates(total, 1.0) == pytest.approx([3, 0, 0, 0], abs=1e-5)
    assert RULE.fraction(float(RULE.bits(total)[0]) / 10) == pytest.approx(0.7, abs=1e-6)


def test_the_released_fraction_is_unbiased_with_the_noise_that_is_claimed() -> None:
    """400 releases of 25 devices, 60 % of them below the norm: mean 0.6, deviation z sqrt(1 + w^2) / (2 w n)."""
    rows = directions(simulation_rng("fraction"), np.array([0.5] * 15 + [2.0] * 10), 15)
    z, releases = 2.0, 400
    found = [
        RULE.fraction(float(RULE.bits(sent_sum(rows, RULE, 1.0, z, number))[0]) / 25) for number in range(releases)
    ]
    deviation = z * RULE.bound / (2 * RULE.weight * 25)
    assert np.mean(found) == pytest.approx(0.6, abs=4 * deviation / math.sqrt(releases))
    assert np.std(found) == pytest.approx(deviation, rel=4 / math.sqrt(2 * releases))


def test_the_norm_moves_towards_the_quantile() -> None:
    assert RULE.next_norm(1.0, 0.5) == 1.0
    assert RULE.next_norm(1.0, 1.0) == pytest.approx(math.exp(-0.1))
    assert RULE.next_norm(1.0, 0.0) == pytest.approx(math.exp(0.1))
    assert RULE.next_norm(1.0, 7.0) == RULE.next_norm(1.0, 1.0)  # noise cannot push it further than a true fraction


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.1, 40.0])
def test_without_noise_it_finds_the_quantile_of_constant_norms(quantile: float, start: float) -> None:
    rule, norm = AdaptiveClipping(quantile, rate=0.2, weight=0.25), start
    lengths = np.linspace(1.0, 3.0, 101)
    rows = directions(simulation_rng("constant"), lengths, 8)
    for _ in range(150):
        norm = rule.next_norm(norm, rule.fraction(float(rule.bits(rule.prepare(rows, norm)).mean())))
    assert norm == pytest.approx(np.quantile(lengths, quantile), rel=0.02)


def test_it_converges_under_noise_and_secure_sums() -> None:
    """100 devices, norms log-normal around 2: starting at 0.1 the norm reaches the median through noisy ring sums."""
    rng, norm = simulation_rng("adaptive"), 0.1
    rule = AdaptiveClipping(quantile=0.5, rate=0.3, weight=0.25)
    for number in range(60):
        rows = directions(rng, np.exp(rng.normal(math.log(2.0), 0.5, 100)), 15)
        total = sent_sum(rows, rule, norm, 3.0, number)
        norm = rule.next_norm(norm, rule.fraction(float(rule.bits(total)[0]) / 100))
    assert norm == pytest.approx(2.0, rel=0.25)


@pytest.mark.parametrize(
    "bad", [(0.0, 0.2, 0.3), (1.0, 0.2, 0.3), (0.5, 0.0, 0.3), (0.5, 0.2, 0.0), (0.5, 0.2, math.nan)]
)
def test_senseless_rules_are_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError):
        AdaptiveClipping(*bad)


def test_broken_rows_are_named() -> None:
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan
    with pytest.raises(DataError, match="row 1"):
        clip_rows(rows, 1.0)
    with pytest.raises(DataError, match="row 1"):
        RULE.prepare(rows, 1.0)
    assert not clip_rows(np.zeros((2, 4), np.float32), 1.0).any()


@pytest.mark.parametrize(("value", "norm"), [(1e-38, 10 * 21.6 * 2.0**-149), (3e38, 10 * 3e38 * 1.6 * 2.0**-149)])
def test_numbers_with_few_digits_are_not_rounded_beyond_the_norm(value: float, norm: float) -> None:
    """Products, or factors, for which float32 has a handful of bits, each of which would be rounded up."""
    rows = np.full((2, 100), value, np.float32)
    assert (row_norms(clip_rows(rows, norm)) <= norm).all()
