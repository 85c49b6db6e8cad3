"""What a device counts about its predictions: latency, errors, per model version. It stays here; only aggregates leave.

The latency histogram has fixed buckets, four per doubling from 1 us to 17 s, so histograms of devices and versions can
be added. A percentile is read from it with an error of at most one bucket (19 %).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

STEPS_PER_DOUBLING = 4
EDGES_SECONDS = tuple(1e-6 * 2 ** (step / STEPS_PER_DOUBLING) for step in range(24 * STEPS_PER_DOUBLING + 1))
"""Upper edges of the buckets; one more bucket takes everything slower."""


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """Counts of one model version.

    Args:
        version: of the manifest.
        predictions: rows answered.
        seconds: time spent on them, summed.
        counts: rows per latency bucket, len(EDGES_SECONDS) + 1 values.
        errors: refused or failed calls by the name of the error class.
    """

    version: int
    predictions: int
    seconds: float
    counts: tuple[int, ...]
    errors: dict[str, int]

    def percentile_us(self, share: float) -> float:
        """Upper bound on a percentile of the latency per row, microseconds; 0 without predictions.

        Args:
            share: of the predictions that are at most this slow, in [0, 1].
        """
        return 1e6 * percentile(self.counts, share)


def percentile(counts: Sequence[int], share: float) -> float:
    """Upper edge, in seconds, of the bucket that holds a share of the counts: an upper bound on that percentile.

    Args:
        counts: rows per latency bucket, len(EDGES_SECONDS) + 1 values.
        share: in [0, 1].

    Returns:
        Infinity in the last bucket; 0 without counts.
    """
    wanted, seen = share * sum(counts), 0
    if wanted <= 0:
        return 0.0
    for place, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return EDGES_SECONDS[place] if place < len(EDGES_SECONDS) else float("inf")
    return float("inf")


@dataclass(slots=True)
class _Counts:
    predictions: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(EDGES_SECONDS) + 1))
    errors: dict[str, int] = field(default_factory=dict)


class Telemetry:
    """Counts of one device; many threads may add."""

    def __init__(self) -> None:
        self._versions: dict[int, _Counts] = {}
        self._lock = threading.Lock()

    def answered(self, version: int, seconds: float, rows: int = 1) -> None:
        """Count predictions that were answered.

        Args:
            version: of the model.
            seconds: they took together.
            rows: how many.
        """
        place = bisect_left(EDGES_SECONDS, seconds / rows) if rows else 0  # every row of a batch at its mean time
        with self._lock:
            counts = self._of(version)
            counts.predictions += rows
            counts.seconds += seconds
            counts.buckets[place] += rows

    def failed(self, version: int, error: Exception) -> None:
        """Count a call that raised, by the name of the error class.

        Args:
            version: of the model.
            error: that it raised.
        """
        name = type(error).__name__
        with self._lock:
            errors = self._of(version).errors
            errors[name] = errors.get(name, 0) + 1

    def figures(self) -> tuple[VersionFigures, ...]:
        """A copy of all counts, oldest version first."""
        with self._lock:
            return tuple(
                VersionFigures(version, c.predictions, c.seconds, tuple(c.buckets), dict(c.errors))
                for version, c in sorted(self._versions.items())
            )

    def _of(self, version: int) -> _Counts:
        counts = self._versions.get(version)
        if counts is None:
            counts = self._versions[version] = _Counts()
        return counts
