"""What a classifier is worth, beside always giving one answer: the figures that a person needs before trusting it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.metrics.classes import (
    Counts,
    Labels,
    Probabilities,
    binary_auc,
    binary_average_precision,
    confusion,
    ece,
    precisions,
    recalls,
)
from fedinfer.metrics.curves import Bin, Points, precision_recall, reliability, roc
from fedinfer.metrics.metric import Metric, class_score, likeliest
from fedinfer.types import Json

RESAMPLES = 120
MOST_RESAMPLED = 20_000
"""Of more rows so many are drawn for intervals and verdicts, which are then a little too wide and too careful."""
_PAIRED = (Metric.ACCURACY, Metric.LOG_LOSS)
"""A constant answer does well by these on its own; by all others it knows nothing, whatever it says."""
MOST_CURVES = 10
MOST_CONFUSED = 25
"""With more classes a confusion matrix is not readable, and is left out."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said about labelled rows.

    Args:
        probabilities: float (n, classes), rows sum to 1; n >= 1.
        chosen: int (n,), the class that was answered.
        y: int (n,), labels.
    """

    probabilities: Probabilities
    chosen: Labels
    y: Labels

    @staticmethod
    def of(probabilities: Probabilities, y: Labels, threshold: float | None = None) -> Answers:
        """Answers by the likeliest class, or by a threshold.

        Args:
            probabilities: float (n, classes).
            y: int (n,), labels.
            threshold: of class 1 of two; None: the likeliest class.
        """
        return Answers(probabilities, likeliest(probabilities, threshold), y)

    def part(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Answers:
        """The same of some rows.

        Args:
            rows: which.
        """
        return Answers(self.probabilities[rows], self.chosen[rows], self.y[rows])

    def score(self, metric: Metric) -> float | None:
        """A figure of merit; None where it is not defined, also for no rows.

        Args:
            metric: of classes.
        """
        return class_score(metric, self.probabilities, self.chosen, self.y) if len(self.y) else None

    def scores(self) -> dict[str, float]:
        """All figures of classes that are defined, by name."""
        found = {str(metric): self.score(metric) for metric in Metric if not metric.of_numbers}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of one class against the rest.

    Args:
        number: of the class.
        auc: area under `roc`, in [0, 1].
        average_precision: in (0, 1].
        share: of the rows that are of this class: the average precision of a model that knows nothing.
        roc, precision_recall: points in [0, 1] x [0, 1].
    """

    number: int
    auc: float
    average_precision: float
    share: float
    roc: Points
    precision_recall: Points


@dataclass(frozen=True, slots=True)
class ClassJudgement:
    """A model judged on labelled rows.

    Args:
        metric: by which the task is judged.
        rows: that were judged, >= 1.
        value: of the metric; None where it is not defined.
        low, high: of a 95 % bootstrap interval of `value` (Efron and Tibshirani 1993, section 13.3).
        majority: number of the class that most rows have.
        baseline: the metric of a model that knows the class shares and nothing else, and always answers `majority`.
        baseline_scores: all figures of that model.
        better: the advance over `baseline` is more than luck: for accuracy and log loss the 95 % interval of the paired
            difference is above zero (bootstrap), for the others `value` is above 97.5 % of what the same answers reach
            when they are dealt to other rows (permutation test, Good 2005, section 1.3).
        scores: all figures of the model, by name.
        threshold: from which probability on class 1 is answered; None: the likeliest class is.
        confusion: rows by label and by answer, (classes, classes).
        curves: of single classes, at most `MOST_CURVES`.
        calibration: how often probabilities come true: of class 1 for two classes, else of the answer.
        calibration_error: expected calibration error, in [0, 1].
    """

    metric: Metric
    rows: int
    value: float | None
    low: float | None
    high: float | None
    majority: int
    baseline: float | None
    baseline_scores: Mapping[str, float]
    better: bool
    scores: Mapping[str, float]
    threshold: float | None
    confusion: Counts
    curves: tuple[Curves, ...]
    calibration: tuple[Bin, ...]
    calibration_error: float

    def to_json(self, labels: Sequence[str]) -> Json:
        """For run.json; what is not defined is null.

        Args:
            labels: public class names, in the order of the class numbers.
        """
        readable = len(labels) <= MOST_CONFUSED
        return {
            "metric": str(self.metric),
            "rows": self.rows,
            "value": self.value,
            "interval": [self.low, self.high],
            "better": self.better,
            "baseline": {
                "answer": labels[self.majority],
                "value": self.baseline,
                "scores": dict(self.baseline_scores),
            },
            "answers": int((self.confusion.sum(axis=0) > 0).sum()),
            "scores": dict(self.scores),
            "threshold": self.threshold,
            "labels": list(labels),
            "support": self.confusion.sum(axis=1).tolist(),
            "recall": _plain(recalls(self.confusion)),
            "precision": _plain(precisions(self.confusion)),
            "confusion": self.confusion.tolist() if readable else None,
            "curves": [_curves(curve, labels) for curve in self.curves],
            "calibration": {
                "of": labels[1] if len(labels) == 2 else "the answer",
                "error": self.calibration_error,
                "bins": [{"said": b.said, "seen": b.seen, "rows": b.rows} for b in self.calibration],
            },
        }


def judge(metric: Metric, answers: Answers, threshold: float | None, rng: np.random.Generator) -> ClassJudgement:
    """Judge a model beside always answering the most frequent class.

    Args:
        metric: by which the task is judged; of classes.
        answers: to at least one labelled row.
        threshold: by which they were made, for the record.
        rng: draws the resamples of the intervals.
    """
    classes = answers.probabilities.shape[1]
    counts = np.bincount(answers.y, minlength=classes)
    constant = _constant(answers.y, counts)
    drawn = answers.part(np.sort(rng.permutation(len(answers.y))[:MOST_RESAMPLED]))
    low, high = _interval(metric, drawn, rng)
    two = classes == 2
    said = answers.probabilities[:, 1] if two else answers.probabilities.max(axis=1)
    came_true = answers.y == 1 if two else answers.probabilities.argmax(axis=1) == answers.y
    return ClassJudgement(
        metric=metric,
        rows=len(answers.y),
        value=answers.score(metric),
        low=low,
        high=high,
        majority=int(counts.argmax()),
        baseline=constant.score(metric),
        baseline_scores=constant.scores(),
        better=_better(metric, drawn, _constant(drawn.y, counts), rng),
        scores=answers.scores(),
        threshold=threshold,
        confusion=confusion(answers.chosen, answers.y, classes),
        curves=tuple(_curve(answers, number) for number in _curved(counts, len(answers.y))),
        calibration=reliability(said, came_true),
        calibration_error=ece(answers.probabilities, answers.y),
    )


def _constant(y: Labels, counts: Counts) -> Answers:
    """Always the same answer: the class shares as probabilities, the most frequent class as the class."""
    shares = np.broadcast_to(counts / counts.sum(), (len(y), len(counts)))
    return Answers(shares, np.full(len(y), counts.argmax()), y)


def _interval(metric: Metric, answers: Answers, rng: np.random.Generator) -> tuple[float | None, float | None]:
    values = []
    for rows in _resamples(len(answers.y), rng):
        value = answers.part(rows).score(metric)
        values += [] if value is None else [value]
    if len(values) < RESAMPLES / 2:
        return None, None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _better(metric: Metric, answers: Answers, constant: Answers, rng: np.random.Generator) -> bool:
    """Whether the advance over the constant answer is more than luck; one error in 40 is allowed."""
    value, baseline = answers.score(metric), constant.score(metric)
    sign = 1.0 if metric.higher_is_better else -1.0
    if value is None or baseline is None or sign * (value - baseline) <= 0:
        return False
    if metric in _PAIRED:
        pairs = ((answers.part(rows), constant.part(rows)) for rows in _resamples(len(answers.y), rng))
        advances = [sign * ((one.score(metric) or 0.0) - (other.score(metric) or 0.0)) for one, other in pairs]
        return float(np.quantile(advances, 0.025)) > 0
    lucky = [_shuffled(answers, rows).score(metric) for rows in _orders(len(answers.y), rng)]
    return value > float(np.quantile([other for other in lucky if other is not None], 0.975))


def _resamples(rows: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    return [rng.integers(0, rows, rows) for _ in range(RESAMPLES)]


def _orders(rows: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    return [rng.permutation(rows) for _ in range(RESAMPLES)]


def _shuffled(answers: Answers, rows: npt.NDArray[np.int64]) -> Answers:
    """The same answers, given to other rows: they know nothing of the labels any more."""
    return Answers(answers.probabilities, answers.chosen, answers.y[rows])


def _curved(counts: Counts, rows: int) -> list[int]:
    """Classes with a curve: class 1 of two, else those that occur, rarest first."""
    occurring = [int(c) for c in np.argsort(counts, kind="stable") if 0 < counts[c] < rows]
    if len(counts) == 2:
        return occurring and [1]
    return occurring[:MOST_CURVES]


def _curve(answers: Answers, number: int) -> Curves:
    scores, positive = answers.probabilities[:, number], answers.y == number
    return Curves(
        number=number,
        auc=binary_auc(scores, positive),
        average_precision=binary_average_precision(scores, positive),
        share=float(positive.mean()),
        roc=roc(scores, positive),
        precision_recall=precision_recall(scores, positive),
    )


def _curves(curve: Curves, labels: Sequence[str]) -> Json:
    return {
        "class": labels[curve.number],
        "auc": curve.auc,
        "average_precision": curve.average_precision,
        "share": curve.share,
        "roc": [list(point) for point in curve.roc],
        "precision_recall": [list(point) for point in curve.precision_recall],
    }


def _plain(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
