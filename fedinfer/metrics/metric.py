"""The figure that a task is judged by, its direction, and how it is computed. One name means the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fedinfer.metrics import classes, numbers
from fedinfer.metrics.classes import Labels, Probabilities
from fedinfer.metrics.numbers import Values


class Metric(StrEnum):
    """Figures of merit. Those of classes take probabilities, those of numbers take predicted values."""

    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    AUC = "auc"
    AVERAGE_PRECISION = "average_precision"
    F1 = "f1"
    LOG_LOSS = "log_loss"
    RMSE = "rmse"
    MAE = "mae"
    R2 = "r2"

    @property
    def higher_is_better(self) -> bool:
        """False for losses and errors."""
        return self not in (Metric.LOG_LOSS, Metric.RMSE, Metric.MAE)

    @property
    def has_unit(self) -> bool:
        """True for errors in the unit of the label."""
        return self in (Metric.RMSE, Metric.MAE)

    @property
    def of_numbers(self) -> bool:
        """True when the label is a number, False when it is a class."""
        return self in _OF_NUMBERS


_OF_CLASSES: Mapping[Metric, Callable[[Probabilities, Labels, Labels], float | None]] = MappingProxyType(
    {
        Metric.ACCURACY: lambda probabilities, chosen, y: classes.accuracy(chosen, y),
        Metric.BALANCED_ACCURACY: lambda probabilities, chosen, y: classes.balanced_accuracy(chosen, y),
        Metric.AUC: lambda probabilities, chosen, y: classes.auc(probabilities, y),
        Metric.AVERAGE_PRECISION: lambda probabilities, chosen, y: classes.average_precision(probabilities, y),
        Metric.F1: lambda probabilities, chosen, y: classes.f1(chosen, y, probabilities.shape[1]),
        Metric.LOG_LOSS: lambda probabilities, chosen, y: classes.log_loss(probabilities, y),
    }
)
_OF_NUMBERS: Mapping[Metric, Callable[[Values, Values], float | None]] = MappingProxyType(
    {Metric.RMSE: numbers.rmse, Metric.MAE: numbers.mae, Metric.R2: numbers.r2}
)


def class_score(metric: Metric, probabilities: Probabilities, chosen: Labels, y: Labels) -> float | None:
    """A figure of merit of a classifier.

    Args:
        metric: one of classes.
        probabilities: (n, classes), rows sum to 1; n >= 1.
        chosen: int (n,), the class that the model answers; not always the likeliest, see a decision threshold.
        y: int (n,), labels.

    Returns:
        None where it is not defined, for instance an AUC when one class occurs.

    Raises:
        KeyError: a metric of numbers.
    """
    return _OF_CLASSES[metric](probabilities, chosen, y)


def number_score(metric: Metric, predicted: Values, y: Values) -> float | None:
    """A figure of merit of a regression.

    Args:
        metric: one of numbers.
        predicted: float (n,), n >= 1, in the label's unit.
        y: float (n,), labels in the same unit.

    Returns:
        None where it is not defined: R2 when all labels are equal.

    Raises:
        KeyError: a metric of classes.
    """
    return _OF_NUMBERS[metric](predicted, y)


def loss_of(metric: Metric, before: float, after: float) -> float:
    """How much worse `after` is, in the metric's own unit; negative when it is better, NaN when one is unknown.

    Args:
        metric: tells the direction.
        before: value of the one model.
        after: value of the other.
    """
    worse = before - after if metric.higher_is_better else after - before
    return worse if math.isfinite(worse) else math.nan


def likeliest(probabilities: Probabilities, threshold: float | None = None) -> npt.NDArray[np.int64]:
    """The class that is answered, int64 (n,).

    Args:
        probabilities: (n, classes).
        threshold: for two classes, in (0, 1): class 1 from this probability on; None: the likeliest class, the first
            of equally likely ones.
    """
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    return (probabilities[:, 1] >= threshold).astype(np.int64)
