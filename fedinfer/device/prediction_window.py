"""Values that go in and out of the prediction log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.types import FloatVector

MOST_WINDOW_ROWS = 10**9

Counts: TypeAlias = npt.NDArray[Any]
"""Of whole rows, or of parts of them."""
Layout: TypeAlias = Sequence[tuple[str, int]]
"""Name and bins of each channel, in order."""


def layout_text(layout: Layout) -> str:
    """A layout as databases keep it: equal layouts give equal texts.

    Args:
        layout: name and bins of each channel.
    """
    return json.dumps([[name, bins] for name, bins in layout])


@dataclass(frozen=True, slots=True)
class WindowRule:
    """When a window closes.

    Args:
        rows: in a window, >= 1.
        seconds: after its first row, > 0.

    Raises:
        ConfigError: one is not in its range.
    """

    rows: int = 200
    seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MOST_WINDOW_ROWS or not 0 < self.seconds <= 10**9:
            raise ConfigError(f"a window of {self.rows} rows or {self.seconds:g} s: both are 1 to 10^9")


@dataclass(frozen=True, slots=True)
class PredictionWindow:
    """Counts of predictions of one version.

    Args:
        number: from 1, never used again.
        version: of the model.
        rows: that were predicted.
        opened: seconds since 1970.
        closed: seconds since 1970; None: it is open.
        reported: it, or a newer one, was handed out for a report.
        labelled: rows whose labels came while it was open; most were predicted before it.
        counts: by channel, (bins,) float64.
    """

    number: int
    version: int
    rows: int
    opened: int
    closed: int | None
    reported: bool
    labelled: int
    counts: Mapping[str, Counts]

    def histograms(self, layout: Layout) -> tuple[Counts, ...] | None:
        """The counts of some channels in order; None when it does not have them all.

        Args:
            layout: name and bins of each.
        """
        nothing: Counts = np.empty(0)
        found = tuple(self.counts.get(name, nothing) for name, _ in layout)
        return found if [len(counts) for counts in found] == [bins for _, bins in layout] else None


@dataclass(frozen=True, slots=True)
class WaitingAnswers:
    """Answers to one request.

    Args:
        version: of the model.
        chosen: class number of each row, 0 for numbers, int64 (n,).
        raw: what the graph answered, float32 (n, outputs).
        number: given when they began to wait, and never again.
    """

    version: int
    chosen: npt.NDArray[np.int64]
    raw: FloatVector
    number: int = 0


@dataclass(frozen=True, slots=True)
class LateCounts:
    """What a window counts of labels that came after the answers.

    Args:
        layout: of all channels of the window.
        counts: of each channel; 0 in those that do not look at labels.
        rows: with a label, >= 1.
    """

    layout: Layout
    counts: tuple[Counts, ...]
    rows: int
