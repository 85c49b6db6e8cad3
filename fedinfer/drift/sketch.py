"""The device's side: a window of predictions becomes a few small histograms (numpy only).

Rules:
* Unit `device`: each histogram is normalised to sum 1, all are put side by side, the whole is clipped to an L2 norm.
  One device can move the fleet's sum by at most that norm, however many rows it has.
* Unit `example`: raw counts; one row adds one count to each of F histograms, so it moves the sum by sqrt(F).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import numpy as np

from fedinfer.drift.channels import Channel, Counts, Outputs, clip_norm, tally
from fedinfer.errors import DataError
from fedinfer.types import FloatVector, Unit


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
    # Rows on which the model failed are missing in some channels, so the fullest one has all rows.
    rows = max(int(histogram.sum()) for histogram in histograms)
    if rows <= 0:
        raise DataError("a window without rows has no histogram to report")
    report = np.concatenate(histograms) / rows
    norm = math.sqrt(float(report @ report))
    return (report * min(1.0, clipping_norm / norm)).astype(np.float32)


def example_report(histograms: Sequence[Counts]) -> FloatVector:
    """Unit `example`: raw counts side by side.

    Args:
        histograms: counts, one array per channel, in order.

    Returns:
        (sum of bins,) float32.
    """
    return np.concatenate(histograms).astype(np.float32)


def example_sensitivity(channels: Sequence[Channel]) -> float:
    """L2 distance by which one row moves `example_report`: it adds at most one count to each of F histograms.

    Args:
        channels: of the report, F of them.

    Returns:
        sqrt(F).
    """
    return math.sqrt(len(channels))


def report_norm(unit: Unit, channels: Sequence[Channel]) -> float:
    """Largest L2 norm by which one unit of privacy moves the sum of reports: C of the sum.

    Args:
        unit: what is protected.
        channels: of the report.
    """
    match unit:
        case Unit.EXAMPLE:
            return example_sensitivity(channels)
        case Unit.DEVICE | Unit.NONE:  # without protection reports keep the scale of `device`
            return clip_norm(channels)
        case _:
            assert_never(unit)


def window_report(histograms: Sequence[Counts], unit: Unit, channels: Sequence[Channel]) -> FloatVector:
    """The report of one window for a unit of privacy.

    Args:
        histograms: counts, one array per channel, in order.
        unit: what is protected; with `none` reports are scaled as with `device`.
        channels: of the report.

    Returns:
        (width of the channels,) float32, of L2 norm <= `report_norm` for unit `device`.

    Raises:
        DataError: a window without rows, for units `device` and `none`.
    """
    match unit:
        case Unit.EXAMPLE:
            return example_report(histograms)
        case Unit.DEVICE | Unit.NONE:
            return device_report(histograms, report_norm(unit, channels))
        case _:
            assert_never(unit)


class Sketch:
    """Counts of every channel of the window that is open; memory does not grow with rows.

    Args:
        channels: what is counted, in the order of the report.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = tuple(channels)
        self._counts: list[Counts] = [np.zeros(channel.bins, np.int64) for channel in self._channels]

    def add(self, outputs: Outputs) -> None:
        """Count a batch of rows.

        Args:
            outputs: of a batch of rows; nothing is counted when one channel refuses.

        Raises:
            DataError: a channel does not put every row into exactly one of its bins.
        """
        fresh = [tally(channel, outputs) for channel in self._channels]
        for counts, more in zip(self._counts, fresh, strict=True):
            counts += more

    def add_unanswered(self, rows: int) -> None:
        """Count rows on which the model failed.

        Args:
            rows: on which the model failed, >= 0.
        """
        for channel, counts in zip(self._channels, self._counts, strict=True):
            if channel.unanswered is not None:
                counts[channel.unanswered] += rows

    def histograms(self) -> tuple[Counts, ...]:
        """Copies of the counts, in the order of the channels."""
        return tuple(counts.copy() for counts in self._counts)
