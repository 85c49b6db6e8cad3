"""Figures of a predicted number, in the unit of the label."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[Any]
"""Floats, shape (n,)."""


def rmse(predicted: Values, y: Values) -> float:
    """Root of the mean squared error.

    Args:
        predicted: (n,), n >= 1.
        y: (n,), labels.
    """
    return float(np.sqrt(np.mean(_errors(predicted, y) ** 2)))


def mae(predicted: Values, y: Values) -> float:
    """Mean absolute error.

    Args:
        predicted: (n,), n >= 1.
        y: (n,), labels.
    """
    return float(np.mean(np.abs(_errors(predicted, y))))


def r2(predicted: Values, y: Values) -> float | None:
    """Share of the variance that is explained: 1 for a perfect model, 0 for always answering the mean of `y`.

    Args:
        predicted: (n,), n >= 1.
        y: (n,), labels.

    Returns:
        At most 1; None when all labels are equal.
    """
    spread = float(np.sum((y - np.mean(y, dtype=np.float64)) ** 2))
    return 1.0 - float(np.sum(_errors(predicted, y) ** 2)) / spread if spread > 0 else None


def number_figures(predicted: Values, y: Values) -> dict[str, float]:
    """Errors in the label's unit and, where it is defined, the share of variance that is explained.

    Args:
        predicted: (n,).
        y: (n,), labels.

    Returns:
        `rows`, and for n > 0 `rmse`, `mae`; `r2` only when the labels differ.
    """
    found = {"rows": float(len(y))}
    if not len(y):
        return found
    found |= {"rmse": rmse(predicted, y), "mae": mae(predicted, y)}
    share = r2(predicted, y)
    return found if share is None else {**found, "r2": share}


def _errors(predicted: Values, y: Values) -> npt.NDArray[np.float64]:
    return predicted.astype(np.float64) - y.astype(np.float64)
