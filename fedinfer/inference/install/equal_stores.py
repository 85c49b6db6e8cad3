"""Work on the stores of many simulated devices: done once for all that are in the same state, and copied to the others.

What verifying and installing gives follows from the store, from what came and from the time. So a device whose store
holds, byte for byte, what another one held before is given what the other one held afterwards, and the same answer. A
store that differs in anything, a damaged file or an older version of the metadata, is worked on for itself.

* The state of a store is every path below `slots` and `metadata` with the digest of what is there; all is read anew for
  each device.
* Files that changed become hard links to those of the device that was worked on. No program here writes into a file of
  a store, each one is replaced; whoever damages a simulated device for a test must do the same.
* A real device has a process and a disk of its own and never comes here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from fedinfer.errors import StoreError
from fedinfer.inference.install.lock import LOCK, writing

Result = TypeVar("Result")
Entry: TypeAlias = tuple[str, str, bytes]
"""Path in the store, "folder", "link" or "file", and the target of the link or the digest of the file."""
State: TypeAlias = tuple[Entry, ...]

_PARTS = ("slots", "metadata")
_LOCK = f"slots/{LOCK}"


@dataclass(frozen=True, slots=True)
class _Change:
    """How a store became another one.

    Args:
        gone: paths, those in a folder before the folder.
        made: entries, a folder before what is in it.
        source: the store that was worked on.
    """

    gone: tuple[str, ...]
    made: tuple[Entry, ...]
    source: str


class EqualStores(Generic[Result]):
    """What was done to stores so far, for as long as one message is answered."""

    def __init__(self) -> None:
        self._done: dict[State, tuple[_Change, Result]] = {}

    def carry_out(self, store: Path, work: Callable[[], Result]) -> Result:
        """Do some work on a store, or what it did to an equal one.

        Args:
            store: folder of a device.
            work: on this store; it depends on nothing else that differs between the devices.

        Raises:
            Exception: whatever `work` raises; nothing is remembered then.
        """
        folder = str(store)
        try:
            os.makedirs(os.path.join(folder, "slots"), exist_ok=True)
            with writing(store / "slots"):
                before = _state(folder)
                if before in self._done:
                    change, result = self._done[before]
                    _apply(change, folder)
                    return result
        except (OSError, StoreError):  # the work itself finds out what is wrong and says so
            return work()
        result = work()
        self._done[before] = (_change(before, _state(folder), folder), result)
        return result


def _state(store: str) -> State:
    return tuple(sorted(entry for part in _PARTS for entry in _entries(store, part)))


def _entries(store: str, path: str) -> Iterator[Entry]:
    try:
        found = list(os.scandir(os.path.join(store, path)))
    except FileNotFoundError:
        return
    yield path, "folder", b""
    for item in found:
        inner = f"{path}/{item.name}"
        if item.is_symlink():
            yield inner, "link", os.fsencode(os.readlink(item.path))
        elif item.is_dir():
            yield from _entries(store, inner)
        elif inner != _LOCK:
            with open(item.path, "rb", buffering=0) as file:
                yield inner, "file", hashlib.sha256(file.read()).digest()


def _change(before: State, after: State, source: str) -> _Change:
    old, new = set(before), set(after)
    gone = sorted((path for path, _, _ in old - new), reverse=True)
    return _Change(tuple(gone), tuple(sorted(new - old)), source)


def _apply(change: _Change, store: str) -> None:
    for path in change.gone:
        place = os.path.join(store, path)
        if os.path.isdir(place) and not os.path.islink(place):
            os.rmdir(place)
        else:
            os.unlink(place)
    for path, kind, target in change.made:
        place = os.path.join(store, path)
        if kind == "folder":
            os.mkdir(place)
        elif kind == "link":
            os.symlink(os.fsdecode(target), place)
        else:
            _link(os.path.join(change.source, path), place)


def _link(source: str, place: str) -> None:
    """A hard link, or a copy where the file system allows no (or no more) links."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
