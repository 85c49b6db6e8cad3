"""Accuracy without labels: the interval holds as often as it says, and concept drift is not seen."""

import numpy as np
import pytest

from fedinfer.drift import report_channels
from fedinfer.drift.channels import Outputs
from fedinfer.drift.estimate import (
    ConfidenceCalibration,
    calibrate_confidence,
    estimate_accuracy,
)
from fedinfer.drift.statistics import NoisySum
from fedinfer.errors import DataError

CONFIDENCE = report_channels(2)[1]
TRUE = np.array([0.52, 0.6, 0.7, 0.8, 0.9, 0.97])
"""Accuracy of a well calibrated model in each bin of confidence."""


def test_right_answers_are_counted_by_confidence():
    probabilities = np.array([[0.55, 0.45], [0.1, 0.9], [0.02, 0.98], [0.97, 0.03]])
    outputs = Outputs(np.array([0, 1, 1, 0]), probabilities)
    found = calibrate_confidence(CONFIDENCE, outputs, np.array([0, 0, 1, 0]))
    assert found.rows.tolist() == [1, 0, 0, 0, 1, 2]
    assert found.right.tolist() == [1, 0, 0, 0, 0, 2]
    assert found.accuracy[1] == 0.5
    with pytest.raises(DataError, match="3 labels for 4 answers"):
        calibrate_confidence(CONFIDENCE, outputs, np.array([0, 1, 1]))


def test_without_noise_it_is_the_weighted_mean_of_bin_accuracies():
    calibration = ConfidenceCalibration(np.array([4.0, 9.0]), np.array([9.0, 9.0]))
    found = estimate_accuracy(calibration, NoisySum(np.array([30.0, 70.0]), 100, 0.0))
    assert found.value == pytest.approx(0.3 * 0.45 + 0.7 * 0.95)
    assert found.low < found.value < found.high


def covered(devices, sigma, labelled, shares, runs=1500, rows=1, shrink=1.0):
    rng, held, widths = np.random.default_rng(7), 0, []
    truth = float(TRUE @ shares)
    for _ in range(runs):
        counts = rng.multinomial(labelled, np.full(6, 1 / 6)).astype(float)
        calibration = ConfidenceCalibration(rng.binomial(counts.astype(int), TRUE).astype(float), counts)
        sums = shrink * rng.multinomial(devices * rows, shares) / rows + sigma * rng.standard_normal(6)
        found = estimate_accuracy(calibration, NoisySum(sums, devices, sigma**2))
        held += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    return held / runs, np.mean(widths)


@pytest.mark.parametrize(("devices", "sigma", "labelled"), [(300, 3.4, 600), (1000, 12.0, 300), (1000, 3.4, 5000)])
def test_the_interval_holds_noise_sampling_and_calibration(devices, sigma, labelled):
    shares = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    held, _ = covered(devices, sigma, labelled, shares)
    assert 0.93 <= held <= 0.99


def test_clipped_reports_of_many_rows_are_covered_too():
    held, _ = covered(500, 3.4, 1000, np.array([0.05, 0.05, 0.1, 0.2, 0.2, 0.4]), rows=20, shrink=0.8)
    assert held >= 0.95


def test_less_noise_and_more_labels_make_it_narrower():
    even = np.full(6, 1 / 6)
    widths = [covered(300, sigma, labelled, even, runs=50)[1] for sigma, labelled in ((12, 600), (3, 600), (3, 6000))]
    assert widths == sorted(widths, reverse=True)


def test_noise_as_large_as_the_sum_says_nothing():
    calibration = ConfidenceCalibration(np.ones(6), np.full(6, 2.0))
    assert estimate_accuracy(calibration, NoisySum(np.full(6, 1.0), 6, 25.0)) is None


def test_concept_drift_is_its_blind_spot():
    """The same answers with the same confidence, all of them wrong now: the estimate cannot know."""
    calibration = ConfidenceCalibration(TRUE * 100, np.full(6, 100.0))
    sums = NoisySum(np.full(6, 100.0), 600, 9.0)
    assert estimate_accuracy(calibration, sums).low > 0.7
