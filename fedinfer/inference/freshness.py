"""How long ago the device last reached its repository. A device that is cut off keeps serving, and says so."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fedinfer.errors import StoreError

_REFRESHED = "refreshed"


def note_refresh(metadata: Path, now: datetime) -> None:
    """Write down that the metadata was refreshed at `now`.

    Raises:
        StoreError: when the folder cannot be written.
    """
    temporary = metadata / "tmp-refreshed"
    try:
        temporary.write_text(now.isoformat())
        temporary.replace(metadata / _REFRESHED)
    except OSError as error:
        raise StoreError(f"{metadata}: {error.strerror}", hint="check free space and permissions") from error


def seconds_since_refresh(metadata: Path, now: datetime) -> float | None:
    """Age of the last successful refresh in seconds; None when there was none or its note is unreadable."""
    try:
        return (now - datetime.fromisoformat((metadata / _REFRESHED).read_text())).total_seconds()
    except (OSError, ValueError, TypeError):
        return None


def staleness_warning(metadata: Path, now: datetime, limit_seconds: float) -> str:
    """A sentence when the repository was not reached for longer than the limit; empty otherwise."""
    age = seconds_since_refresh(metadata, now)
    if age is None:
        return "the model repository has never been reached"
    if age <= limit_seconds:
        return ""
    return f"the model repository was last reached {age:.0f} s ago, limit {limit_seconds:.0f} s; still serving"
