"""What a regression is worth, beside always answering the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.metrics.judgement import MOST_RESAMPLED, RESAMPLES
from fedinfer.metrics.metric import Metric, number_score
from fedinfer.types import Json

RESIDUAL_PARTS = 10
"""Parts of equally many rows in which errors are described, from the smallest answers to the largest."""
TAILS = (0.05, 0.5, 0.95)
"""Quantiles of the errors of a part."""


def judge_numbers(metric: Metric, predicted: npt.NDArray[Any], y: npt.NDArray[Any], rng: np.random.Generator) -> Json:
    """Judge a regression beside the mean of the labels, which only somebody who knows all of them can answer.

    Args:
        metric: of numbers, by which the task is judged.
        predicted: (n,), in the label's unit; n >= 1.
        y: labels, (n,).
        rng: draws the resamples of the interval and of the difference (bootstrap, as for classes).

    Returns:
        For run.json: as `ClassJudgement.to_json` without what only classes have.
    """
    constant = np.full(len(y), np.mean(y, dtype=np.float64))
    sign = 1.0 if metric.higher_is_better else -1.0
    drawn = np.sort(rng.permutation(len(y))[:MOST_RESAMPLED])
    values, advances = [], []
    for _ in range(RESAMPLES):
        rows = drawn[rng.integers(0, len(drawn), len(drawn))]
        value, other = number_score(metric, predicted[rows], y[rows]), number_score(metric, constant[rows], y[rows])
        if value is not None and other is not None:
            values.append(value)
            advances.append(sign * (value - other))
    enough = len(values) >= RESAMPLES / 2
    return {
        "metric": str(metric),
        "rows": len(y),
        "value": number_score(metric, predicted, y),
        "interval": [float(end) for end in np.quantile(values, (0.025, 0.975))] if enough else [None, None],
        "better": bool(enough and np.quantile(advances, 0.025) > 0),
        "baseline": {
            "answer": float(constant[0]),
            "value": number_score(metric, constant, y),
            "scores": number_scores(constant, y),
        },
        "scores": number_scores(predicted, y),
    }


def number_scores(predicted: npt.NDArray[Any], y: npt.NDArray[Any]) -> dict[str, float]:
    """All figures of numbers that are defined, by name.

    Args:
        predicted: (n,), n >= 1.
        y: labels, (n,).
    """
    found = {str(metric): number_score(metric, predicted, y) for metric in Metric if metric.of_numbers}
    return {name: value for name, value in found.items() if value is not None}


def part_of_numbers(name: str, metric: Metric, predicted: npt.NDArray[Any], y: npt.NDArray[Any]) -> Json:
    """Figures of a device, for run.json.

    Args:
        name: of the device.
        metric: of numbers, by which the task is judged.
        predicted: (n,), in the label's unit; n >= 1.
        y: labels, (n,).

    Returns:
        `value` of the metric, `rmse`, and `bias`: how much too large the answers are in the mean.
    """
    return {
        "name": name,
        "rows": len(y),
        "value": number_score(metric, predicted, y),
        "rmse": number_score(Metric.RMSE, predicted, y),
        "bias": float(np.mean(predicted - y, dtype=np.float64)),
    }


def residuals(predicted: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[Json]:
    """How far labels lie from answers, in parts from the smallest answers to the largest, for run.json.

    Args:
        predicted: (n,), in the label's unit; n >= 1.
        y: labels, (n,).

    Returns:
        Of each part its `rows`, the mean answer `predicted`, and `low`, `middle`, `high`: 5 %, median and 95 % of label
        minus answer.
    """
    order = np.argsort(predicted, kind="stable")
    found = []
    for rows in np.array_split(order, min(RESIDUAL_PARTS, len(order))):
        low, middle, high = np.quantile(y[rows].astype(np.float64) - predicted[rows], TAILS)
        mean = float(np.mean(predicted[rows], dtype=np.float64))
        found.append({"rows": len(rows), "predicted": mean, "low": low, "middle": middle, "high": high})
    return [{key: float(value) if key != "rows" else value for key, value in part.items()} for part in found]
