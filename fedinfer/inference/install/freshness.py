"""How long ago the device last reached its repository. A device that is cut off keeps serving, and reports it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fedinfer.errors import StoreError

_REFRESHED = "refreshed"
_CLOCK_STEP_SECONDS = 60.0
"""A clock that is set by the network may step back a little; that is nothing to speak of."""


def note_refresh(metadata: Path, now: datetime) -> None:
    """Write down that the metadata was refreshed.

    Args:
        metadata: folder of the device's trusted metadata.
        now: time of the refresh, timezone-aware.

    Raises:
        StoreError: when the folder cannot be written.
    """
    temporary = metadata / "tmp-refreshed"
    try:
        temporary.write_text(now.isoformat())
        temporary.replace(metadata / _REFRESHED)
    except OSError as error:
        raise StoreError(f"{metadata}: {error.strerror}", hint="check free space and permissions") from error


def latest_known(metadata: Path, now: datetime) -> datetime:
    """The clock's time, or that of the last refresh when the clock went back: it cannot be earlier than that.

    A device without a clock that survives a power cut wakes up in the past, where nothing has expired yet.

    Args:
        metadata: folder of the device's trusted metadata.
        now: the clock's time, timezone-aware.
    """
    refreshed = _last_refresh(metadata)
    return now if refreshed is None else max(now, refreshed)


def seconds_since_refresh(metadata: Path, now: datetime) -> float | None:
    """Age of the last successful refresh in seconds; None when there was none or its note is unreadable.

    Args:
        metadata: folder of the device's trusted metadata.
        now: the clock's time, timezone-aware; before the refresh when the clock went back, which gives a negative age.
    """
    refreshed = _last_refresh(metadata)
    return None if refreshed is None else (now - refreshed).total_seconds()


def staleness_warning(metadata: Path, now: datetime, limit_seconds: float) -> str:
    """A sentence when the repository was not reached for longer than the limit or the clock went back; empty otherwise.

    Args:
        metadata: folder of the device's trusted metadata.
        now: the clock's time, timezone-aware.
        limit_seconds: longest age without a warning; a repository that was never reached is always warned of.
    """
    age = seconds_since_refresh(metadata, now)
    if age is None:
        return "the model repository has never been reached"
    if age < -_CLOCK_STEP_SECONDS:
        return f"the clock is {-age:.0f} s before the last contact with the model repository; still serving"
    if age <= limit_seconds:
        return ""
    return f"the model repository was last reached {age:.0f} s ago, limit {limit_seconds:.0f} s; still serving"


def _last_refresh(metadata: Path) -> datetime | None:
    try:
        refreshed = datetime.fromisoformat((metadata / _REFRESHED).read_text())
    except (OSError, ValueError):
        return None
    return None if refreshed.tzinfo is None else refreshed
