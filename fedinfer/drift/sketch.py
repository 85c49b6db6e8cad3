"""The device's side: a window of predictions becomes a few small histograms (numpy only).

Rules:
* Bin edges are public and fixed before the window starts: only fixed-bin histograms can be added up under secure
  aggregation.
* Unit `device`: each histogram is normalised to sum 1, all are put side by side, the whole is clipped to an L2 norm.
  One device can move the fleet's sum by at most that norm, however many rows it has.
* Unit `example`: raw counts; one row adds one count to each of F histograms, so it moves the sum by sqrt(F).
* A prediction that is not a number, and a row on which the model fails, are counted in the lowest confidence bin, never
  dropped: a model that returns NaN or fails is drift. Such a failure is in no class, so the class histogram is as much
  shorter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import DEVICE_CLIPPING_NORM, Channel, Counts, Floats
from fedinfer.errors import ConfigError, DataError
from fedinfer.types import FloatVector, Unit


def confidence_edges(classes: int, bins: int) -> Floats:
    """Equal-width bin edges for the largest probability, which lies in [1/classes, 1].

    Args:
        classes: number of classes, >= 2.
        bins: number of bins, >= 2.

    Returns:
        Inner edges, shape (bins - 1,), ascending.
    """
    if classes < 2 or bins < 2:
        raise ConfigError(f"confidence needs at least 2 classes and 2 bins, got {classes} and {bins}")
    return np.linspace(1.0 / classes, 1.0, bins + 1)[1:-1]


def quantile_edges(public_values: npt.ArrayLike, bins: int) -> Floats:
    """Inner edges, shape (bins - 1,), that cut PUBLIC values into equally full bins; never for device data."""
    edges: Floats = np.unique(np.quantile(np.asarray(public_values, np.float64), np.arange(1, bins) / bins))
    if edges.size != bins - 1:
        raise ConfigError(f"public values have ties: {edges.size + 1} bins instead of {bins}", hint="use fewer bins")
    return edges


def class_histogram(labels: npt.NDArray[np.integer[Any]], classes: int) -> Counts:
    """Counts per predicted class.

    Args:
        labels: class numbers in [0, classes), shape (rows,).
        classes: number of classes.

    Returns:
        Counts, shape (classes,), int64.

    Raises:
        DataError: when a label is outside the range.
    """
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(f"class numbers {labels.min()} to {labels.max()}, allowed are 0 to {classes - 1}")
    return np.bincount(labels, minlength=classes).astype(np.int64)


def confidence_histogram(probabilities: npt.NDArray[np.floating[Any]], edges: Floats) -> Counts:
    """Counts of the largest probability of each row.

    Args:
        probabilities: shape (rows, classes).
        edges: inner edges, ascending, shape (bins - 1,); a value equal to an edge belongs to the bin above it.

    Returns:
        Counts, shape (bins,), int64.
    """
    top = np.fmax(probabilities.max(axis=1), -np.inf)  # fmax takes the number when the other is none
    return np.bincount(np.searchsorted(edges, top, side="right"), minlength=edges.size + 1).astype(np.int64)


def device_report(histograms: Sequence[Counts], clipping_norm: float) -> FloatVector:
    """Unit `device`: normalised histograms side by side, clipped as one vector.

    Args:
        histograms: counts, one array per channel, of which the fullest has one count per row; at least one row.
        clipping_norm: largest L2 norm C > 0; sqrt(F) never clips, smaller values buy less noise for spread histograms.

    Returns:
        Report, shape (sum of bins,), float32, L2 norm <= C.

    Raises:
        DataError: when all histograms are empty (a device without rows does not report).
    """
    rows = max(int(histogram.sum()) for histogram in histograms)
    if rows <= 0:
        raise DataError("a window without rows has no histogram to report")
    report = np.concatenate(histograms) / rows
    norm = math.sqrt(float(report @ report))
    return (report * min(1.0, clipping_norm / norm)).astype(np.float32)


def example_report(histograms: Sequence[Counts]) -> FloatVector:
    """Unit `example`: raw counts side by side, shape (sum of bins,), float32."""
    return np.concatenate(histograms).astype(np.float32)


def example_sensitivity(channels: Sequence[Channel]) -> float:
    """L2 distance by which one row moves `example_report`: it adds one count to each of F histograms."""
    return math.sqrt(len(channels))


def report_norm(unit: Unit, channels: Sequence[Channel]) -> float:
    """Largest L2 norm by which one unit of privacy moves the sum of reports."""
    return example_sensitivity(channels) if unit is Unit.EXAMPLE else DEVICE_CLIPPING_NORM


class OutputSketch:
    """Counts of predicted class and confidence of the window that is open; memory does not grow with rows.

    Args:
        classes: number of classes.
        edges: inner edges of the confidence bins.
    """

    def __init__(self, classes: int, edges: Floats) -> None:
        self._edges = edges
        self._classes: Counts = np.zeros(classes, np.int64)
        self._confidence: Counts = np.zeros(edges.size + 1, np.int64)

    @property
    def rows(self) -> int:
        """Rows counted so far."""
        return int(self._confidence.sum())

    def add(self, labels: npt.NDArray[np.integer[Any]], probabilities: npt.NDArray[np.floating[Any]]) -> None:
        """Count a batch: class numbers (rows,) and probabilities (rows, classes)."""
        self._classes += class_histogram(labels, self._classes.size)
        self._confidence += confidence_histogram(probabilities, self._edges)

    def add_unanswered(self, rows: int) -> None:
        """Count rows on which the model failed."""
        self._confidence[0] += rows

    def histograms(self) -> tuple[Counts, Counts]:
        """Copies of the counts, in the order of `output_channels`."""
        return self._classes.copy(), self._confidence.copy()

    def restore(self, histograms: tuple[Counts, Counts]) -> None:
        """Continue from counts that were kept in a store."""
        classes, confidence = histograms
        if classes.shape != self._classes.shape or confidence.shape != self._confidence.shape:
            raise DataError(f"kept window has bins {classes.shape} and {confidence.shape}")
        self._classes, self._confidence = classes.copy(), confidence.copy()
