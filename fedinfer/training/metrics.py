"""Figures of merit from class probabilities, numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedinfer.types import FloatVector

Labels = npt.NDArray[np.int64]

ECE_BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017, section 5)."""
_TINY = 1e-12
"""Probabilities below count as this in the loss: one sure and wrong answer must not make it infinite."""


def metrics(probabilities: FloatVector, labels: Labels) -> dict[str, float]:
    """Accuracy, loss, calibration error and, where it is defined, AUC.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,) class numbers.

    Returns:
        `rows`, and for n > 0 `accuracy`, `loss` (mean cross-entropy, nats), `ece` in [0, 1]; `auc` in [0, 1] only when
        at least two classes occur.
    """
    count = len(labels)
    figures = {"rows": float(count)}
    if count == 0:
        return figures
    chosen = probabilities[np.arange(count), labels].astype(np.float64)
    figures["accuracy"] = float(np.mean(probabilities.argmax(axis=1) == labels))
    figures["loss"] = float(-np.mean(np.log(np.maximum(chosen, _TINY))))
    figures["ece"] = ece(probabilities, labels)
    area = auc(probabilities, labels)
    if area is not None:
        figures["auc"] = area
    return figures


def auc(probabilities: FloatVector, labels: Labels) -> float | None:
    """Area under the ROC curve: of class 1 for two classes, else the mean of one class against the rest.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,) class numbers in [0, classes).

    Returns:
        In [0, 1]; None when fewer than two classes occur in `labels`.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return None
    if probabilities.shape[1] == 2:
        return binary_auc(probabilities[:, 1], labels == 1)
    return float(np.mean([binary_auc(probabilities[:, c], labels == c) for c in present]))


def binary_auc(scores: FloatVector, positive: npt.NDArray[np.bool_]) -> float:
    """The Mann-Whitney statistic: chance that a positive scores higher than a negative; ties count half.

    Hanley and McNeil 1982: it is the area under the ROC curve.

    Args:
        scores: (n,), larger means more likely positive.
        positive: (n,) which are; at least one, and not all.

    Returns:
        In [0, 1].
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    positives = int(positive.sum())
    negatives = len(positive) - positives
    rank_sum = float(ranks[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def ece(probabilities: FloatVector, labels: Labels) -> float:
    """Expected calibration error over `ECE_BINS` equal bins of the top probability (Guo et al. 2017, eq. 3).

    Args:
        probabilities: (n, classes), rows sum to 1; n >= 1.
        labels: (n,) class numbers.

    Returns:
        In [0, 1].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gap = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(labels))
