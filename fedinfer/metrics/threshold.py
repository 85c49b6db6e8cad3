"""From which probability on class 1 is answered: chosen on rows that may be seen, for the figure that judges."""

from __future__ import annotations

import math

import numpy as np

from fedinfer.metrics.classes import Labels, Probabilities
from fedinfer.metrics.metric import Metric, class_score

EVEN = 0.5
"""The threshold of the likeliest class."""
MOST_CANDIDATES = 200
_INSTEAD = {
    Metric.AVERAGE_PRECISION: Metric.F1,
    Metric.AUC: Metric.BALANCED_ACCURACY,
    Metric.LOG_LOSS: Metric.ACCURACY,
}


def decided_by(metric: Metric) -> Metric:
    """The figure of answers that a threshold is chosen for: figures of a ranking do not depend on one.

    Args:
        metric: of classes.

    Returns:
        F1 for average precision, balanced accuracy for AUC, accuracy for log loss; else the metric itself.
    """
    return _INSTEAD.get(metric, metric)


def best_threshold(metric: Metric, probabilities: Probabilities, y: Labels) -> float:
    """The threshold that suits the rows best; of equally good ones the one next to one half.

    Args:
        metric: of classes; `decided_by` names what is maximised.
        probabilities: (n, 2), n >= 1; both classes should occur in y.
        y: int (n,), labels.

    Returns:
        In (0, 1): halfway between two probabilities that occur, on the logit scale.
    """
    scores = np.unique(probabilities[:, 1].astype(np.float64))
    middles = [EVEN, *_between(scores)]
    wanted = decided_by(metric)

    def value(threshold: float) -> float:
        score = class_score(wanted, probabilities, (probabilities[:, 1] >= threshold).astype(np.int64), y)
        return -math.inf if score is None else score

    return max(middles, key=lambda threshold: (value(threshold), -abs(threshold - EVEN)))


def _between(scores: np.ndarray) -> list[float]:
    """Places between neighbouring scores, at most `MOST_CANDIDATES` of them, evenly by rank."""
    if len(scores) < 2:
        return []
    logit = np.log(np.clip(scores, 1e-6, 1 - 1e-6) / (1 - np.clip(scores, 1e-6, 1 - 1e-6)))
    middles = 1.0 / (1.0 + np.exp(-(logit[1:] + logit[:-1]) / 2))
    if len(middles) > MOST_CANDIDATES:
        middles = middles[np.unique(np.linspace(0, len(middles) - 1, MOST_CANDIDATES).astype(np.int64))]
    return [float(middle) for middle in middles]
