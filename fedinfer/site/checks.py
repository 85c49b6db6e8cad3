"""One check before anything starts: what was looked at, whether it will do, and what to do when not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedinfer.errors import FedInferError

SOON = timedelta(days=30)
"""What ends sooner is said, though it still works."""
LEAST_FREE_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Args:
        name: what was looked at.
        ok: whether it will do.
        found: what is there, or what is wrong.
        hint: what to do; empty when nothing is to be done.
    """

    name: str
    ok: bool
    found: str
    hint: str = ""


def checked(name: str, look: Callable[[], str], hint: str = "") -> Checked:
    """Look at something.

    Args:
        name: what is looked at.
        look: says what is there, or raises.
        hint: what to do when it raises, unless the error knows.

    Returns:
        With what it says, or with the error.
    """
    try:
        return Checked(name, True, look())
    except FedInferError as error:
        return Checked(name, False, str(error), error.hint or hint)
    except OSError as error:
        return Checked(name, False, f"{error.filename or ''} {error.strerror or error}".strip(), hint)
    except ValueError as error:  # of a file that is no key, no certificate, no JSON
        return Checked(name, False, str(error), hint)


def lasting(name: str, begin: datetime, end: datetime, now: datetime, hint: str) -> Checked:
    """Whether something counts now.

    Args:
        name: what.
        begin: aware.
        end: aware.
        now: aware.
        hint: how it is renewed.
    """
    if now < begin:
        return Checked(
            name, False, f"counts from {begin:%Y-%m-%d %H:%M} UTC only", "is the clock of this machine right?"
        )
    if now >= end:
        return Checked(name, False, f"ended {end:%Y-%m-%d %H:%M} UTC", hint)
    return Checked(name, True, f"until {end:%Y-%m-%d}", hint if end - now < SOON else "")


def disk(folder: Path) -> Checked:
    """Whether a folder has space.

    Args:
        folder: that is written to.
    """
    free = shutil.disk_usage(folder).free
    ok = free >= LEAST_FREE_BYTES
    return Checked("disk", ok, f"{free / 1e9:.1f} GB free in {folder}", "" if ok else "half a gigabyte is needed")


def packages(*names: str, extra: str) -> Checked:
    """Whether packages are there.

    Args:
        names: of distributions.
        extra: of fedinfer that brings them.
    """
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Checked("packages", False, f"not installed: {', '.join(missing)}", f"pip install 'fedinfer[{extra}]'")
    return Checked("packages", True, ", ".join(found))
