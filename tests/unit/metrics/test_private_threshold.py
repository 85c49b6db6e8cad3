"""A threshold from a noisy histogram: its figures are those of the rows, and noise alone moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fedinfer.errors import BadMessage
from fedinfer.metrics import Metric
from fedinfer.metrics.private_threshold import (
    BINS,
    WIDTH,
    check_edges,
    chosen_log_odds,
    edges_of,
    histogram_of,
    log_odds,
    scores_of,
)

RNG = np.random.default_rng(4)
ROWS = 4000
SCORES = RNG.normal(-3.0, 1.2, ROWS)
Y = (RNG.random(ROWS) < 1 / (1 + np.exp(-SCORES - 0.3))).astype(np.int64)
EDGES = edges_of(SCORES)
EDGES_OF_EVEN = edges_of(SCORES + 3)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (Metric.F1, f1_score),
        (Metric.BALANCED_ACCURACY, balanced_accuracy_score),
        (Metric.ACCURACY, accuracy_score),
    ],
)
def test_figures_of_counts_are_those_of_the_rows(metric: Metric, reference: object) -> None:
    found = scores_of(metric, histogram_of(SCORES, Y, EDGES).astype(np.float64)[None])[0]
    expected = [reference(Y, (SCORES.astype(np.float32) >= edge).astype(int)) for edge in EDGES]  # type: ignore[operator]
    assert found == pytest.approx(expected, abs=1e-6)


def test_edges_grow_and_hold_zero_also_where_all_scores_are_the_same() -> None:
    for scores in (SCORES, np.zeros(5), np.full(7, 3.0), np.linspace(-1, 1, 27)):
        edges = edges_of(scores)
        check_edges(edges)
        assert 0.0 in edges


@pytest.mark.parametrize("edges", [EDGES[:-1], EDGES[::-1].copy(), np.full(BINS - 1, np.nan, np.float32)])
def test_edges_of_a_server_are_checked(edges: np.ndarray) -> None:
    with pytest.raises(BadMessage, match="15 growing numbers"):
        check_edges(edges)


def test_one_row_is_one_count_wherever_it_falls() -> None:
    for score in (-np.inf, -50.0, float(EDGES[3]), 0.0, 50.0, np.inf):
        for label in (0, 1):
            counts = histogram_of(np.array([score]), np.array([label]), EDGES)
            assert counts.shape == (WIDTH,)
            assert counts.sum() == counts.max() == 1
            assert counts[label * BINS :][:BINS].sum() == 1
    assert log_odds(np.array([[np.nan, np.nan], [0.5, 0.5]])).tolist() == [-np.inf, 0.0]


def test_a_rare_class_is_found_through_little_noise() -> None:
    exact = histogram_of(SCORES, Y, EDGES)
    best = float(EDGES[scores_of(Metric.F1, exact.astype(np.float64)[None])[0].argmax()])
    assert best < -0.5
    noisy = exact + np.random.default_rng(1).normal(0, 3.0, WIDTH)
    found = chosen_log_odds(Metric.AVERAGE_PRECISION, noisy, EDGES, 3.0, np.random.default_rng(2))
    value = scores_of(Metric.F1, exact.astype(np.float64)[None])[0]
    assert value[EDGES.tolist().index(found)] > 0.95 * value.max()
    assert value[np.abs(EDGES).argmin()] < 0.7 * value.max()


def test_noise_alone_moves_no_threshold() -> None:
    """No row at all: whatever the noise says, 0 stays."""
    moved = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 8.0, WIDTH)
        moved += chosen_log_odds(Metric.F1, noise, EDGES, 8.0, np.random.default_rng(1000 + seed)) != 0.0
    assert moved <= 2


def test_noise_beside_a_model_that_knows_nothing_moves_hardly_any_threshold() -> None:
    """Both classes have the same scores: for the accuracy of even classes no edge is better."""
    moved = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        exact = histogram_of(rng.normal(0, 1, 2000), rng.integers(0, 2, 2000), EDGES_OF_EVEN)
        noisy = exact + rng.normal(0, 8.0, WIDTH)
        moved += chosen_log_odds(Metric.ACCURACY, noisy, EDGES_OF_EVEN, 8.0, np.random.default_rng(seed)) != 0.0
    assert moved <= 10
