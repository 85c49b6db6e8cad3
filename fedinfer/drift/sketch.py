"""The device's side: a window of predictions becomes a few small histograms (numpy only).

Rules:
* Unit `device`: each histogram is divided by its rows, those of one source are put side by side and clipped together to
  the L2 norm that their clip shares allow. One device can move the fleet's sum by at most the root of all clip shares,
  however many rows it has, and what is wrong with its inputs does not cut what it says about its answers.
* Of rows with a label, which come late or for few of them, shares of the labelled rows are reported, scaled to the norm
  instead of clipped; a device without labels reports zeros there.
* Unit `example`: raw counts; one row adds one count to each of F histograms, so it moves the sum by sqrt(F).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import Channel, Counts, Outputs, clip_norm, tally
from fedinfer.errors import ConfigError, DataError
from fedinfer.types import AnyFloats, FloatVector, Unit, WideVector


def device_report(histograms: Sequence[Counts], clipping_norm: float, rows: int = 0) -> FloatVector:
    """Unit `device`: normalised histograms side by side, clipped as one vector.

    Args:
        histograms: counts, one array per channel.
        clipping_norm: largest L2 norm C > 0; sqrt(F) never clips, smaller values buy less noise for spread histograms.
        rows: of the window; 0: the fullest histogram counts every row.

    Returns:
        Report, shape (sum of bins,), float32, L2 norm <= C.

    Raises:
        DataError: when all histograms are empty (a device without rows does not report).
    """
    # Rows on which the model failed are missing in some channels, so the fullest one has all rows.
    total = rows or max(float(histogram.sum()) for histogram in histograms)
    if total <= 0:
        raise DataError("a window without rows has no histogram to report")
    report = np.concatenate(histograms) / total
    norm = math.sqrt(float(report @ report))
    return (report * (clipping_norm / max(norm, clipping_norm))).astype(np.float32)


def example_report(histograms: Sequence[Counts]) -> WideVector:
    """Unit `example`: raw counts side by side.

    In single precision one more row could move a large count by more than 1, and parts of rows by more than the part.

    Args:
        histograms: counts, one array per channel, in order.

    Returns:
        (sum of bins,) float64.
    """
    return np.concatenate(histograms).astype(np.float64)


def example_sensitivity(channels: Sequence[Channel]) -> float:
    """L2 distance by which one row moves `example_report`: it adds at most one count to each of F histograms.

    Args:
        channels: of the report, F of them.

    Returns:
        sqrt(F).

    Raises:
        ConfigError: one of them is about whole windows, which one row can turn round.
    """
    if any(channel.source.of_windows for channel in channels):
        raise ConfigError(
            "[drift] channels: 'flags' needs [privacy] unit = 'device': one row of many can raise a device's flag",
            hint="leave flags out",
        )
    return math.sqrt(len(channels))


def report_norm(unit: Unit, channels: Sequence[Channel]) -> float:
    """Largest L2 norm by which one unit of privacy moves the sum of reports: C of the sum.

    Args:
        unit: what is protected.
        channels: of the report.

    Raises:
        ConfigError: unit `example`, and a channel that no row moves by one count at most.
    """
    match unit:
        case Unit.EXAMPLE:
            return example_sensitivity(channels)
        case Unit.DEVICE | Unit.NONE:  # without protection reports keep the scale of `device`
            return clip_norm(channels)
        case _:
            assert_never(unit)


def window_report(histograms: Sequence[Counts], unit: Unit, channels: Sequence[Channel], rows: int = 0) -> AnyFloats:
    """The report of one window for a unit of privacy.

    Args:
        histograms: counts, one array per channel, in order.
        unit: what is protected; with `none` reports are scaled as with `device`.
        channels: of the report.
        rows: of the window; 0: the fullest histogram counts every row.

    Returns:
        (width of the channels,): float64 for unit `example`, else float32, of L2 norm <= `report_norm` for `device`.

    Raises:
        DataError: a window without rows, for units `device` and `none`.
    """
    match unit:
        case Unit.EXAMPLE:
            return example_report(histograms)
        case Unit.DEVICE | Unit.NONE:
            return _by_source(histograms, channels, rows)
        case _:
            assert_never(unit)


def _by_source(histograms: Sequence[Counts], channels: Sequence[Channel], rows: int) -> FloatVector:
    rows = rows or round(max((float(histogram.sum()) for histogram in histograms), default=0.0))
    pieces: dict[int, FloatVector] = {}
    for source in dict.fromkeys(channel.source for channel in channels):
        places = [place for place, channel in enumerate(channels) if channel.source is source]
        if source.labelled:
            pieces |= {place: _shares(histograms[place], channels[place]) for place in places}
            continue
        norm = clip_norm([channels[place] for place in places])
        report = device_report([histograms[place] for place in places], norm, rows)
        ends = np.cumsum([channels[place].bins for place in places])[:-1]
        pieces |= zip(places, np.split(report, ends), strict=True)
    return np.concatenate([pieces[place] for place in range(len(channels))])


def _shares(histogram: Counts, channel: Channel) -> FloatVector:
    """How labelled rows are shared out, of L2 norm <= the root of the channel's clip share."""
    shares = histogram * (channel.scale(Unit.DEVICE) / max(float(histogram.sum()), 1.0))
    # Rounding to float32 may add to a norm that is exactly at its limit.
    return np.nextafter(shares.astype(np.float32), np.float32(0.0))


class Sketch:
    """Counts of every channel of the window that is open; memory does not grow with rows.

    Args:
        channels: what is counted, in the order of the report.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = tuple(channels)
        self._counts: list[Counts] = [np.zeros(channel.bins) for channel in self._channels]
        self._rows = 0

    @property
    def rows(self) -> int:
        """Rows so far, those without an answer included."""
        return self._rows

    def add(self, outputs: Outputs) -> None:
        """Count a batch of rows.

        Args:
            outputs: of a batch of rows; nothing is counted when one channel refuses.

        Raises:
            DataError: a channel does not put every row into exactly one of its bins.
        """
        self._add([tally(channel, outputs) for channel in self._channels], len(outputs.labels))

    def add_unanswered(self, rows: int, inputs: npt.NDArray[np.floating[Any]] | None = None) -> None:
        """Count rows on which the model failed.

        Args:
            rows: on which the model failed, >= 0.
            inputs: those rows, as in `Outputs`; channels of inputs count them as any other row.

        Raises:
            DataError: a channel looks at inputs, and there are rows but no inputs.
        """
        outputs = Outputs(np.zeros(rows, np.int64), np.zeros((rows, 1)), inputs)
        self._add([self._unanswered(channel, outputs) for channel in self._channels], rows)

    def add_flag(self, raised: bool) -> None:
        """Raise or lower the flag of the whole window; call it once, after the last row.

        Args:
            raised: the device's own test says that this window is unusual; every row counts as flagged.
        """
        for channel, counts in zip(self._channels, self._counts, strict=True):
            if channel.source.of_windows:
                counts[:] = float(raised) * self._rows

    def histograms(self) -> tuple[Counts, ...]:
        """Copies of the counts, in the order of the channels."""
        return tuple(counts.copy() for counts in self._counts)

    def report(self, unit: Unit) -> AnyFloats:
        """`window_report` of what was counted.

        Args:
            unit: what is protected.

        Raises:
            DataError: a window without rows, for units `device` and `none`.
        """
        return window_report(self._counts, unit, self._channels, self._rows)

    def _unanswered(self, channel: Channel, outputs: Outputs) -> Counts:
        if channel.source.needs_no_answer:
            return tally(channel, outputs)
        counts: Counts = np.zeros(channel.bins)
        if channel.unanswered is not None:
            counts[channel.unanswered] = len(outputs.labels)
        return counts

    def _add(self, fresh: Sequence[Counts], rows: int) -> None:
        for counts, more in zip(self._counts, fresh, strict=True):
            counts += more
        self._rows += rows
