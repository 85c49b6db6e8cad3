"""What a device counts about its predictions: latency, errors, per model version. It stays here; only aggregates leave.

The latency histogram has fixed buckets, four per doubling from 1 us to 17 s, so histograms of devices and versions can
be added. A percentile is read from it with an error of at most one bucket (19 %).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STEPS_PER_DOUBLING = 4
EDGES_SECONDS = tuple(1e-6 * 2 ** (step / STEPS_PER_DOUBLING) for step in range(24 * STEPS_PER_DOUBLING + 1))
"""Upper edges of the buckets; one more bucket takes everything slower."""


@dataclass(frozen=True, slots=True)
class Calls:
    """How often something was done, and the time it took together.

    Args:
        count: how often.
        seconds: in total.
    """

    count: int = 0
    seconds: float = 0.0

    def and_one(self, seconds: float) -> Calls:
        """Counted once more.

        Args:
            seconds: that it took this time.
        """
        return Calls(self.count + 1, self.seconds + seconds)


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """Counts of one model version.

    Args:
        version: of the manifest.
        predictions: rows answered.
        seconds: time spent on them, summed.
        counts: rows per latency bucket, len(EDGES_SECONDS) + 1 values.
        errors: refused or failed calls by the name of the error class.
        executions: calls of the model, with one row or many.
        calls: requests over HTTP and their parts: `success`, `fail`, `compute_input`, `compute_infer`,
            `compute_output`.
        unknown: texts that are no category and counted as missing, by column.
        last: of the clock's seconds, at the last answer; None: there was none.
    """

    version: int
    predictions: int
    seconds: float
    counts: tuple[int, ...]
    errors: dict[str, int]
    executions: int = 0
    calls: dict[str, Calls] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    last: float | None = None

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
    executions: int = 0
    calls: dict[str, Calls] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    last: float | None = None

    def figures(self, version: int) -> VersionFigures:
        return VersionFigures(
            version, self.predictions, self.seconds, tuple(self.buckets), dict(self.errors),
            self.executions, dict(self.calls), dict(self.unknown), self.last,
        )  # fmt: skip


class Telemetry:
    """Counts of one device; many threads may add."""

    def __init__(self) -> None:
        self._versions: dict[int, _Counts] = {}
        self._statuses: dict[int, int] = {}
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
            counts.executions += 1
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

    def called(self, version: int, parts: Mapping[str, float], at: float, unknown: Mapping[str, int]) -> None:
        """Count a request over HTTP.

        Args:
            version: of the model.
            parts: seconds of the request (`success` or `fail`) and of its parts, see `VersionFigures.calls`.
            at: of the clock's seconds, now.
            unknown: texts of it that are no category, by column.
        """
        with self._lock:
            counts = self._of(version)
            for kind, seconds in parts.items():
                counts.calls[kind] = counts.calls.get(kind, _NONE).and_one(seconds)
            for column, count in unknown.items():
                counts.unknown[column] = counts.unknown.get(column, 0) + count
            if "success" in parts:
                counts.last = at

    def replied(self, status: int) -> None:
        """Count a reply over HTTP, to whatever request.

        Args:
            status: of HTTP.
        """
        with self._lock:
            self._statuses[status] = self._statuses.get(status, 0) + 1

    def statuses(self) -> dict[int, int]:
        """Replies over HTTP by status."""
        with self._lock:
            return dict(sorted(self._statuses.items()))

    def figures(self) -> tuple[VersionFigures, ...]:
        """A copy of all counts, oldest version first."""
        with self._lock:
            return tuple(counts.figures(version) for version, counts in sorted(self._versions.items()))

    def of(self, version: int) -> VersionFigures:
        """A copy of the counts of one version; zeros for one that answered nothing.

        Args:
            version: of the manifest.
        """
        with self._lock:
            return self._of(version).figures(version)

    def _of(self, version: int) -> _Counts:
        counts = self._versions.get(version)
        if counts is None:
            counts = self._versions[version] = _Counts()
        return counts


_NONE = Calls()
