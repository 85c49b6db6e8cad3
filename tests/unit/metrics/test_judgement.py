"""A classifier judged beside always giving one answer; figures and curves compared with scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.dummy import DummyClassifier
from sklearn.metrics import auc, average_precision_score, f1_score, precision_recall_curve, roc_curve

from fedinfer.errors import ConfigError
from fedinfer.metrics import Answers, Metric, attribute_of, best_threshold, judge, judged_by, owners, part_of
from fedinfer.metrics.curves import BINS, MOST_POINTS, precision_recall, reliability, roc

RNG = np.random.default_rng(7)


def two(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - p, p])


def rare(rows: int = 2000, share: float = 0.01, signal: float = 0.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: a rare class, and a model that knows something of it or nothing."""
    rng = np.random.default_rng(seed)
    y = (rng.random(rows) < share).astype(np.int64)
    logit = np.log(share / (1 - share)) + signal * y + rng.normal(0, 0.3, rows)
    return two(1 / (1 + np.exp(-logit))), y


@pytest.mark.parametrize(
    ("shares", "classes", "metric"),
    [
        ((0.99, 0.01), 2, Metric.AVERAGE_PRECISION),
        ((0.01, 0.99), 2, Metric.AVERAGE_PRECISION),
        ((0.8, 0.2), 2, Metric.ACCURACY),
        ((0.95, 0.03, 0.02), 3, Metric.ACCURACY),
        ((), 2, Metric.ACCURACY),
        ((), 0, Metric.RMSE),
    ],
)
def test_the_figure_follows_the_classes(shares: tuple[float, ...], classes: int, metric: Metric) -> None:
    assert judged_by(None, shares, classes).metric is metric


def test_what_is_asked_for_wins_and_must_fit_the_label() -> None:
    assert judged_by(Metric.AUC, (0.99, 0.01), 2).metric is Metric.AUC
    with pytest.raises(ConfigError, match="a class"):
        judged_by(Metric.RMSE, (), 2)
    with pytest.raises(ConfigError, match="a number"):
        judged_by(Metric.AUC, (), 0)


def test_a_model_that_knows_nothing_of_a_rare_class_is_no_better_than_one_answer() -> None:
    probabilities, y = rare()
    for metric in (Metric.ACCURACY, Metric.AVERAGE_PRECISION, Metric.AUC, Metric.BALANCED_ACCURACY):
        found = judge(metric, Answers.of(probabilities, y), None, np.random.default_rng(1))
        assert not found.better, metric
        assert found.majority == 0
    assert found.to_json(("0", "1"))["answers"] == 1


def test_one_that_knows_something_is_better_by_the_figure_that_sees_it() -> None:
    probabilities, y = rare(signal=3.0)
    answers = Answers.of(probabilities, y)
    assert judge(Metric.AVERAGE_PRECISION, answers, None, np.random.default_rng(1)).better
    assert not judge(Metric.ACCURACY, answers, None, np.random.default_rng(1)).better


def test_the_verdict_is_rarely_luck() -> None:
    for metric in (Metric.AVERAGE_PRECISION, Metric.AUC, Metric.ACCURACY):
        praised = sum(
            judge(metric, Answers.of(*rare(600, 0.05, seed=seed)), None, np.random.default_rng(seed)).better
            for seed in range(40)
        )
        assert praised <= 4, metric


def test_the_constant_answer_is_that_of_scikit_learn() -> None:
    y = (RNG.random(500) < 0.3).astype(np.int64)
    answers = Answers.of(two(RNG.random(500)), y)
    found = judge(Metric.ACCURACY, answers, None, np.random.default_rng(1))
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((500, 1)), y)
    assert found.baseline == dummy.score(np.zeros((500, 1)), y)
    assert found.baseline_scores["average_precision"] == pytest.approx(y.mean())
    assert found.baseline_scores["auc"] == 0.5
    share = y.mean()
    assert found.baseline_scores["log_loss"] == pytest.approx(
        -(share * np.log(share) + (1 - share) * np.log(1 - share))
    )


def test_one_class_alone_has_no_curves_and_no_verdict() -> None:
    found = judge(Metric.AUC, Answers.of(two(RNG.random(30)), np.zeros(30, np.int64)), None, np.random.default_rng(1))
    assert (found.value, found.low, found.better, found.curves) == (None, None, False, ())
    json.dumps(found.to_json(("a", "b")), allow_nan=False)


def test_many_classes_are_recorded_without_a_matrix_that_nobody_can_read() -> None:
    probabilities, y = RNG.dirichlet(np.ones(40), 400), RNG.integers(0, 40, 400)
    record = judge(Metric.ACCURACY, Answers.of(probabilities, y), None, np.random.default_rng(1)).to_json(
        [str(c) for c in range(40)]
    )
    assert record["confusion"] is None
    assert len(record["recall"]) == 40
    assert len(record["curves"]) == 10


@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.integers(1, 40))
def test_curves_are_those_of_scikit_learn(seed: int, rows: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, rows) / levels
    positive = rng.random(rows) < 0.4
    positive[0], positive[1] = True, False
    found = np.array(roc(scores, positive))
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert np.all(np.diff(found, axis=0) >= 0)
    assert len(found) <= MOST_POINTS
    assert auc(*found.T) == pytest.approx(auc(fpr, tpr), abs=0.01)
    precision, recall, _ = precision_recall_curve(positive, scores)
    known, points = np.column_stack([recall, precision]), np.array(precision_recall(scores, positive))
    assert np.abs(points[:, None] - known).max(axis=2).min(axis=1).max() <= 0.5e-5 + 1e-12, "rounded to five places"


def test_reliability_is_that_of_scikit_learn() -> None:
    said = RNG.random(3000)
    true = RNG.random(3000) < said**2
    seen, mean = calibration_curve(true, said, n_bins=BINS)
    bins = reliability(said, true)
    np.testing.assert_allclose([b.said for b in bins], mean)
    np.testing.assert_allclose([b.seen for b in bins], seen)


def test_the_threshold_is_the_best_of_all_for_f1() -> None:
    probabilities, y = rare(800, 0.1, 1.5, seed=3)
    found = best_threshold(Metric.AVERAGE_PRECISION, probabilities, y)
    every = [f1_score(y, probabilities[:, 1] >= t) for t in np.unique(probabilities[:, 1])]
    assert f1_score(y, probabilities[:, 1] >= found) >= max(every) - 0.02
    assert f1_score(y, probabilities[:, 1] >= found) > f1_score(y, probabilities[:, 1] >= 0.5)


def test_without_a_reason_the_threshold_stays_at_one_half() -> None:
    assert best_threshold(Metric.ACCURACY, two(np.full(10, 0.3)), np.zeros(10, np.int64)) == 0.5


def test_groups_tell_the_worst_one_and_the_gap() -> None:
    y = np.tile([0, 1], 100)
    wrong = np.arange(200) < 40
    answers = Answers.of(two(np.where(y ^ wrong, 0.9, 0.1)), y)
    first = np.arange(200) < 50
    members = {"a": first, "b": ~first, "c": np.zeros(200, bool)}
    found = attribute_of("sex", answers, members, Metric.ACCURACY)
    assert (found.worst, round(found.gap, 3)) == ("a", 0.8)
    assert [group.name for group in found.groups] == ["a", "b"]
    small = attribute_of("sex", answers, {"a": np.arange(200) < 5, "b": np.arange(200) >= 5}, Metric.ACCURACY)
    assert (small.worst, small.gap) == ("", 0.0)


def test_a_group_of_one_class_is_compared_by_accuracy() -> None:
    y = np.repeat([0, 1], 50)
    answers = Answers.of(two(np.full(100, 0.2)), y)
    assert attribute_of("x", answers, {"a": y == 0, "b": y == 1}, Metric.AUC).figure == "accuracy"


def test_parts_of_a_table_belong_to_their_owners() -> None:
    assert owners(["a", "b", "c"], [2, 0, 3]) == {"a": slice(0, 2), "c": slice(2, 5)}
    part = part_of("a", Answers.of(two(np.array([0.9, 0.1, 0.9])), np.array([1, 1, 0])), Metric.AUC)
    assert (part.rows, part.recall, part.answered) == (3, 0.5, pytest.approx(2 / 3))


def test_average_precision_of_the_record_is_that_of_scikit_learn() -> None:
    probabilities, y = rare(1500, 0.08, 1.0)
    record = judge(Metric.AVERAGE_PRECISION, Answers.of(probabilities, y), None, np.random.default_rng(1))
    assert record.value == pytest.approx(average_precision_score(y, probabilities[:, 1]))
    assert record.low is not None
    assert record.low < record.value < (record.high or 0.0)
