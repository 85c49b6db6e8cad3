"""Two slots for models on disk: one works, the other takes the next version; one small file says which is which.

Layout of the folder:

* `a/`, `b/`       files of one version each, for instance `model.onnx` and `manifest.json`
* `pointer.json`   which slot is active, which one was active before, digests of their files, versions withdrawn

Rules:
* Only `os.replace` of `pointer.json` changes what is active, after everything it speaks of is flushed to disk. A
  process killed at any point, or a power cut, leaves the old state or the new one, never a mixture.
* The active slot is never written to. Staging a version gives up the one before the active one.
* Files are checked against the digests of the pointer whenever they are read. When the active slot turns out damaged,
  `load` falls back to the previous one and says so in the result; `settle` makes that the active one.
* A version that was rolled back or withdrawn stays refused: a fixed model comes as a new version.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedinfer.errors import ArtifactRejected, Rollback, StoreError
from fedinfer.inference.install.lock import writing
from fedinfer.types import Json

Flush = Callable[[int], None]
"""Makes a file descriptor durable: `os.fsync` on a device; a simulation passes a function that does nothing."""

SLOTS = ("a", "b")
POINTER = "pointer.json"
MAX_POINTER_BYTES = 64 * 2**10
MAX_WITHDRAWN = 256
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One installed version.

    Args:
        slot: "a" or "b".
        version: of the manifest.
        variant: name of the model file's variant.
        sha256: digest of each file, by name.
    """

    slot: str
    version: int
    variant: str
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pointer:
    """What `pointer.json` says.

    Args:
        active: the version that serves; None before the first install.
        previous: the version to go back to; None when there is none.
        withdrawn: versions that were rolled back here or withdrawn by the repository, oldest first.
    """

    active: SlotInfo | None = None
    previous: SlotInfo | None = None
    withdrawn: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Files of a slot whose digests fit.

    Args:
        info: of the slot.
        files: content by plain file name, of those that were asked for.
        damaged: why the active slot could not be used; empty = it was.
    """

    info: SlotInfo
    files: Mapping[str, bytes]
    damaged: str = ""


class Slots:
    """The two slots of one device. It keeps nothing in memory; writers hold `exclusive`.

    Args:
        folder: made when it is not there.
        flush: see `Flush`.

    Raises:
        StoreError: when the folder cannot be made, or its pointer cannot be read.
    """

    def __init__(self, folder: Path, flush: Flush = os.fsync) -> None:
        self.folder = Path(folder)
        self._flush = flush
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _store_error(self.folder, error) from error
        self.pointer()

    def pointer(self) -> Pointer:
        """What is active, previous and withdrawn, read from the disk: another process may have changed it.

        Raises:
            StoreError: when the file cannot be read.
        """
        try:
            data = (self.folder / POINTER).read_bytes()
        except FileNotFoundError:
            return Pointer()
        except OSError as error:
            raise _store_error(self.folder / POINTER, error) from error
        return read_pointer(data)

    def active(self) -> SlotInfo | None:
        """The version that serves; None before the first install.

        Raises:
            StoreError: when the pointer cannot be read.
        """
        return self.pointer().active

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the writer's lock of the folder. The system releases it when the process dies.

        Raises:
            StoreError: when another process holds it.
        """
        with writing(self.folder):
            yield

    def load(self, kept: Collection[str] | None = None) -> Loaded | None:
        """Files of the active slot, checked; of the previous slot when the active one is damaged; None when empty.

        Args:
            kept: names of the files whose content is given; the others are checked as they are read, and not held.
                None: all.

        Raises:
            ArtifactRejected: when no slot holds what the pointer promises.
        """
        pointer = self.pointer()
        active, previous = pointer.active, pointer.previous
        if active is None:
            return None
        try:
            return Loaded(active, self._read_slot(active, kept))
        except ArtifactRejected as error:
            if previous is None:
                raise
            return Loaded(previous, self._read_slot(previous, kept), damaged=str(error))

    def stage(self, version: int, variant: str, files: Mapping[str, bytes]) -> SlotInfo:
        """Write a version into the idle slot and flush it: the previous version is given up, the active one serves on.

        Args:
            version: of the manifest.
            variant: name of the model file's variant.
            files: content by plain file name.

        Raises:
            Rollback: when the version was withdrawn here.
            StoreError: when the disk is full or refuses; the idle slot is emptied then.
        """
        self.refuse_withdrawn(version)
        pointer = self.pointer()
        slot = "b" if pointer.active is not None and pointer.active.slot == "a" else "a"
        folder = self.folder / slot
        if pointer.previous is not None:  # its files are about to go
            self._point(replace(pointer, previous=None))
        try:
            self._empty(folder)
            for name, data in files.items():
                self._write(folder / name, data)
            self._flush_folder(folder)
            self._flush_folder(self.folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _store_error(folder, error) from error
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        return SlotInfo(slot, version, variant, digests)

    def refuse_withdrawn(self, version: int) -> None:
        """Refuse a version that was withdrawn or rolled back here.

        Args:
            version: about to be installed.

        Raises:
            Rollback: when it was.
            StoreError: when the pointer cannot be read.
        """
        if version in self.pointer().withdrawn:
            raise Rollback(
                f"version {version} was rolled back or withdrawn on this device", hint="publish a new version"
            )

    def settle(self, loaded: Loaded) -> None:
        """After `load` fell back: make what it found the active version, so that the damaged slot is the idle one.

        Args:
            loaded: result of `load`; nothing changes when it is the active version.

        Raises:
            StoreError: when the disk refuses.
        """
        pointer = self.pointer()
        if pointer.active != loaded.info:
            self._point(replace(pointer, active=loaded.info, previous=None))

    def read(self, info: SlotInfo) -> Mapping[str, bytes]:
        """Files of a staged or installed version as they are on disk.

        Args:
            info: of the version, with the digests that the files must have.

        Raises:
            ArtifactRejected: when they cannot be read or differ from their digests.
        """
        return self._read_slot(info)

    def swap(self, staged: SlotInfo) -> None:
        """Make a staged version the active one; the active one becomes the previous one.

        Args:
            staged: result of `stage`.

        Raises:
            StoreError: when the disk refuses; either version is active then, and both work.
        """
        pointer = self.pointer()
        self._point(replace(pointer, active=staged, previous=pointer.active))

    def discard(self, staged: SlotInfo) -> None:
        """Remove a staged version that failed its checks.

        Args:
            staged: result of `stage`.
        """
        shutil.rmtree(self.folder / staged.slot, ignore_errors=True)

    def rollback(self) -> SlotInfo:
        """Go back to the previous version and refuse the active one from now on.

        Raises:
            ArtifactRejected: when there is no previous version or it is damaged; nothing changes then.
            StoreError: when the disk refuses; either version is active then.
        """
        pointer = self.pointer()
        active, previous = pointer.active, pointer.previous
        if active is None or previous is None:
            raise ArtifactRejected("there is no previous version to go back to")
        self._read_slot(previous)  # before the pointer changes: a damaged version must not become the active one
        withdrawn = (*pointer.withdrawn, active.version)[-MAX_WITHDRAWN:]
        self._point(Pointer(previous, None, withdrawn))
        return previous

    def withdraw(self, version: int) -> SlotInfo | None:
        """Refuse a version from now on; when it serves, the one before takes over, or none where there is none.

        Args:
            version: installed here or not; only the last MAX_WITHDRAWN are remembered.

        Returns:
            What serves now; None when nothing does.

        Raises:
            StoreError: when the disk refuses; nothing changes then.
        """
        pointer = self.pointer()
        left = [info for info in (pointer.active, pointer.previous) if info is not None and info.version != version]
        active, previous = (*left, None, None)[:2]
        others = tuple(known for known in pointer.withdrawn if known != version)
        self._point(Pointer(active, previous, (*others, version)[-MAX_WITHDRAWN:]))
        return active

    def _empty(self, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()

    def _write(self, path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            self._flush(file.fileno())

    def _flush_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self._flush(descriptor)
        finally:
            os.close(descriptor)

    def _point(self, pointer: Pointer) -> None:
        temporary = self.folder / (POINTER + ".new")
        try:
            self._write(temporary, json.dumps(_to_json(pointer)).encode())
            os.replace(temporary, self.folder / POINTER)  # the one step that changes what serves
            self._flush_folder(self.folder)
        except OSError as error:
            raise _store_error(self.folder / POINTER, error) from error

    def _read_slot(self, info: SlotInfo, kept: Collection[str] | None = None) -> Mapping[str, bytes]:
        files = {}
        for name, expected in info.sha256.items():
            path = self.folder / info.slot / name
            try:
                if kept is None or name in kept:
                    files[name] = path.read_bytes()
                    found, size = hashlib.sha256(files[name]).hexdigest(), len(files[name])
                else:
                    with path.open("rb") as file:
                        found, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            except OSError as error:
                raise ArtifactRejected(f"version {info.version}: {path} cannot be read: {error.strerror}") from error
            if found != expected:
                raise ArtifactRejected(
                    f"version {info.version}: {path} of {size} bytes has digest {found[:16]}, expected {expected[:16]}",
                    hint="the disk is damaged: install again; a rollback would refuse this version here for good",
                )
        return files


def read_pointer(data: bytes) -> Pointer:
    """Decode `pointer.json`.

    Args:
        data: content of the file; untrusted, because anyone with the disk may have written it.

    Raises:
        StoreError: for anything `Slots` does not write (a ValueError inside becomes one).
    """
    if len(data) > MAX_POINTER_BYTES:
        raise StoreError(f"{POINTER} has {len(data)} bytes, at most {MAX_POINTER_BYTES}")
    try:
        document = json.loads(data.decode())
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']!r}")
        withdrawn = tuple(_version(version) for version in document["withdrawn"])
        return Pointer(_info(document["active"]), _info(document["previous"]), withdrawn)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{POINTER} cannot be read: {error!r}"[:300], hint="restore it or empty the folder") from error


def _info(data: Any) -> SlotInfo | None:
    if data is None:
        return None
    if data["slot"] not in SLOTS:
        raise ValueError(f"slot {data['slot']!r}")
    digests = {_plain_name(name): str(digest) for name, digest in data["sha256"].items()}
    return SlotInfo(data["slot"], _version(data["version"]), str(data["variant"]), digests)


def _plain_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"file name {name!r}")
    return name


def _version(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"version {value!r}")
    return value


def _to_json(pointer: Pointer) -> Json:
    def info(item: SlotInfo | None) -> Json | None:
        if item is None:
            return None
        return {"slot": item.slot, "version": item.version, "variant": item.variant, "sha256": dict(item.sha256)}

    return {
        "format": _FORMAT,
        "active": info(pointer.active),
        "previous": info(pointer.previous),
        "withdrawn": list(pointer.withdrawn),
    }


def _store_error(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: {error.strerror or error}", hint="check free space and permissions")
