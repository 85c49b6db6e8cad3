"""Which histograms a report holds, how each is counted, and how large a report is.

`REPORT` is the one thing that device and server must agree on: a new channel is one entry there. Everything else
(order, counting, width, norm, test) follows from it.

Rules:
* Bin edges are public and fixed before the window starts: only fixed-bin histograms can be added up under secure
  aggregation.
* Every row that has an answer adds exactly one count to every channel of answers, and at most one, whole or shared
  between bins, to any other channel; the sensitivity of unit `example` rests on it, and `tally` checks what can be seen
  of it.
* A prediction that is not a number, and a row on which the model fails, are counted in the lowest confidence bin, never
  dropped: a model that returns NaN or fails is drift. Such a failure is in no class, so the class histogram is as much
  shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.errors import BadMessage, ConfigError, DataError
from fedinfer.types import Unit

Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.float64]
"""Rows per bin; a row may be shared between bins."""

MAX_BINS = 1024
CLASSES, CONFIDENCE = "predicted_class", "confidence"
CONFIDENCE_BINS = 6
"""Bins of the largest probability in every fleet's report; few bins leave more signal in each."""
VALUE_BINS = 8
"""Bins of a predicted number on the public range of the label."""
SPREAD = 0.32
"""Squared L2 norm of a normalised histogram that fills about three bins equally (sum of squared shares, Simpson 1949).

A window of 20 rows is usually spread at least so far and is then not cut; a more peaked one is, which costs less than
the noise that the worst case 1.0 (all rows in one bin) would need. Measured in docs/how-to/drift.md."""


class Bins(StrEnum):
    """Whether neighbouring bins resemble each other; it decides which test is used."""

    ORDERED = "ordered"
    CATEGORIES = "categories"
    SHARES = "shares"
    """Rows that something is true of, per bin: most rows may be in none, so their total is tested too."""

    @property
    def exclusive(self) -> bool:
        """Whether a row belongs to one bin and the total says nothing."""
        match self:
            case Bins.ORDERED | Bins.CATEGORIES:
                return True
            case Bins.SHARES:
                return False
            case _:
                assert_never(self)


class Source(StrEnum):
    """What a channel looks at; the policy acts on outputs, flags and errors, and only warns on inputs."""

    OUTPUT = "output"
    INPUT = "input"
    FLAG = "flag"
    ERROR = "error"

    @property
    def answers(self) -> bool:
        """Whether every answer is counted, each in exactly one bin where bins are exclusive."""
        match self:
            case Source.OUTPUT:
                return True
            case Source.INPUT | Source.FLAG | Source.ERROR:
                return False
            case _:
                assert_never(self)

    @property
    def needs_no_answer(self) -> bool:
        """Whether a row on which the model failed is counted as any other."""
        match self:
            case Source.INPUT:
                return True
            case Source.OUTPUT | Source.FLAG | Source.ERROR:
                return False
            case _:
                assert_never(self)

    @property
    def labelled(self) -> bool:
        """Whether only rows with a label are counted: a report then says how they are shared out, not how many."""
        match self:
            case Source.ERROR:
                return True
            case Source.OUTPUT | Source.INPUT | Source.FLAG:
                return False
            case _:
                assert_never(self)

    @property
    def of_windows(self) -> bool:
        """Whether a whole window counts at once instead of its rows."""
        match self:
            case Source.FLAG:
                return True
            case Source.OUTPUT | Source.INPUT | Source.ERROR:
                return False
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model said about some rows.

    Args:
        labels: class numbers in [0, classes), shape (rows,); 0 for numbers.
        probabilities: shape (rows, classes); of a numeric label where the predicted value lies in its public range,
            from 0 to 1, shape (rows, 1).
        inputs: rows as the schema describes them, (rows, width) float32 with NaN where a cell is missing or unseen, of
            texts their token numbers; None where no channel looks at inputs.
        truth: right answers, (rows,), of rows whose label has arrived, -1 (or NaN for numbers) for the others; None
            where no channel looks at errors.
    """

    labels: npt.NDArray[np.integer[Any]]
    probabilities: npt.NDArray[np.floating[Any]]
    inputs: npt.NDArray[np.floating[Any]] | None = None
    truth: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Channel:
    """One histogram of a report: its bins, how rows are counted into them, and its part of the report's norm.

    Args:
        name: unique within a report.
        bins: number of bins, 2 to 1024; 1 to 1024 for shares.
        kind: ordered bins, categories or shares.
        source: what it looks at.
        count: counts per bin, shape (bins,), float64; of answers every row in exactly one bin.
        clip_share: what it adds to the squared L2 norm of a report of unit `device`, in (0, 1]; see `report_norm`.
        unanswered: bin for a row on which the model failed; None: such a row is in none of its bins.
        names: of the bins, for people; () numbers them.
        most: largest sum of the bins in a report of unit `device`, in (0, 1]; it bounds the covariance.
        warm_up: windows after a push that are not part of the reference.
    """

    name: str
    bins: int
    kind: Bins
    source: Source
    count: Callable[[Outputs], Counts]
    clip_share: float
    unanswered: int | None = None
    names: tuple[str, ...] = ()
    most: float = 1.0
    warm_up: int = 0

    def __post_init__(self) -> None:
        fewest = 2 if self.kind.exclusive else 1
        if not fewest <= self.bins <= MAX_BINS:
            raise ConfigError(f"drift channel {self.name}: {self.bins} bins, allowed are {fewest} to {MAX_BINS}")
        if len(self.names) not in (0, self.bins):
            raise ConfigError(f"drift channel {self.name}: {len(self.names)} names for {self.bins} bins")
        if not 0.0 < self.clip_share <= 1.0:
            raise ConfigError(f"drift channel {self.name}: clip share {self.clip_share} is not in (0, 1]")
        if self.unanswered is not None and not 0 <= self.unanswered < self.bins:
            raise ConfigError(f"drift channel {self.name}: rows without an answer in bin {self.unanswered}")
        if not 0.0 < self.most <= 1.0 or self.warm_up < 0:
            raise ConfigError(f"drift channel {self.name}: largest sum {self.most}, warm-up {self.warm_up} windows")

    def scale(self, unit: Unit) -> float:
        """By what a device multiplies its shares of labelled rows, so that even all rows in one bin keep the norm.

        A clip would shorten the devices with few errors most, and the fleet's share of errors would be wrong.

        Args:
            unit: of a report.

        Returns:
            In (0, 1]; 1 for channels that are clipped, and for counts.
        """
        match unit:
            case Unit.DEVICE | Unit.NONE:
                return math.sqrt(self.clip_share) if self.source.labelled else 1.0
            case Unit.EXAMPLE:
                return 1.0
            case _:
                assert_never(unit)

    def bin_name(self, place: int) -> str:
        """What a bin is called in reports.

        Args:
            place: in [0, bins).
        """
        return self.names[place] if self.names else f"bin {place + 1} of {self.bins}"


def predicted_class(classes: int) -> Channel:
    """Which class the model chose.

    Model outputs detect best for their price (Rabanser, Günnemann, Lipton 2019, "Failing Loudly", BBSD).

    Args:
        classes: number of classes, >= 2.

    Raises:
        ConfigError: fewer than 2 or more than 1024 classes.
    """
    count = partial(_count_classes, classes=classes)
    return Channel(CLASSES, classes, Bins.CATEGORIES, Source.OUTPUT, count, SPREAD)


def confidence(classes: int, bins: int = CONFIDENCE_BINS) -> Channel:
    """The largest probability, which needs no labels and no public input ranges.

    Args:
        classes: number of classes, >= 2.
        bins: bins of equal width, >= 2.

    Raises:
        ConfigError: fewer than 2 classes or bins, or more than 1024 bins.
    """
    count = partial(_count_confidence, edges=confidence_edges(classes, bins))
    return Channel(CONFIDENCE, bins, Bins.ORDERED, Source.OUTPUT, count, SPREAD, unanswered=0)


def value(bins: int = VALUE_BINS) -> Channel:
    """The predicted number, on even bins of the label's public range.

    A value that is no number, and a row on which the model fails, count in the lowest bin.

    Args:
        bins: bins of equal width, >= 2.

    Raises:
        ConfigError: fewer than 2 or more than 1024 bins.
    """
    count = partial(_count_values, bins=bins)
    return Channel("value", bins, Bins.ORDERED, Source.OUTPUT, count, SPREAD, unanswered=0)


REPORT: tuple[Callable[[int], Channel], ...] = (predicted_class, confidence)
"""The channels of every fleet's report, in order, each made for a number of classes."""


NUMBER_REPORT: tuple[Callable[[], Channel], ...] = (value,)
"""The channels of a fleet whose model answers a number."""


def report_channels(classes: int) -> tuple[Channel, ...]:
    """The channels of every fleet's report; device, planning and monitor take them from here.

    Args:
        classes: number of classes, >= 2; 0: the model answers a number.

    Raises:
        ConfigError: one class, or more than 1024.
    """
    if classes == 0:
        return tuple(channel() for channel in NUMBER_REPORT)
    return tuple(channel(classes) for channel in REPORT)


def width(channels: Sequence[Channel]) -> int:
    """Length of a report.

    Args:
        channels: of a report, in order.

    Returns:
        Numbers in a report: the sum of all bins.
    """
    return sum(channel.bins for channel in channels)


def tally(channel: Channel, outputs: Outputs) -> Counts:
    """Counts of some rows in one channel.

    Args:
        channel: of a report.
        outputs: what the model answered; may hold no rows.

    Returns:
        (bins,) float64.

    Raises:
        DataError: the channel counts a row twice or less than not at all, or does not put a row of an answer into
            exactly one of its bins, or the rows that it looks at are not there.
    """
    counts, rows = channel.count(outputs).astype(np.float64), len(outputs.labels)
    whole = channel.source.answers and channel.kind.exclusive
    total = counts.sum()
    if (
        counts.shape != (channel.bins,)
        or not counts.min() >= 0
        or total > rows * (1 + 1e-9)
        or (whole and total != rows)
    ):
        raise DataError(
            f"drift channel {channel.name} made counts of shape {counts.shape} with sum {total:g} of {rows} rows, "
            f"needed are {channel.bins} bins with every row in {'exactly' if whole else 'at most'} one"
        )
    return counts


def clip_norm(channels: Sequence[Channel]) -> float:
    """L2 norm to which a whole report of unit `device` is clipped.

    Histograms stand side by side, so squared norms add up: the report may be as long as one whose every channel is as
    peaked as its `clip_share` allows. Two channels of 0.32 give 0.8; sqrt(F), which never clips, would need 77 % more
    noise.

    Args:
        channels: of a report.

    Returns:
        In (0, sqrt(F)] for F channels.
    """
    return math.sqrt(math.fsum(channel.clip_share for channel in channels))


def confidence_edges(classes: int, bins: int) -> Floats:
    """Equal-width bin edges for the largest probability, which lies in [1/classes, 1].

    Args:
        classes: number of classes, >= 2.
        bins: number of bins, >= 2.

    Returns:
        Inner edges, shape (bins - 1,), ascending.

    Raises:
        ConfigError: fewer than 2 classes or bins.
    """
    if classes < 2 or bins < 2:
        raise ConfigError(f"confidence needs at least 2 classes and 2 bins, got {classes} and {bins}")
    return np.linspace(1.0 / classes, 1.0, bins + 1)[1:-1]


def split(report: Floats, channels: Sequence[Channel]) -> dict[str, Floats]:
    """Cut a report (or a sum of reports) into its histograms.

    Args:
        report: (width,), a device's or a released sum.
        channels: of a report, in order.

    Returns:
        (bins,) float64 by channel name.

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


def _count_classes(outputs: Outputs, classes: int) -> Counts:
    labels = outputs.labels
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(f"class numbers {labels.min()} to {labels.max()}, allowed are 0 to {classes - 1}")
    return np.bincount(labels, minlength=classes).astype(np.float64)


def _count_confidence(outputs: Outputs, edges: Floats) -> Counts:
    """A value equal to an inner edge belongs to the bin above it."""
    # fmax takes the number when the other is none.
    top = np.fmax(outputs.probabilities.max(axis=1), -np.inf)
    return np.bincount(np.searchsorted(edges, top, side="right"), minlength=edges.size + 1).astype(np.float64)


def _count_values(outputs: Outputs, bins: int) -> Counts:
    """A value equal to an inner edge belongs to the bin above it."""
    # fmax takes the number when the other is none.
    placed = np.fmin(np.fmax(outputs.probabilities[:, 0].astype(np.float64), 0.0), 1.0)
    places = np.minimum((placed * bins).astype(np.int64), bins - 1)
    return np.bincount(places, minlength=bins).astype(np.float64)
