"""Fitted scikit-learn classifiers, regressors and pipelines through skl2onnx."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedinfer.artifact.conversion.converted import (
    LEAST_ROWS,
    OPSET,
    Converted,
    Model,
    Rows,
    Values,
    columns_of,
    lacks,
    matrix_of,
    raise_opset,
    refused,
    rounded_down,
)
from fedinfer.artifact.export.graph import onnx_module, quiet
from fedinfer.artifact.imported.declaration import ModelTask
from fedinfer.artifact.imported.propose import Wishes
from fedinfer.errors import ConfigError, DataError, MissingExtra

INPUT, PROBABILITIES, CLASS = "X", "probabilities", "class"
_ML, _ENCODER = "ai.onnx.ml", 2  # version that knows lists of keys and values
_HISTOGRAMS = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
_NEIGHBOURS = ("KNeighborsClassifier", "KNeighborsRegressor")


def from_sklearn(model: Model, rows: Rows) -> Converted:
    """Convert a fitted estimator.

    Args:
        model: classifier, regressor or pipeline. One that has a ColumnTransformer gets an input per column, any other a
            single input of numbers.
        rows: public rows as it was fitted on them, n >= 8.

    Raises:
        ConfigError: it is not fitted, or skl2onnx has no converter for a part of it.
        DataError: rows that it does not take.
        MissingExtra: skl2onnx is not installed.
    """
    by_column = any(type(part).__name__ == "ColumnTransformer" for part in _parts(model))
    feeds, fitted_on, columns = _by_column(rows) if by_column else _matrix(model, rows)
    classes = _classes(model)
    graph = _graph(_single(model), feeds)
    answers, decided = _answers(model, fitted_on, classes)
    output = _finish(graph, classes, answers is not None)
    wishes = Wishes(
        task=ModelTask.REGRESSION if classes is None else ModelTask.CLASSIFICATION,
        labels=() if classes is None else tuple(str(label) for label in classes),
        columns=() if by_column else columns,
        missing=lacks(feeds),
        categories={name: _categories(values) for name, values in feeds.items() if values.dtype == object},
    )
    expected = {} if answers is None else {output: answers}
    data = bytes(graph.SerializeToString())
    return Converted(data, feeds, expected, decided, "" if classes is None else output, wishes)


def _parts(model: Model) -> Iterator[Any]:
    """An estimator and what it consists of."""
    yield model
    for _, part in getattr(model, "steps", ()):
        yield from _parts(part)


def _single(model: Model) -> Model:
    """The same, with thresholds of histogram gradient boosting that float32 holds; of other trees skl2onnx does it."""
    if not any(type(part).__name__ in _HISTOGRAMS for part in _parts(model)):
        return model
    copied = copy.deepcopy(model)
    for part in _parts(copied):
        for predictor in itertools.chain.from_iterable(getattr(part, "_predictors", ())):
            predictor.nodes["num_threshold"] = rounded_down(predictor.nodes["num_threshold"])
    return copied


def _matrix(model: Model, rows: Rows) -> tuple[dict[str, Values], Any, tuple[str, ...]]:
    matrix, columns = matrix_of(rows)
    known = tuple(str(name) for name in getattr(model, "feature_names_in_", ()))
    if known and columns and known != columns:
        raise DataError(
            f"example rows have the columns {', '.join(columns)[:200]}", hint=f"fitted on {', '.join(known)}"
        )
    named = known or columns
    return (
        {INPUT: matrix.astype(np.float32)},
        _frame(dict(zip(known, matrix.T, strict=True))) if known else matrix,
        named,
    )


def _by_column(rows: Rows) -> tuple[dict[str, Values], Any, tuple[str, ...]]:
    columns = columns_of(rows)
    if not columns or any(len(values) < LEAST_ROWS for values in columns.values()):
        raise DataError(f"a ColumnTransformer takes columns by name, {LEAST_ROWS} rows at least", hint="a DataFrame")
    feeds = {}
    for name, values in columns.items():
        number = values.dtype.kind in "fiub"
        if not number and not all(isinstance(value, str) for value in values):
            raise DataError(f"column {name}: a text is missing, or is no text", hint="name it, or leave such rows out")
        feeds[name] = values[:, None].astype(np.float32) if number else values[:, None].astype(str).astype(object)
    return feeds, _frame(columns), ()


def _frame(columns: dict[str, Values]) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("columns by name need the package pandas", hint="pip install 'fedinfer[data]'") from error
    return pandas.DataFrame(columns)


def _graph(model: Model, feeds: dict[str, Values]) -> Any:
    try:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    except ImportError as error:
        raise MissingExtra(
            "scikit-learn models need the package skl2onnx", hint="pip install 'fedinfer[sklearn]'"
        ) from error
    types = [
        (name, (StringTensorType if values.dtype == object else FloatTensorType)([None, values.shape[1]]))
        for name, values in feeds.items()
    ]
    neighbours = {id(part): {"optim": "cdist"} for part in _parts(model) if type(part).__name__ in _NEIGHBOURS}
    try:
        with quiet():
            try:  # a map of classes is no tensor; some classifiers make none and refuse to be asked
                options = {**neighbours, id(model): {**neighbours.get(id(model), {}), "zipmap": False}}
                graph = skl2onnx.convert_sklearn(model, initial_types=types, options=options, target_opset=OPSET)
            except (NameError, ValueError):
                graph = skl2onnx.convert_sklearn(model, initial_types=types, options=neighbours, target_opset=OPSET)
    except Exception as error:  # of a dozen classes; each means that this estimator is not converted
        raise refused(
            type(model).__name__, error, "is it fitted? other steps: see skl2onnx' list of converters"
        ) from error
    return graph


def _finish(graph: Any, classes: Any, probabilities: bool) -> str:
    """Leave one output of numbers, and give its name: probabilities, the number of the class, or the answer.

    Without probabilities the graph's scores are no help: those of a support vector machine of two classes have the
    opposite sign. Its label is right, and becomes a number.
    """
    raise_opset(graph)
    outputs = graph.graph.output
    kept = [item for item in outputs if item.name == PROBABILITIES] if probabilities else []
    if classes is not None and not kept:
        kept = [_class_number(graph, outputs[0].name, classes)]
    if classes is None and len(outputs) != 1:
        raise ConfigError(f"the converted graph has {len(outputs)} outputs, a regression has one")
    if classes is not None:
        del outputs[:]
        outputs.extend(kept)
    return str(outputs[0].name)


def _class_number(graph: Any, label: str, classes: Any) -> Any:
    onnx, names = onnx_module(), np.asarray(classes).tolist()
    texts = all(isinstance(name, str) for name in names)
    keys = {"keys_strings": names} if texts else {"keys_int64s": [int(name) for name in names]}
    places = list(range(len(names)))
    node = onnx.helper.make_node(
        "LabelEncoder", [label], [CLASS], domain=_ML, values_int64s=places, default_int64=0, **keys
    )
    graph.graph.node.append(node)
    imports = [item for item in graph.opset_import if item.domain == _ML]
    if not imports:
        graph.opset_import.append(onnx.helper.make_opsetid(_ML, _ENCODER))
    for item in imports:
        item.version = max(item.version, _ENCODER)
    return onnx.helper.make_tensor_value_info(CLASS, onnx.TensorProto.INT64, [None])


def _classes(model: Model) -> Any:
    classes = getattr(model, "classes_", None)
    if classes is not None and (np.ndim(classes) != 1 or isinstance(classes[0], np.ndarray)):
        raise ConfigError("a classifier of several labels at once is not converted", hint="one model for each label")
    return classes


def _answers(model: Model, rows: Any, classes: Any) -> tuple[Values | None, Values | None]:
    """Probabilities (n, classes) or numbers (n, 1); else class numbers (n,).

    The two may contradict each other: a support vector machine decides by its scores, not by its probabilities.
    """
    try:
        if classes is not None and hasattr(model, "predict_proba"):
            return np.asarray(model.predict_proba(rows)), None
        said = np.asarray(model.predict(rows))
        if classes is None:
            return said.astype(np.float64).reshape(len(said), -1), None
        places = {label: place for place, label in enumerate(np.asarray(classes).tolist())}
        return None, np.array([places[label] for label in said.tolist()])
    except Exception as error:  # scikit-learn's own, of several classes
        raise refused(type(model).__name__, error, "rows as it was fitted on them") from error


def _categories(values: Values) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values.ravel()}))
