"""One long-lived process per folder, which anybody with rights on the folder can find and end; its log lines.

The file of the lock holds the process id. The system gives the lock back when the process ends, however it ends, so a
number in the file says nothing by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from fedinfer.errors import StoreError, TransportError
from fedinfer.private_files import only_owner

if TYPE_CHECKING:
    from fedinfer.ports import Clock

END_SECONDS = 60.0
"""A process that was asked to end ends its children first, which has limits of its own."""
LOOK_SECONDS = 0.1
TRIES = 3
NO_RUN = "-"
run_of_log: ContextVar[str] = ContextVar("run_of_log", default=NO_RUN)
"""Run that the log lines of this thread belong to."""
_FORMAT = "%(asctime)s %(levelname)s run=%(run)s %(name)s: %(message)s"
_log = logging.getLogger(__name__)


class Stopped(BaseException):
    """SIGTERM or SIGINT came; not an Exception, so that nothing on the way takes it for an error of its own."""


@contextlib.contextmanager
def single(path: Path, what: str) -> Iterator[None]:
    """Be the one process that works on a folder.

    Args:
        path: of the lock file.
        what: is running, for the error, for instance "an agent for hospital0".

    Raises:
        StoreError: another process is, or the file cannot be written.
    """
    try:
        file = open(path, "a+", opener=only_owner)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    with file:
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            raise StoreError(
                f"{path}: {what} is running already, as process {file.read().strip() or '?'}", hint="stop it first"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _lock(file: IO[str]) -> None:
    """Take the lock, also when somebody just now asks who has it."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOOK_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(path: Path) -> int:
    """Process that works on a folder.

    Args:
        path: of the lock file.

    Returns:
        Its id; 0 when there is none.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.readline().strip()
                return int(text) if text.isdigit() else 0
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return 0


def end(path: Path, clock: Clock) -> int:
    """End the process that works on a folder, and wait until it is gone.

    Args:
        path: of the lock file.
        clock: measures the wait, END_SECONDS at most.

    Returns:
        Its id; 0 when there was none.

    Raises:
        StoreError: it belongs to somebody else.
        TransportError: it does not end.
    """
    process = holder(path)
    if not process:
        return 0
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return process
    except PermissionError as error:
        raise StoreError(f"process {process} belongs to another user", hint="stop it as that user") from error
    last = clock.seconds() + END_SECONDS
    while _is_alive(process):
        if clock.seconds() > last:
            raise TransportError(f"process {process} has not ended {END_SECONDS:.0f} s after SIGTERM")
        time.sleep(LOOK_SECONDS)
    return process


def _is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not (Linux)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """Leave the block at SIGTERM or SIGINT, wherever it is; further ones do not disturb the way out."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def leave(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    except Stopped:
        _log.info("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to_stderr() -> None:
    """Write log lines to standard error: time, level, run, place, text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_run)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per question otherwise


def _with_run(record: logging.LogRecord) -> bool:
    record.run = run_of_log.get()
    return True
