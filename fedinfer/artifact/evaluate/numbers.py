"""Figures of a model file whose answer is a number, or several. Differences are parts of the public ranges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.manifest import COVERAGE, Reference
from fedinfer.metrics import Metric, number_score
from fedinfer.schema import Schema

CLOSE = 0.01
"""Two answers agree when they are not further apart than this part of the label's range."""
FEWEST_RESIDUALS = 20
"""With fewer labelled public rows there is no prediction interval."""
_BINS = 10


def width_of(schema: Schema) -> float:
    """Width of the label's public range, in its unit.

    Args:
        schema: with a label range.

    Raises:
        DataError: the label is a class.
    """
    if schema.label_range is None:
        raise DataError(f"label {schema.label} is a class, it has no range")
    return schema.label_range[1] - schema.label_range[0]


def values_of(outputs: npt.NDArray[Any], schema: Schema) -> npt.NDArray[np.float64]:
    """Outputs of a core in the label's unit, within its range, (n,); of tensors the first value.

    Args:
        outputs: (n, numbers), scaled so that the range is [-1, 1].
        schema: with a label range.
    """
    low, high = (float(ends[0]) for ends in schema.ranges())
    return low + (np.clip(outputs[:, 0].astype(np.float64), -1.0, 1.0) + 1.0) * (high - low) / 2


def rmse(outputs: npt.NDArray[Any], y: npt.NDArray[Any], schema: Schema) -> float:
    """Root of the mean squared error in the label's unit.

    Args:
        outputs: of a core, (n, 1), n >= 1.
        y: labels, (n,).
        schema: with a label range.
    """
    return float(number_score(Metric.RMSE, values_of(outputs, schema), y) or 0.0)


def closeness(outputs: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Share of rows with answers at most `CLOSE` of the range apart, in [0, 1].

    Of several numbers their root mean square counts, because one of thousands is always off.

    Args:
        outputs: of one core, (n, numbers), n >= 1.
        reference: of the other on the same rows.
    """
    apart = _clipped(outputs) - _clipped(reference)
    return float((np.sqrt((apart**2).mean(axis=1)) <= 2 * CLOSE).mean())


def bias(outputs: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Absolute mean difference of two models' answers, as a part of the range, in [0, 1].

    Args:
        outputs: of one core, (n, numbers), n >= 1.
        reference: of the other on the same rows.
    """
    return float(abs((_clipped(outputs) - _clipped(reference)).mean()) / 2)


def interval_of(values: npt.NDArray[Any], y: npt.NDArray[Any], schema: Schema) -> float:
    """Half width of the prediction interval, in the label's unit: a quantile of the absolute residuals.

    Split conformal prediction (Lei et al. 2018, algorithm 2): the ceil((n + 1) COVERAGE)-th smallest of n residuals on
    rows that no training saw covers a new row of the same distribution with probability at least COVERAGE.

    Args:
        values: predicted, (n,).
        y: labels of public rows, (n,).
        schema: with a label range; half of it is the widest interval.

    Returns:
        0 when there are fewer than `FEWEST_RESIDUALS` rows: no interval.
    """
    if len(y) < FEWEST_RESIDUALS:
        return 0.0
    residuals = np.sort(np.abs(values.astype(np.float64) - y))
    rank = math.ceil((len(y) + 1) * COVERAGE)
    least = 1e-6 * width_of(schema)  # a perfect model on few rows: zero would mean that there is no interval
    return float(max(residuals[min(rank, len(y)) - 1], least))


def spread_rows(calibration: npt.NDArray[np.float32], outputs: npt.NDArray[Any], most: int) -> npt.NDArray[np.float32]:
    """Rows whose answers spread over the range, the smallest and the largest among them.

    Args:
        calibration: public or synthetic rows, float32 (n, width), n >= 1.
        outputs: of the float core for them, (n, 1).
        most: rows wanted, >= 1.

    Returns:
        float32 (k, width), k <= most.
    """
    order = np.argsort(outputs[:, 0], kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
    return np.asarray(calibration[order[places]])


def value_reference(values: npt.NDArray[Any], schema: Schema) -> Reference:
    """Shares of predicted values in 10 even bins of the public range.

    Args:
        values: answers to public rows, (n,); n may be 0, which gives an empty reference.
        schema: with a label range.
    """
    if len(values) == 0 or schema.label_range is None:
        return Reference()
    edges = np.linspace(*schema.label_range, _BINS + 1)
    shares = np.histogram(np.clip(values.astype(np.float64), *schema.label_range), edges)[0] / len(values)
    return Reference(len(values), (), tuple(map(float, edges)), tuple(map(float, shares)))


def _clipped(outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.clip(outputs.astype(np.float64), -1.0, 1.0)
