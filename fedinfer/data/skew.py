"""Breaks for a column of many small values and few large ones, such as an income: see `[data] breaks`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
PART = 0.25
"""A column needs breaks where nine tenths of its values lie in this part of the range, at one of its ends."""


def breaks_for(values: npt.NDArray[np.float64], low: float, high: float) -> tuple[float, ...]:
    """Round values near the quantiles of a column, counted from the end of the range where most values lie.

    Rounded to one digit, so that they say what scale a column has and not what any row holds.

    Args:
        values: of the column, at least one, finite.
        low: lower end of its range.
        high: upper end of its range.

    Returns:
        Rising, inside the range; empty where the values fill the range.

    Examples:
        >>> breaks_for(np.array([0.0, 0.0, 200.0, 400.0, 800.0, 3000.0, 9000.0]), 0.0, 100000.0)
        (100.0, 400.0, 2000.0, 5000.0)
    """
    width = high - low
    places = (np.quantile(values, QUANTILES) - low) / width
    if places[-1] < PART:
        return _inside((low + _rounded(place * width) for place in places), low, high)
    if places[0] > 1.0 - PART:
        return _inside((high - _rounded((1.0 - place) * width) for place in places), low, high)
    return ()


def _rounded(distance: float) -> float:
    """To one significant digit."""
    return round(distance, -math.floor(math.log10(distance))) if distance > 0 else 0.0


def _inside(found: Iterable[float], low: float, high: float) -> tuple[float, ...]:
    return tuple(sorted({float(f"{value:.12g}") for value in found if low < value < high}))
