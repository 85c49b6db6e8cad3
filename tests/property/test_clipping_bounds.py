"""Whatever a device computed and whatever norm a server says, what is sent never exceeds the mechanism's bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedinfer.privacy.mechanism.clipping import AdaptiveClipping, clip_rows, row_norms
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.encoding import to_integers
from fedinfer.privacy.mechanism.mechanism import NoiseKind, Rounding
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.system import SimulatedEntropy, simulation_rng

WEIGHTS = st.floats(1e-3, 1e3)
NORMS = st.floats(min_value=5e-324, max_value=1.7e308)
ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    elements=st.floats(-(2.0**127), 2.0**127, width=32, allow_nan=False),
)


@given(ROWS, NORMS, WEIGHTS)
def test_the_bound_holds_for_every_update_norm_and_weight(rows: np.ndarray, norm: float, weight: float) -> None:
    rule = AdaptiveClipping(0.5, 0.2, weight)
    sent = rule.prepare(rows, norm)
    assert sent.dtype == np.float32
    assert np.isfinite(sent).all()
    assert (row_norms(sent) <= rule.bound).all(), "not by one rounding more"
    np.testing.assert_array_equal(sent[:, -1] > 0, row_norms(rows) <= norm)


@given(st.integers(0, 10_000), st.integers(1, 3000), st.floats(1e-3, 4.0), st.floats(-30, 30))
def test_the_encoder_has_nothing_left_to_clip(seed: int, d: int, weight: float, exponent: float) -> None:
    """Rows right at the norm, where rounding to float32 could lengthen them."""
    rng, norm = simulation_rng("edge", seed), 10.0**exponent
    rows = rng.normal(size=(4, d))
    rows *= (norm * np.array([1.0, 1 + 1e-7, 1 - 1e-7, 3.0]) / np.linalg.norm(rows, axis=1))[:, None]
    rule = AdaptiveClipping(0.5, 0.2, weight)
    sent = rule.prepare(rows.astype(np.float32), norm)
    assert (row_norms(sent) <= rule.bound).all()
    np.testing.assert_array_equal(clip_rows(sent, rule.bound), sent)


@given(ROWS, NORMS, st.floats(0.01, 1.0))
def test_integers_stay_within_what_the_event_counts(rows: np.ndarray, norm: float, weight: float) -> None:
    rule, dimension = AdaptiveClipping(0.5, 0.2, weight), rows.shape[1] + 1
    mechanism = design(
        kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=dimension, clipping_norm=rule.bound,
        noise_multiplier=1.0, contributors=3, summands=6, units=6, max_loss=0.01,
    )  # fmt: skip
    stream = SimulatedStream(SimulatedEntropy("clipping", 1))
    integers = to_integers(rule.prepare(rows, norm), mechanism, b"seed", stream).astype(np.float64)
    assert np.linalg.norm(integers, axis=1).max() <= mechanism.l2
    assert np.abs(integers).sum(axis=1).max() <= mechanism.l1


@given(st.floats(1e-300, 1e300), st.floats(allow_nan=False), st.floats(0.01, 0.99), st.floats(0.01, 1.0))
def test_one_round_moves_the_norm_by_at_most_the_rate(norm: float, part: float, quantile: float, rate: float) -> None:
    moved = AdaptiveClipping(quantile, rate, 0.25).next_norm(norm, part)
    assert abs(np.log(moved) - np.log(norm)) <= rate * max(quantile, 1 - quantile) + 1e-9
