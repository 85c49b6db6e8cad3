"""What is signed in a repository, where several processes sign: a coordinator, and an operator's command beside it.

Rules:
* the timestamp is written last, so its bytes say which state a process knows;
* what another process signed is read before anything is decided;
* whoever read a state that is signed over signs nothing: a withdrawal would be forgotten.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fedinfer.artifact.release.files import read_file
from fedinfer.artifact.release.metadata import State, load_state
from fedinfer.errors import StoreError

TIMESTAMP = "timestamp.json"


class SharedState:
    """The state that is signed in a metadata folder.

    Args:
        folder: with a timestamp.
        trusted_root: gives the root metadata that the chain starts from.
        known: what this process has just signed there; None: it is read.

    Raises:
        BadSignature: the metadata on disk was tampered with.
    """

    def __init__(self, folder: Path, trusted_root: Callable[[], bytes], known: State | None = None) -> None:
        self._folder, self._trusted_root = folder, trusted_root
        self._stamp = self._read(TIMESTAMP)
        self._known = known or self._loaded()

    def now(self) -> State:
        """What is signed now.

        Raises:
            BadSignature: the metadata on disk was tampered with.
        """
        stamp = self._read(TIMESTAMP)
        if stamp not in (None, self._stamp):
            self._known, self._stamp = self._loaded(), stamp
        return self._known

    def replace(self, state: State, write: Callable[[], None]) -> None:
        """Sign another state, made from what `now` gave.

        Args:
            state: that is known afterwards.
            write: signs and writes it, the timestamp last.

        Raises:
            StoreError: another process signed since then, and nothing is written; or the disk refuses.
        """
        with _alone(self._folder):
            if self._read(TIMESTAMP) != self._stamp:
                raise StoreError(f"{self._folder}: another process signed meanwhile", hint="run the command again")
            write()
            self._known, self._stamp = state, self._read(TIMESTAMP)

    def _loaded(self) -> State:
        return load_state(self._read, self._trusted_root())

    def _read(self, name: str) -> bytes | None:
        return read_file(self._folder, name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that sign; waits until they are done."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}", hint="check the folder and its permissions") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
