"""Files of a repository on disk: bounded reads, atomic writes, names that cannot leave the folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from fedinfer.errors import ArtifactRejected, StoreError
from fedinfer.manifest import MAX_ARTIFACT_BYTES


def inside(folder: Path, name: str) -> Path:
    """The path of a file below a folder.

    Args:
        folder: of a repository or build.
        name: relative, parts joined with "/"; untrusted.

    Raises:
        ArtifactRejected: for an absolute name, "..", a backslash, a NUL or an empty name.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
        raise ArtifactRejected(f"{name[:120]!r} is no file name of a repository")
    return folder.joinpath(*parts)


def read_file(folder: Path, name: str) -> bytes | None:
    """The bytes of a file; None when it does not exist.

    Args:
        folder: of a repository or build.
        name: relative, parts joined with "/"; untrusted.

    Raises:
        ArtifactRejected: larger than MAX_ARTIFACT_BYTES, or a name that leaves the folder.
        StoreError: when the disk refuses.
    """
    path = inside(folder, name)
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_ARTIFACT_BYTES:
            raise ArtifactRejected(f"{name} has {path.stat().st_size} bytes, at most {MAX_ARTIFACT_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def write_file(folder: Path, name: str, data: bytes) -> None:
    """Write a file so that it is either complete or absent, also after a power cut.

    Args:
        folder: of a repository or build; made when it does not exist.
        name: relative, parts joined with "/".
        data: whole content; an older file of that name is replaced.

    Raises:
        ArtifactRejected: for a name that leaves the folder.
        StoreError: when the disk refuses, for instance because it is full.
    """
    path = inside(folder, name)
    part = path.with_name(path.name + ".part")  # in the same folder, so that `replace` is atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)  # the new name is durable only when the folder is
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreError(f"{path}: {error.strerror}", hint="check free space and permissions") from error


def remove_file(folder: Path, name: str) -> None:
    """Remove a file if it is there.

    Args:
        folder: of a repository or build.
        name: relative, parts joined with "/".

    Raises:
        ArtifactRejected: for a name that leaves the folder.
        StoreError: when the disk refuses.
    """
    try:
        inside(folder, name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{name}: {error.strerror}") from error


def list_files(folder: Path) -> tuple[str, ...]:
    """Names of all files below a folder, relative to it, sorted.

    Args:
        folder: may be absent; it then holds nothing.
    """
    return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
