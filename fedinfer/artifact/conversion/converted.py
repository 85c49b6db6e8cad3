"""What every converter makes: a graph, the example rows as it takes them, and what its source answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.imported.facts import OLDEST
from fedinfer.artifact.imported.propose import Wishes
from fedinfer.errors import ConfigError, DataError, FedInferError

Values: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = Any
"""An array (n, ...), a DataFrame, or arrays by name of column or input."""
Model: TypeAlias = Any
OPSET = 17
"""Operator set that converters write, where one can be asked for."""
LEAST_ROWS = 8
_SHOWN = 300  # characters of a foreign error


@dataclass(frozen=True, slots=True)
class Converted:
    """A graph, and how it is checked.

    Args:
        data: serialized ONNX model.
        feeds: example rows by input of the graph, (n, *shape); texts are (n, 1) of dtype object.
        expected: what the source answers, by output of the graph, (n, *shape).
        decided: class numbers that the source decides for, (n,), compared with `output`; None: values are compared
            only.
        output: of the graph, whose largest value, or whose only one, is the class; empty where there are no classes.
        wishes: what the source says of itself: task, labels, columns, ranges.
    """

    data: bytes
    feeds: Mapping[str, Values]
    expected: Mapping[str, Values]
    decided: Values | None
    output: str
    wishes: Wishes


def columns_of(rows: Rows) -> dict[str, Values]:
    """Columns by name; empty for an array.

    Args:
        rows: example rows.
    """
    if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
        return {str(name): rows[name].to_numpy() for name in rows.columns}
    return {str(name): np.asarray(values) for name, values in rows.items()} if isinstance(rows, Mapping) else {}


def matrix_of(rows: Rows) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Rows of numbers, float64 (n, width), and the names of their columns where they have any.

    Args:
        rows: an array (n, width), or columns of numbers.

    Raises:
        DataError: text where numbers belong, or another shape.
    """
    columns = columns_of(rows)
    try:
        plain = np.column_stack(list(columns.values())) if columns else np.asarray(rows)
        matrix = plain.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"example rows: {str(error)[:80]}", hint="this model takes a table of numbers") from error
    if matrix.ndim != 2 or len(matrix) < LEAST_ROWS:
        raise DataError(f"example rows of shape {matrix.shape}; {LEAST_ROWS} rows of numbers at least")
    return matrix, tuple(columns)


def lacks(feeds: Mapping[str, Values]) -> bool:
    """Whether numbers are missing in example rows: a model that answers such rows knows what that is.

    Args:
        feeds: rows by input.
    """
    return any(values.dtype.kind == "f" and bool(np.isnan(values).any()) for values in feeds.values())


def rounded_down(thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The next numbers that float32 holds: x <= t says the same of them, for every x that float32 holds.

    Converters round to the nearest, and what lies between the two then goes the other way.

    Args:
        thresholds: of any shape.
    """
    single = thresholds.astype(np.float32)
    above = single > thresholds
    return np.where(above, np.nextafter(single, np.float32(-np.inf)), single).astype(np.float64)


def raise_opset(graph: Any) -> None:
    """Some converters write the operator set of their oldest operator, which is older than any that is read.

    Args:
        graph: onnx.ModelProto; changed. That it still answers alike is compared later.
    """
    for item in graph.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = max(item.version, OLDEST)


def refused(what: str, error: Exception, hint: str = "") -> FedInferError:
    """A library's error while it converts, as one line.

    Args:
        what: cannot be converted.
        error: that the library raised.
        hint: what to do.
    """
    if isinstance(error, FedInferError):
        return error
    first = (str(error).strip().splitlines() or [""])[0][:_SHOWN]
    return ConfigError(f"{what} cannot be converted: {type(error).__name__}: {first}", hint=hint)
