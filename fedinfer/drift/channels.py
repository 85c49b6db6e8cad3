"""Which histograms a report holds, and in which order: the one thing device and server must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.errors import BadMessage, ConfigError

Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]

MAX_BINS = 1024
CONFIDENCE_BINS = 6
"""Bins of the largest probability in every fleet's report; few bins leave more signal in each."""
DEVICE_CLIPPING_NORM = 0.8
"""Unit `device`: L2 norm of a whole report. Spread histograms are shorter than that; peaked ones are cut, which costs
less than the noise that sqrt(2) would need."""


class Bins(StrEnum):
    """Whether neighbouring bins resemble each other; it decides which test is used."""

    ORDERED = "ordered"
    CATEGORIES = "categories"


class Source(StrEnum):
    """What a channel looks at; the policy acts on outputs, flags and errors, and only warns on inputs."""

    OUTPUT = "output"
    INPUT = "input"
    FLAG = "flag"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Channel:
    """One histogram of a report.

    Args:
        name: unique within a report.
        bins: number of bins, 2 to 1024. Flags and errors are two bins: no, yes.
        kind: ordered bins or categories.
        source: what it looks at.
    """

    name: str
    bins: int
    kind: Bins
    source: Source

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= MAX_BINS:
            raise ConfigError(f"drift channel {self.name}: {self.bins} bins, allowed are 2 to {MAX_BINS}")


def output_channels(classes: int, confidence_bins: int) -> tuple[Channel, ...]:
    """Predicted class and confidence: the two channels that need no labels and no public input ranges.

    Model outputs detect best for their price (Rabanser, Günnemann, Lipton 2019, "Failing Loudly", BBSD).

    Args:
        classes: number of classes, >= 2.
        confidence_bins: bins of the largest probability, >= 2.
    """
    return (
        Channel("predicted_class", classes, Bins.CATEGORIES, Source.OUTPUT),
        Channel("confidence", confidence_bins, Bins.ORDERED, Source.OUTPUT),
    )


def report_channels(classes: int) -> tuple[Channel, ...]:
    """The channels of every fleet's report; device, planning and monitor take them from here."""
    return output_channels(classes, CONFIDENCE_BINS)


def width(channels: Sequence[Channel]) -> int:
    """Length of a report."""
    return sum(channel.bins for channel in channels)


def split(report: Floats, channels: Sequence[Channel]) -> dict[str, Floats]:
    """Cut a report (or a sum of reports), shape (width,), into its histograms by channel name.

    Raises:
        BadMessage: when the length is wrong or a value is not finite.
    """
    if report.shape != (width(channels),):
        raise BadMessage(f"drift report has shape {report.shape}, expected ({width(channels)},)")
    if not np.isfinite(report).all():
        raise BadMessage("drift report holds a value that is not finite")
    ends = np.cumsum([channel.bins for channel in channels])
    pieces = np.split(report.astype(np.float64), ends[:-1])
    return {channel.name: piece for channel, piece in zip(channels, pieces, strict=True)}
