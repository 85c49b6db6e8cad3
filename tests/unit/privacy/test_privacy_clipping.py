"""Adaptive clipping: it finds the quantile from noisy bits, and the bit is inside the norm that is paid for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedinfer.errors import ConfigError, DataError
from fedinfer.privacy.clipping import AdaptiveClipping, clip_rows, row_norms
from fedinfer.privacy.design import design
from fedinfer.privacy.encoding import decode, encode
from fedinfer.privacy.mechanism import NoiseKind, Rounding
from fedinfer.privacy.noise import SimulatedStream
from fedinfer.system import SimulatedEntropy, simulation_rng

RULE = AdaptiveClipping(quantile=0.5, rate=0.2, weight=0.3)


def test_the_longer_vector_stays_within_the_joint_norm() -> None:
    rng = simulation_rng("joint")
    rows = (rng.normal(size=(300, 20)) * rng.uniform(0.01, 3, (300, 1))).astype(np.float32)
    longer = RULE.append_bits(rows, 0.8)
    assert longer.shape == (300, 21)
    assert longer.dtype == np.float32
    assert row_norms(longer).max() <= RULE.joint_norm(0.8) * (1 + 1e-7)
    bits = longer[:, -1]
    assert np.allclose(np.abs(bits), 0.3 * 0.8)
    assert np.array_equal(bits > 0, row_norms(rows) <= 0.8)


def test_fraction_comes_back_from_a_sum() -> None:
    rows = np.zeros((10, 4), np.float32)
    rows[:3, 0] = 5.0
    total = RULE.append_bits(rows, 1.0).sum(axis=0)
    update, fraction = RULE.split_sum(total, 1.0, 10)
    assert update.shape == (4,)
    assert fraction == pytest.approx(0.7)


def test_the_norm_moves_towards_the_quantile() -> None:
    assert RULE.next_norm(1.0, 0.5) == 1.0
    assert RULE.next_norm(1.0, 1.0) == pytest.approx(math.exp(-0.1))
    assert RULE.next_norm(1.0, 0.0) == pytest.approx(math.exp(0.1))
    assert RULE.next_norm(1.0, 7.0) == RULE.next_norm(1.0, 1.0)  # noise cannot push it further than a true fraction


def test_it_converges_under_noise_and_secure_sums() -> None:
    """100 devices, norms log-normal around 2: starting at 0.1 the norm reaches the median through noisy ring sums."""
    rng, norm = simulation_rng("adaptive"), 0.1
    rule = AdaptiveClipping(quantile=0.5, rate=0.3, weight=0.5)
    for round_number in range(60):
        lengths = np.exp(rng.normal(math.log(2.0), 0.5, (100, 1)))
        rows = rng.normal(size=(100, 15))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True) * lengths).astype(np.float32)
        mechanism = design(
            kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=16, clipping_norm=rule.joint_norm(norm),
            noise_multiplier=3.0, contributors=80, summands=100, units=100, max_loss=0.01,
        )  # fmt: skip
        seed = bytes([round_number])
        streams = [SimulatedStream(SimulatedEntropy("adaptive", round_number, use)) for use in ("noise", "rounding")]
        ring = encode(rule.append_bits(rows, norm), mechanism, seed, *streams)
        total = (ring.astype(np.uint64).sum(axis=0) & ((1 << mechanism.bits) - 1)).astype(np.uint32)
        _, fraction = rule.split_sum(decode(total, mechanism, seed), norm, 100)
        norm = rule.next_norm(norm, fraction)
    assert norm == pytest.approx(2.0, rel=0.25)


@pytest.mark.parametrize("bad", [(0.0, 0.2, 0.3), (1.0, 0.2, 0.3), (0.5, 0.0, 0.3), (0.5, 0.2, 0.0)])
def test_senseless_rules_are_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError):
        AdaptiveClipping(*bad)


def test_broken_rows_are_named() -> None:
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan
    with pytest.raises(DataError, match="row 1"):
        clip_rows(rows, 1.0)
    assert not clip_rows(np.zeros((2, 4), np.float32), 1.0).any()
