"""Fitted scikit-learn classifiers as cores: linear models, trees, forests, boosting, and pipelines that end in one.

scikit-learn itself is not imported: what a fitted estimator holds is read by name. Steps before the classifier may be
SimpleImputer, StandardScaler and MinMaxScaler; without an imputer a linear model takes a missing value as 0, and trees
send it where they learned to. The result is compared with the estimator on probe rows like every other core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from fedinfer.artifact.export.builder import GraphBuilder
from fedinfer.artifact.export.graph import LOGITS, run
from fedinfer.artifact.export.torch import Core, CoreOrigin
from fedinfer.artifact.export.trees import Forest, Offsets, gradient_boosting, hist_gradient_boosting, random_forest
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.manifest import INPUT
from fedinfer.schema import Schema

Estimator: TypeAlias = Any
_SMALLEST_SHARE = 1e-7  # a class that no tree votes for has this probability instead of minus infinity as logit

_FORESTS: dict[str, Callable[[Estimator, int, Offsets], Forest]] = {
    "DecisionTreeClassifier": random_forest,
    "RandomForestClassifier": random_forest,
    "ExtraTreesClassifier": random_forest,
    "GradientBoostingClassifier": gradient_boosting,
    "HistGradientBoostingClassifier": hist_gradient_boosting,
}
_LINEAR = ("LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "LinearSVC", "RidgeClassifier", "Perceptron")
_EXACT = ("LogisticRegression", "LogisticRegressionCV", *_FORESTS)
"""Classifiers whose probabilities are the softmax of our logits; of the others only the class is compared."""


def export_estimator(estimator: Estimator, schema: Schema, probe: npt.NDArray[Any]) -> Core:
    """Convert a fitted classifier.

    It is compared on the rows as it was fitted on them, in double precision; the graph gets them as a device feeds
    them, in float32. A column whose values float32 merges is thus found here, unless its offset is taken off.

    Args:
        estimator: classifier or pipeline, fitted on raw rows (n, width) with class numbers as labels.
        schema: inputs and labels.
        probe: float64 (n, width), n >= 1, raw rows to compare on, better unrounded; NaN only where the estimator takes
            them.

    Returns:
        The core; its `parity` is the largest difference of a probability, 0 where the estimator has none to compare.

    Raises:
        ConfigError: an estimator or a step that is not supported, not fitted, or fitted to other classes or columns.
        GateFailed: when the graph and the estimator disagree on the class of more than 1 % of the rows, or by more
            than 0.001 in a probability.
    """
    *steps, classifier = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    _check_fit(classifier, steps[0] if steps else classifier, schema)
    offsets = np.array([schema.reading.offset(column.name) for column in schema.columns] or [0.0] * schema.width)
    graph = _Graph(offsets)
    name = INPUT
    for step in steps:
        name = _step(graph, step, name)
    kind = type(classifier).__name__
    if kind in _FORESTS:
        logits = _forest(graph, _FORESTS[kind](classifier, schema.classes, graph.offsets), name)
    elif kind in _LINEAR:
        logits = _linear(graph, classifier, name)
    else:
        raise ConfigError(f"{kind} cannot be converted", hint=f"supported: {', '.join((*_LINEAR, *_FORESTS))}")
    model = graph.builder.model(logits, schema)
    return Core(model, CoreOrigin.EXPORTED, _parity(model, estimator, kind, probe, offsets))


class _Graph:
    """A core while it is put together, and how far its values lie below those of the estimator.

    Args:
        offsets: float64 (width,); a step that moves values takes them in and leaves none.
    """

    def __init__(self, offsets: Offsets) -> None:
        self.offsets = offsets
        self.builder = GraphBuilder()

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.builder.add(operator, *inputs, **attributes)

    def take_offsets(self) -> Offsets:
        offsets, self.offsets = self.offsets, np.zeros_like(self.offsets)
        return offsets

    def constant(self, value: npt.ArrayLike) -> str:
        return self.builder.constant(np.asarray(value, np.float32))


def _step(graph: _Graph, step: Any, name: str) -> str:
    kind = type(step).__name__
    if kind == "SimpleImputer":
        if step.add_indicator or not np.isnan(step.missing_values) or np.isnan(step.statistics_).any():
            raise ConfigError("SimpleImputer is converted for NaN, without indicator and without empty columns")
        missing = graph.add("IsNaN", name)
        return graph.add("Where", missing, graph.constant(step.statistics_ - graph.offsets), name)
    if kind == "StandardScaler":
        scale = step.scale_ if step.with_std else np.ones(len(graph.offsets))
        if step.with_mean:
            name = graph.add("Sub", name, graph.constant(step.mean_ - graph.take_offsets()))
        graph.offsets = graph.offsets / scale
        return graph.add("Div", name, graph.constant(scale))
    if kind == "MinMaxScaler" and not step.clip:
        least = step.min_ + graph.take_offsets() * step.scale_
        return graph.add("Add", graph.add("Mul", name, graph.constant(step.scale_)), graph.constant(least))
    raise ConfigError(f"step {kind} cannot be converted", hint="SimpleImputer, StandardScaler, MinMaxScaler")


def _linear(graph: _Graph, classifier: Any, name: str) -> str:
    weights, bias = np.atleast_2d(classifier.coef_), np.ravel(classifier.intercept_)
    if len(weights) == 1:  # a binary model scores class 1 against 0
        weights, bias = np.concatenate([0 * weights, weights]), np.array([0.0, bias[0]])
    bias = bias + weights @ graph.offsets
    known = graph.add("Where", graph.add("IsNaN", name), graph.constant(-graph.offsets), name)
    return graph.add("Gemm", known, graph.constant(weights), graph.constant(bias), transB=1)


def _forest(graph: _Graph, forest: Forest, name: str) -> str:
    sums = graph.add("TreeEnsembleRegressor", name, domain="ai.onnx.ml", **forest.attributes())
    return graph.add("Log", graph.add("Max", sums, graph.constant(_SMALLEST_SHARE))) if forest.logarithm else sums


def _check_fit(classifier: Any, first: Any, schema: Schema) -> None:
    found = list(getattr(classifier, "classes_", []))
    if found != list(range(schema.classes)):
        raise ConfigError(
            f"{type(classifier).__name__} was fitted to classes {found[:10]}, the schema has {schema.classes}",
            hint="fit it on class numbers 0, 1, ... in the order of the schema's labels",
        )
    width = getattr(first, "n_features_in_", None)
    if width != schema.width:
        raise ConfigError(f"{type(first).__name__} was fitted to {width} columns, the schema has {schema.width}")


def _parity(model: Any, estimator: Estimator, kind: str, probe: npt.NDArray[Any], offsets: Offsets) -> float:
    rows = (probe.astype(np.float64) - offsets).astype(np.float32)
    logits = run(model.SerializeToString(), rows, LOGITS)
    agree = float((logits.argmax(axis=1) == estimator.predict(probe)).mean())
    difference = (
        float(np.abs(softmax(logits, axis=1) - estimator.predict_proba(probe)).max()) if kind in _EXACT else 0.0
    )
    if agree >= 0.99 and difference <= 1e-3:
        return difference
    exact = run(model.SerializeToString(), rows, LOGITS).argmax(axis=1) == estimator.predict(rows + offsets)
    rounded = "; float32 merges values that it tells apart" if exact.mean() >= 0.99 else ""
    raise GateFailed(
        f"{kind}: ONNX agrees on {agree:.3f} of {len(probe)} rows, probabilities to {difference:.2e}{rounded}",
        hint="take an offset off such a column: reading rules with offsets, and fit on the raw values"
        if rounded
        else "",
    )
