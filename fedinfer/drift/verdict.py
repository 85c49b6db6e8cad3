"""What the monitor says about a window: per channel a statistic beside its levels, and what moved."""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.drift.channels import Source
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class BinChange:
    """How far the share of rows in one bin has moved from the reference.

    Args:
        bin: its name.
        before: share in the reference, in the unit of reports; noise may make it negative.
        change: weighted mean of the differences since then.
        low, high: interval for the change that covers all bins of the channel together with probability 0.95; noise,
            sampling and the reference's own error are in it.
    """

    bin: str
    before: float
    change: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """True when the direction is known: the interval does not hold 0."""
        return self.low > 0.0 or self.high < 0.0

    @property
    def distance(self) -> float:
        """Change in units of half its interval; beyond 1 the direction is known."""
        return 2.0 * abs(self.change) / max(self.high - self.low, 1e-300)

    def to_json(self) -> Json:
        """For events and reports."""
        return {"bin": self.bin, "before": self.before, "change": self.change, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class ChannelResult:
    """Verdict on one channel.

    Args:
        channel, source: which.
        p_value: of this window tested alone against the reference.
        statistic: MEWMA statistic, chi-square distributed without drift.
        warning_threshold, threshold: levels for a warning and for an alarm.
        changes: of all bins, the most surprising first; () where nobody asks.
    """

    channel: str
    source: Source
    p_value: float
    statistic: float
    warning_threshold: float
    threshold: float
    changes: tuple[BinChange, ...] = ()

    @property
    def alarm(self) -> bool:
        """True above the alarm level."""
        return self.statistic > self.threshold

    @property
    def warning(self) -> bool:
        """True above the warning level."""
        return self.statistic > self.warning_threshold

    @property
    def moved(self) -> tuple[BinChange, ...]:
        """Bins whose direction is known, else the most surprising one alone."""
        sure = tuple(change for change in self.changes if change.sure)
        return sure or self.changes[:1]

    def to_json(self) -> Json:
        """For events and reports."""
        return {
            "channel": self.channel,
            "p_value": self.p_value,
            "statistic": self.statistic,
            "warning_threshold": self.warning_threshold,
            "threshold": self.threshold,
            "alarm": self.alarm,
        }


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Verdict on one window.

    Args:
        window: its number.
        channels: results of the channels that are being watched.
        learning: names of the channels that are still collecting their reference.
        unlabelled: names of the channels of labelled rows for which too few labels came.
    """

    window: int
    channels: tuple[ChannelResult, ...]
    learning: tuple[str, ...]
    unlabelled: tuple[str, ...] = ()

    @property
    def alarms(self) -> tuple[ChannelResult, ...]:
        """Channels above the alarm level, most surprising first."""
        over = (result for result in self.channels if result.alarm)
        return tuple(sorted(over, key=lambda result: result.threshold - result.statistic))

    @property
    def warning(self) -> bool:
        """True when any channel is above its warning level."""
        return any(result.warning for result in self.channels)

    def to_json(self) -> Json:
        """For events and reports."""
        return {
            "window": self.window,
            "learning": list(self.learning),
            "unlabelled": list(self.unlabelled),
            "channels": [result.to_json() for result in self.channels],
        }
