"""The accuracy of the fleet without labels, from the noisy sum of its confidence histogram.

Confidence-based performance estimation (NannyML's CBPE; Guillory et al. 2021, "Predicting with Confidence on Unseen
Distributions"): what a model is sure of is right as often as it was where labels are known. Here the calibration is one
accuracy per bin of the channel `confidence` (histogram binning, Zadrozny and Elkan 2001), so the estimate is a ratio of
two linear functions of a sum that was released anyway: it costs no epsilon.

    e = (a'H) / (1'H),   var(e) = (n g'Vg + s^2 g'g) / (1'H)^2 + sum_b r_b^2 a_b (1 - a_b) / (m_b + 1),   g = a - e 1

Sampling (one sample per unit, as in `statistics`), noise, and the error of the calibration from m_b labelled rows per
bin are in the interval (delta method).

Blind spot: when the same inputs mean something else, confidence stays and accuracy falls. Only labels show that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import Channel, Floats, Outputs, tally
from fedinfer.drift.labelled import measured
from fedinfer.drift.statistics import NoisySum
from fedinfer.errors import DataError
from fedinfer.types import Json, Unit

BLIND_SPOT = "blind to a changed meaning of the same inputs (concept drift)"
LEVEL = 0.95
_LEAST_SURE = 2.0
"""The sum must lie so many standard deviations of its noise above 0 for a ratio to mean anything."""


@dataclass(frozen=True, slots=True)
class ConfidenceCalibration:
    """How often answers of each confidence were right on labelled rows.

    Args:
        right: right answers per bin of the channel `confidence`, (bins,).
        rows: labelled rows per bin, (bins,).
    """

    right: Floats
    rows: Floats

    @property
    def accuracy(self) -> Floats:
        """Per bin, (bins,), half a row of each kind added (Jeffreys): in (0, 1)."""
        accuracy: Floats = (self.right + 0.5) / (self.rows + 1.0)
        return accuracy


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """Accuracy of a window.

    Args:
        value: in [0, 1].
        low, high: interval that holds with probability 0.95; for one without labels unless the meaning of inputs
            changed.
    """

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Half the width of the interval, where it is not cut at 0 or 1."""
        return max(self.high - self.value, self.value - self.low)

    def to_json(self) -> Json:
        """For events and reports."""
        return {"accuracy": self.value, "low": self.low, "high": self.high}


def calibrate_confidence(channel: Channel, outputs: Outputs, truth: npt.NDArray[Any]) -> ConfidenceCalibration:
    """Count right answers per bin of confidence on labelled rows.

    Args:
        channel: `confidence`.
        outputs: answers of the model that devices run.
        truth: class numbers, (rows,).

    Raises:
        DataError: another number of labels than rows.
    """
    if len(truth) != len(outputs.labels):
        raise DataError(f"{len(truth)} labels for {len(outputs.labels)} answers")
    right = outputs.labels == truth
    counted = Outputs(outputs.labels[right], outputs.probabilities[right])
    return ConfidenceCalibration(tally(channel, counted), tally(channel, outputs))


def estimate_accuracy(calibration: ConfidenceCalibration, observed: NoisySum) -> AccuracyEstimate | None:
    """Estimate the accuracy on the rows of a window.

    Args:
        calibration: of the model that answered.
        observed: sum of the channel `confidence`, (bins,).

    Returns:
        None when the noise is as large as the sum: nothing can be said.
    """
    accuracy = calibration.accuracy
    return _ratio(accuracy, observed, accuracy * (1.0 - accuracy) / (calibration.rows + 1.0))


def labelled_accuracy(channel: Channel, unit: Unit, observed: NoisySum) -> AccuracyEstimate | None:
    """The accuracy on the rows whose label came in a window: that of the units that have labels, each counting alike.

    Args:
        channel: `errors`.
        unit: of the report.
        observed: its sum, (2,).

    Returns:
        None when the noise is as large as the sum, or nothing was labelled.
    """
    labelled = measured(channel, unit, observed)
    return _ratio(np.array([1.0, 0.0]), labelled, np.zeros(2)) if observed.total.sum() > 0 else None


def _ratio(accuracy: Floats, observed: NoisySum, uncertain: Floats) -> AccuracyEstimate | None:
    """Mean accuracy over the bins of a sum, `uncertain` being the variance of each bin's accuracy."""
    sums, noise, size = observed.total, observed.noise_variance, float(observed.size)
    whole = float(sums.sum())
    if whole <= _LEAST_SURE * math.sqrt(noise * len(sums)):
        return None
    shares = sums / whole
    value = float(np.clip(accuracy @ shares, 0.0, 1.0))
    gap = accuracy - value
    likely = np.maximum(sums, 0.0) + 0.5
    likely = likely / max(float(likely.sum()), size)
    sampling = size * (float(likely @ gap**2) - float(likely @ gap) ** 2)
    variance = (sampling + noise * float(gap @ gap)) / whole**2 + float(shares**2 @ uncertain)
    half = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0) * math.sqrt(variance)
    return AccuracyEstimate(value, max(value - half, 0.0), min(value + half, 1.0))
