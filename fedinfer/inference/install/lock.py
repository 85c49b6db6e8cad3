"""Who may write to the slots of a device: one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedinfer.errors import StoreError

LOCK = "lock"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the writer's lock of a folder of slots. The system releases it when the process dies.

    Args:
        folder: of the slots; it is there.

    Raises:
        StoreError: when another process holds it, or the folder cannot be written.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        hint = "check free space and permissions"
        raise StoreError(f"{folder / LOCK}: {error.strerror or error}", hint=hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StoreError(f"{folder}: another process is installing a model") from error
    finally:
        os.close(descriptor)
