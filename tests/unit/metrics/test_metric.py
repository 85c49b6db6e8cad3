"""Every metric against scikit-learn's, and its direction against what a better model does to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as known

from fedinfer.metrics import Metric, class_score, confusion, likeliest, loss_of, number_score, precisions, recalls
from fedinfer.metrics.classes import binary_average_precision

OF_CLASSES = [metric for metric in Metric if not metric.of_numbers]
OF_NUMBERS = [metric for metric in Metric if metric.of_numbers]


def drawn(classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (90, classes)).astype(float)  # many ties
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), rng.integers(0, classes, 90)


def of_sklearn(metric: Metric, p: np.ndarray, chosen: np.ndarray, y: np.ndarray) -> float:
    several, each = p.shape[1] > 2, range(p.shape[1])
    match metric:
        case Metric.ACCURACY:
            return float(known.accuracy_score(y, chosen))
        case Metric.BALANCED_ACCURACY:
            return float(known.balanced_accuracy_score(y, chosen))
        case Metric.F1:
            return float(known.f1_score(y, chosen, average="macro" if several else "binary"))
        case Metric.LOG_LOSS:
            return float(known.log_loss(y, p))
        case Metric.AUC:
            one_by_one = [known.roc_auc_score(y == c, p[:, c]) for c in each]
        case _:
            one_by_one = [known.average_precision_score(y == c, p[:, c]) for c in each]
    return float(np.mean(one_by_one) if several else one_by_one[1])


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("metric", OF_CLASSES)
def test_metrics_of_classes_equal_scikit_learn(metric: Metric, classes: int) -> None:
    for seed in range(5):
        p, y = drawn(classes, seed)
        chosen = likeliest(p)
        assert class_score(metric, p, chosen, y) == pytest.approx(of_sklearn(metric, p, chosen, y), abs=1e-9)


@pytest.mark.parametrize("metric", OF_NUMBERS)
def test_metrics_of_numbers_equal_scikit_learn(metric: Metric) -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(5, 2, 50)
    predicted = y + rng.normal(0, 1, 50)
    expected = {
        Metric.RMSE: known.root_mean_squared_error,
        Metric.MAE: known.mean_absolute_error,
        Metric.R2: known.r2_score,
    }
    assert number_score(metric, predicted, y) == pytest.approx(expected[metric](y, predicted), abs=1e-9)


@pytest.mark.parametrize("metric", Metric)
def test_a_better_model_moves_every_metric_in_its_direction(metric: Metric) -> None:
    y = np.array([0, 1, 1, 0, 1, 0])
    good, bad = np.array([0.1, 0.9, 0.8, 0.3, 0.4, 0.2]), np.array([0.6, 0.3, 0.8, 0.4, 0.2, 0.7])
    if metric.of_numbers:
        better, worse = number_score(metric, good, y), number_score(metric, bad, y)
    else:
        better, worse = (
            class_score(metric, np.stack([1 - p, p], axis=1), (p > 0.5).astype(np.int64), y) for p in (good, bad)
        )
    assert better is not None
    assert worse is not None
    assert loss_of(metric, better, worse) > 0 > loss_of(metric, worse, better)
    assert math.isnan(loss_of(metric, math.nan, better))


def test_what_is_not_defined_is_none() -> None:
    p, one_class = np.full((4, 2), 0.5), np.zeros(4, np.int64)
    assert class_score(Metric.AUC, p, one_class, one_class) is None
    assert class_score(Metric.AVERAGE_PRECISION, p, one_class, one_class) is None
    assert number_score(Metric.R2, np.arange(4.0), np.ones(4)) is None


def test_a_model_that_knows_nothing_has_the_share_of_positives_as_average_precision() -> None:
    positive = np.arange(100) < 3
    assert binary_average_precision(np.full(100, 0.2), positive) == pytest.approx(0.03)


def test_confusion_recall_and_precision_by_hand() -> None:
    y, chosen = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    table = confusion(chosen, y, 3)
    assert table.tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert recalls(table).tolist() == [2 / 3, 1 / 2, 0]
    assert precisions(table)[:2].tolist() == [1 / 2, 1 / 2]
    assert math.isnan(precisions(table)[2])


def test_the_threshold_decides_between_two_classes() -> None:
    p = np.array([[0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    assert likeliest(p).tolist() == [0, 0, 1]
    assert likeliest(p, 0.3).tolist() == [0, 1, 1]
