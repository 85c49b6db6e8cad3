"""Figures of a classifier, from its probabilities or from the classes that it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class numbers, shape (n,)."""
Probabilities: TypeAlias = npt.NDArray[Any]
"""Floats, shape (n, classes); each row sums to 1."""
Counts: TypeAlias = npt.NDArray[np.int64]

ECE_BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017, section 5)."""
_TINY = 1e-12
"""Probabilities below count as this in the loss: one sure and wrong answer must not make it infinite."""


def accuracy(chosen: Labels, y: Labels) -> float:
    """Share of right answers, in [0, 1].

    Args:
        chosen: (n,), answered classes; n >= 1.
        y: (n,), labels.
    """
    return float(np.mean(chosen == y))


def confusion(chosen: Labels, y: Labels, classes: int) -> Counts:
    """Rows by label and by answer, int64 (classes, classes): entry [i, j] counts rows of class i answered j.

    Args:
        chosen: (n,), answered classes.
        y: (n,), labels.
        classes: number of them.
    """
    return np.bincount(y * classes + chosen, minlength=classes * classes).reshape(classes, classes)


def recalls(table: Counts) -> npt.NDArray[np.float64]:
    """Share of each class's rows that is found, (classes,); NaN for a class without rows.

    Args:
        table: as `confusion` gives it.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diag(table) / table.sum(axis=1))


def precisions(table: Counts) -> npt.NDArray[np.float64]:
    """Share of each class's answers that is right, (classes,); NaN for a class that is never answered.

    Args:
        table: as `confusion` gives it.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diag(table) / table.sum(axis=0))


def balanced_accuracy(chosen: Labels, y: Labels) -> float:
    """Mean recall of the classes that occur, in [0, 1] (Brodersen et al. 2010).

    Args:
        chosen: (n,), answered classes; n >= 1.
        y: (n,), labels.
    """
    size = int(max(chosen.max(), y.max())) + 1
    return mean_recall(confusion(chosen, y, size))


def mean_recall(table: Counts) -> float:
    """`balanced_accuracy` from counts.

    Args:
        table: as `confusion` gives it, with a row at least.
    """
    return float(np.nanmean(recalls(table)))


def f1(chosen: Labels, y: Labels, classes: int) -> float:
    """Harmonic mean of precision and recall: of class 1 for two classes, else the mean over classes that occur.

    Args:
        chosen: (n,), answered classes; n >= 1.
        y: (n,), labels.
        classes: number of them.

    Returns:
        In [0, 1]; 0 where nothing is found.
    """
    return f1_of(confusion(chosen, y, classes))


def f1_of(table: Counts) -> float:
    """`f1` from counts.

    Args:
        table: as `confusion` gives it, with a row at least.
    """
    both = table.sum(axis=0) + table.sum(axis=1)
    values = np.where(both > 0, 2 * np.diag(table) / np.maximum(both, 1), 0.0)
    return float(values[1]) if len(table) == 2 else float(values[both > 0].mean())


def log_loss(probabilities: Probabilities, y: Labels) -> float:
    """Mean cross-entropy in nats.

    Args:
        probabilities: (n, classes), n >= 1.
        y: (n,), labels.
    """
    chosen = probabilities[np.arange(len(y)), y].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(chosen, _TINY))))


def auc(probabilities: Probabilities, y: Labels) -> float | None:
    """Area under the ROC curve: of class 1 for two classes, else the mean of one class against the rest.

    Args:
        probabilities: (n, classes).
        y: (n,), labels in [0, classes).

    Returns:
        In [0, 1]; None when fewer than two classes occur in `y`.
    """
    return _of_each_class(binary_auc, probabilities, y)


def _of_each_class(
    figure: Callable[[npt.NDArray[Any], npt.NDArray[np.bool_]], float], probabilities: Probabilities, y: Labels
) -> float | None:
    """A figure of two classes: of class 1, or the mean of each class that occurs against the rest."""
    present = np.unique(y)
    if len(present) < 2:
        return None
    if probabilities.shape[1] == 2:
        return figure(probabilities[:, 1], y == 1)
    return float(np.mean([figure(probabilities[:, c], y == c) for c in present]))


def binary_auc(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """The Mann-Whitney statistic: chance that a positive scores higher than a negative; ties count half.

    Hanley and McNeil 1982: it is the area under the ROC curve.

    Args:
        scores: (n,), larger means more likely positive.
        positive: (n,) which are; at least one, and not all.

    Returns:
        In [0, 1].
    """
    in_order, found = np.sort(scores), scores[positive]
    positives, negatives = len(found), len(scores) - len(found)
    # Equal scores share the mean of their ranks: half of how many are below plus how many are not above, plus a half.
    below, not_above = (int(np.searchsorted(in_order, found, side).sum()) for side in ("left", "right"))
    rank_sum = (below + not_above + positives) / 2.0
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def average_precision(probabilities: Probabilities, y: Labels) -> float | None:
    """Mean precision over the positives found, in order of score: of class 1 for two, else the mean over classes.

    The sum over thresholds of precision times the gain in recall, without interpolation; equal scores are one
    threshold. A model that knows nothing gets the share of positives.

    Args:
        probabilities: (n, classes).
        y: (n,), labels in [0, classes).

    Returns:
        In [0, 1]; None when fewer than two classes occur in `y`.
    """
    return _of_each_class(binary_average_precision, probabilities, y)


def binary_average_precision(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """Average precision of one score.

    Args:
        scores: (n,), larger means more likely positive.
        positive: (n,) which are; at least one.

    Returns:
        In (0, 1].
    """
    order = np.argsort(-scores)
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(positive[order])[last_of_ties]
    looked_at = np.flatnonzero(last_of_ties) + 1
    gain = np.diff(found, prepend=0) / found[-1]
    return float(np.sum(gain * found / looked_at))


def ece(probabilities: Probabilities, y: Labels) -> float:
    """Expected calibration error over `ECE_BINS` equal bins of the top probability (Guo et al. 2017, eq. 3).

    Args:
        probabilities: (n, classes), n >= 1.
        y: (n,), labels.

    Returns:
        In [0, 1].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == y).astype(np.float64)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gap = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(y))


def figures(probabilities: Probabilities, y: Labels, threshold: float | None = None) -> dict[str, float]:
    """Accuracy, loss, calibration error and further figures of classes.

    Args:
        probabilities: (n, classes), rows sum to 1.
        y: (n,) class numbers.
        threshold: of class 1 of two; None: the likeliest class is the answer.

    Returns:
        `rows`, and for n > 0 `accuracy`, `balanced_accuracy`, `f1` in [0, 1], `loss` and, the same by its name among
        the metrics, `log_loss` (mean cross-entropy, nats), `ece` in [0, 1]; `auc` and `average_precision` in [0, 1]
        only when at least two classes occur.
    """
    found = {"rows": float(len(y))}
    if not len(y):
        return found
    chosen = probabilities.argmax(axis=1) if threshold is None else (probabilities[:, 1] >= threshold).astype(np.int64)
    found["accuracy"] = accuracy(chosen, y)
    found["balanced_accuracy"] = balanced_accuracy(chosen, y)
    found["f1"] = f1(chosen, y, probabilities.shape[1])
    found["loss"] = found["log_loss"] = log_loss(probabilities, y)
    found["ece"] = ece(probabilities, y)
    ranked = {"auc": auc(probabilities, y), "average_precision": average_precision(probabilities, y)}
    return found | {name: value for name, value in ranked.items() if value is not None}
