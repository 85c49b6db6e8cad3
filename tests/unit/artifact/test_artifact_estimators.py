"""scikit-learn classifiers as cores: same classes, same probabilities, also for missing values and on thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from fedinfer.artifact.build import build_from_core
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.evaluate.metrics import softmax
from fedinfer.artifact.export.estimators import export_estimator
from fedinfer.artifact.export.graph import OutputHead, run
from fedinfer.config import ArtifactSection
from fedinfer.errors import ConfigError
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.system import FrozenClock, simulation_rng
from fedinfer.types import GraphFamily
from tests.unit.artifact.workshop import PRIVACY, START, vector_schema

RNG = simulation_rng("estimators")
X = RNG.normal(0, 1, (900, 6)).astype(np.float32)
HOLES = np.where(RNG.random(X.shape) < 0.15, np.nan, X).astype(np.float32)
SCORE = X[:, 0] * X[:, 1] + X[:, 2] + 0.3 * RNG.normal(0, 1, 900)
LABELS = {2: (SCORE > 0).astype(int), 3: np.digitize(SCORE, [-0.6, 0.6])}
TAKES_HOLES = [
    DecisionTreeClassifier(max_depth=6, random_state=1),
    RandomForestClassifier(12, max_depth=6, random_state=1),
    HistGradientBoostingClassifier(max_iter=15, random_state=1),
    make_pipeline(SimpleImputer(), LogisticRegression()),
    make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), SimpleImputer(), MinMaxScaler(), RandomForestClassifier(5, random_state=1)),
]
NO_HOLES = [
    LogisticRegression(),
    ExtraTreesClassifier(8, max_depth=5, random_state=1),
    GradientBoostingClassifier(n_estimators=10, random_state=1),
    make_pipeline(MinMaxScaler((-1, 1)), GradientBoostingClassifier(n_estimators=5, random_state=1)),
]
CLASS_ONLY = [RidgeClassifier(), LinearSVC(), SGDClassifier(random_state=1)]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", [*TAKES_HOLES, *NO_HOLES], ids=lambda e: type(e).__name__)
def test_probabilities_are_those_of_the_estimator(estimator, classes):
    x = HOLES if estimator in TAKES_HOLES else X
    estimator.fit(x[:600], LABELS[classes][:600])
    core = export_estimator(estimator, vector_schema(6, classes), x[600:])
    found = softmax(run(core.model.SerializeToString(), x, "logits"))
    np.testing.assert_allclose(found, estimator.predict_proba(x), atol=1e-4)
    assert core.parity < 1e-4


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", CLASS_ONLY, ids=lambda e: type(e).__name__)
def test_classes_are_those_of_the_estimator(estimator, classes):
    estimator.fit(X[:600], LABELS[classes][:600])
    core = export_estimator(estimator, vector_schema(6, classes), X[600:])
    found = run(core.model.SerializeToString(), X, "logits").argmax(axis=1)
    np.testing.assert_array_equal(found, estimator.predict(X))


def test_values_exactly_on_a_threshold_go_the_same_way():
    """Integer data: thresholds are midpoints, and scikit-learn splits x <= t in float64."""
    x = RNG.integers(0, 6, (500, 6)).astype(np.float32) / np.float32(3)
    tree = DecisionTreeClassifier(random_state=1).fit(x, (x[:, 0] + x[:, 1] > x[:, 2]).astype(int))
    on = np.tile(tree.tree_.threshold[tree.tree_.feature >= 0].astype(np.float32)[:, None], (1, 6))
    probe = np.concatenate([x, on, np.nextafter(on, np.float32(9)), np.nextafter(on, np.float32(-9))])
    core = export_estimator(tree, vector_schema(6, 2), probe)
    found = run(core.model.SerializeToString(), probe, "logits").argmax(axis=1)
    np.testing.assert_array_equal(found, tree.predict(probe))


@pytest.mark.parametrize("estimator", [RandomForestClassifier(8, max_depth=5, random_state=1), LogisticRegression()])
def test_estimators_become_artifacts_that_a_device_runs(estimator):
    schema = vector_schema(6, 3)
    estimator.fit(X[:500], LABELS[3][:500])
    core = export_estimator(estimator, schema, X[:100])
    evidence = Evidence(X[500:], LABELS[3][500:].astype(np.int64), X[:200], X[:200])
    built = build_from_core(
        core.model, OutputHead(schema, 1.0, "demo", 1), evidence, ArtifactSection(), FrozenClock(START)
    )  # fmt: skip
    linear = isinstance(estimator, LogisticRegression)
    assert built.family is (GraphFamily.DENSE if linear else GraphFamily.OTHER)
    assert built.chosen.name == ("int8" if linear else "float")
    assert built.float_metric == pytest.approx((estimator.predict(X[500:]) == LABELS[3][500:]).mean(), abs=1e-9)
    built.manifest(PRIVACY, START.isoformat()).to_bytes()
    answers = Predictor.open(built.files[built.chosen.name], schema).predict(X[500:])
    assert (answers.classes == estimator.predict(X[500:])).mean() > 0.95


@pytest.mark.parametrize(
    ("estimator", "rule"),
    [
        (KNeighborsClassifier().fit(X, LABELS[2]), "KNeighborsClassifier cannot be converted"),
        (LogisticRegression(), "was fitted to classes"),
        (LogisticRegression().fit(X, LABELS[3]), r"classes \[.*0.*1.*2.*\], the schema has 2"),
        (LogisticRegression().fit(X, np.array(["no", "yes"])[LABELS[2]]), "was fitted to classes"),
        (LogisticRegression().fit(X[:, :5], LABELS[2]), "fitted to 5 columns, the schema has 6"),
        (Ridge().fit(X, LABELS[2]), "was fitted to classes"),
        (make_pipeline(PolynomialFeatures(), LogisticRegression()).fit(X, LABELS[2]), "step PolynomialFeatures"),
        (make_pipeline(MinMaxScaler(clip=True), LogisticRegression()).fit(X, LABELS[2]), "step MinMaxScaler"),
        (
            make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression()).fit(HOLES, LABELS[2]),
            "without indicator",
        ),
        (
            HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]).fit(
                np.column_stack([(X[:, 2] > 0) + (X[:, 2] > 1).astype(int), X[:, 1:]]), LABELS[2]
            ),
            "categorical splits",
        ),
        (
            GradientBoostingClassifier(n_estimators=2, loss="exponential").fit(X, LABELS[2]),
            "log_loss",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_converted_is_said(estimator, rule):
    with pytest.raises(ConfigError, match=rule):
        export_estimator(estimator, vector_schema(6, 2), X[:10])
