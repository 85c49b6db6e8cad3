import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from fedinfer.metrics import figures
from fedinfer.metrics.classes import auc, ece


def drawn(classes, count, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (count, classes)).astype(np.float32)  # many ties
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), rng.integers(0, classes, count)


@pytest.mark.parametrize("seed", range(5))
def test_binary_figures_equal_scikit_learn(seed):
    probabilities, labels = drawn(2, 60, seed)
    found = figures(probabilities, labels)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, probabilities[:, 1]), abs=1e-9)
    doubles = probabilities.astype(float)
    expected = log_loss(labels, doubles / doubles.sum(axis=1, keepdims=True))
    assert found["loss"] == pytest.approx(expected, abs=1e-6)
    assert found["accuracy"] == np.mean(probabilities.argmax(1) == labels)
    assert found["rows"] == 60


@pytest.mark.parametrize("seed", range(5))
def test_macro_auc_equals_scikit_learn(seed):
    probabilities, labels = drawn(4, 80, seed)
    expected = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(4)])
    assert auc(probabilities, labels) == pytest.approx(expected, abs=1e-9)


def test_auc_is_absent_when_one_class_occurs():
    probabilities, _ = drawn(2, 10, 0)
    assert "auc" not in figures(probabilities, np.zeros(10, dtype=np.int64))


def test_classes_that_do_not_occur_are_left_out_of_the_mean():
    probabilities, labels = drawn(4, 40, 1)
    labels = labels % 3
    expected = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(3)])
    assert auc(probabilities, labels) == pytest.approx(expected, abs=1e-9)


def test_no_rows_give_no_figures():
    assert figures(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)) == {"rows": 0.0}


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10, dtype=np.float32)
    labels = np.array([0] * 6 + [1] * 4 + [1] * 9 + [0])
    assert ece(probabilities, labels) == pytest.approx(0.5 * 0.3 + 0.5 * 0.2, abs=1e-6)


def test_perfect_and_certain_has_no_calibration_error():
    assert ece(np.eye(3, dtype=np.float32), np.arange(3)) == 0.0
