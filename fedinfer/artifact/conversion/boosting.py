"""Trees of XGBoost and LightGBM through onnxmltools, always as the plain booster: names of columns are ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedinfer.artifact.conversion.converted import (
    Converted,
    Model,
    Rows,
    Values,
    lacks,
    matrix_of,
    raise_opset,
    refused,
    rounded_down,
)
from fedinfer.artifact.export.graph import onnx_module, quiet
from fedinfer.artifact.imported.declaration import ModelTask
from fedinfer.artifact.imported.propose import Wishes
from fedinfer.errors import MissingExtra

INPUT, PROBABILITIES = "X", "probabilities"
_OPSET = 15  # the newest that onnxmltools writes for trees


def from_xgboost(model: Model, rows: Rows) -> Converted:
    """Convert trees of XGBoost.

    Args:
        model: XGBClassifier, XGBRegressor or Booster.
        rows: public rows of numbers as it was fitted on them, (n, width), n >= 8.

    Raises:
        ConfigError: onnxmltools cannot convert it.
        DataError: rows that are no numbers.
        MissingExtra: onnxmltools is not installed.
    """
    xgboost, onnxmltools = _library("xgboost"), _library("onnxmltools")
    matrix, columns = matrix_of(rows)
    booster: Any = (model.get_booster() if hasattr(model, "get_booster") else model).copy()
    columns = columns or tuple(booster.feature_names or ())
    booster.feature_names = None  # onnxmltools takes the names f0, f1, ... only
    try:
        answers = booster.predict(xgboost.DMatrix(matrix.astype(np.float32)))
        with quiet():
            graph = onnxmltools.convert_xgboost(booster, initial_types=_types(matrix), target_opset=_OPSET)
    except Exception as error:  # of several classes
        raise refused(type(model).__name__, error) from error
    return _converted(graph, matrix, columns, answers, getattr(model, "classes_", None))


def from_lightgbm(model: Model, rows: Rows) -> Converted:
    """Convert trees of LightGBM.

    Args:
        model: LGBMClassifier, LGBMRegressor or Booster.
        rows: public rows of numbers as it was fitted on them, (n, width), n >= 8.

    Raises:
        ConfigError, DataError, MissingExtra: as `from_xgboost`.
    """
    onnxmltools = _library("onnxmltools")
    matrix, columns = matrix_of(rows)
    trees: Any = getattr(model, "booster_", model)
    booster = _single(_library("lightgbm"), trees)
    try:
        answers = trees.predict(matrix)
        with quiet():
            graph = onnxmltools.convert_lightgbm(
                booster, initial_types=_types(matrix), zipmap=False, target_opset=_OPSET
            )
    except Exception as error:  # of several classes
        raise refused(type(model).__name__, error) from error
    return _converted(graph, matrix, columns, answers, getattr(model, "classes_", None))


def _single(lightgbm: Any, booster: Any) -> Any:
    """The same trees with thresholds that float32 holds."""
    lines = booster.model_to_string(num_iteration=booster.best_iteration or None).splitlines()
    for place, line in enumerate(lines):
        if line.startswith("threshold="):
            exact = np.array(line.removeprefix("threshold=").split(), np.float64)
            lines[place] = "threshold=" + " ".join(repr(float(value)) for value in rounded_down(exact))
        if line.startswith("tree_sizes="):
            lines[place] = ""  # lengths in bytes, which have changed
    return lightgbm.Booster(model_str="\n".join(lines) + "\n")


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"boosted trees need the package {name}", hint="pip install 'fedinfer[boosting]'") from error


def _types(matrix: Values) -> list[Any]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [(INPUT, FloatTensorType([None, matrix.shape[1]]))]


def _converted(graph: Any, matrix: Values, columns: tuple[str, ...], answers: Values, classes: Any) -> Converted:
    raise_opset(graph)
    names = [item.name for item in graph.graph.output]
    feeds = {INPUT: matrix.astype(np.float32)}
    if PROBABILITIES not in names:
        wishes = Wishes(task=ModelTask.REGRESSION, columns=columns, missing=lacks(feeds))
        expected = {names[0]: answers.reshape(len(matrix), -1)}
        return Converted(bytes(graph.SerializeToString()), feeds, expected, None, "", wishes)
    kept = next(item for item in graph.graph.output if item.name == PROBABILITIES)
    probabilities = onnx_module().ValueInfoProto()
    probabilities.CopyFrom(kept)
    del graph.graph.output[:]
    graph.graph.output.append(probabilities)
    if answers.ndim == 1:
        answers = np.stack([1 - answers, answers], axis=1)
    labels = tuple(str(label) for label in (range(answers.shape[1]) if classes is None else classes))
    wishes = Wishes(task=ModelTask.CLASSIFICATION, labels=labels, columns=columns, missing=lacks(feeds))
    data = bytes(graph.SerializeToString())
    return Converted(data, feeds, {PROBABILITIES: answers}, answers.argmax(axis=1), PROBABILITIES, wishes)
