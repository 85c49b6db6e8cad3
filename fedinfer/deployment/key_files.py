"""The files of a device's keys and certificate: private, written whole or not at all, never left half renewed.

A new key waits beside the old one until a certificate for it is here. Whichever of the two is certified is the
device's key, so a process may end between any two writes.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedinfer.errors import Misbehaviour, StoreError
from fedinfer.secagg.enrolment import read_certificate
from fedinfer.secagg.keys import IdentityKey

IDENTITY, FOLLOWING, CERTIFICATE, AUTHORITY = "identity.key", "identity.next.key", "certificate", "authority.pub"


def take_certificate(folder: Path, authority: bytes, certificate: bytes) -> None:
    """Write a new certificate and put its key in place.

    Args:
        folder: the device's store.
        authority: public key of the authority, 32 or 65 bytes; pinned from now on.
        certificate: encoded; checked, for one of the store's keys.

    Raises:
        StoreError: a file cannot be written.
    """
    # The certificate last: from then on the store is whole, whichever of its keys is certified.
    replace_file(folder / AUTHORITY, authority)
    replace_file(folder / CERTIFICATE, certificate)
    finish_new_key(folder)


def finish_new_key(folder: Path) -> None:
    """Put the next key in place when the certificate is for it; a process may have ended in between.

    Args:
        folder: the device's store.

    Raises:
        StoreError: a file cannot be read.
        Misbehaviour: the certificate is not the authority's.
    """
    following = folder / FOLLOWING
    if not following.exists():
        return
    enrolment = read_certificate(read_file(folder / AUTHORITY), read_file(folder / CERTIFICATE))
    if enrolment.public_key == IdentityKey(read_file(following)).public_bytes:
        following.replace(folder / IDENTITY)


def own_keys(folder: Path) -> list[IdentityKey]:
    """The key in use and the one that waits for its certificate, as far as they are there.

    Args:
        folder: the device's store.

    Raises:
        StoreError: a key cannot be read.
    """
    paths = [folder / IDENTITY, folder / FOLLOWING]
    return [IdentityKey(read_file(path)) for path in paths if path.exists()]


def certificate_of(folder: Path) -> bytes:
    """The certificate that a renewal names; empty before the first, and for one of the old format without an end.

    Args:
        folder: the device's store.

    Raises:
        StoreError: a file cannot be read.
    """
    if not (folder / CERTIFICATE).exists():
        return b""
    try:
        read_certificate(read_file(folder / AUTHORITY), read_file(folder / CERTIFICATE))
    except Misbehaviour:
        return b""
    return read_file(folder / CERTIFICATE)


def private_file(path: Path) -> None:
    """Make an empty file that only its owner reads, or take that right from everybody else.

    Args:
        path: of the file; its content stays.

    Raises:
        StoreError: it cannot be made or changed.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def create_private(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600 and flush it to disk.

    Args:
        path: of the file; it must not exist.
        data: its content, a key.

    Raises:
        StoreError: it exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="a key is never overwritten") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also when the power fails.

    Args:
        path: of the file; `path` with ".part" is used on the way.
        data: its new content.

    Raises:
        StoreError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def read_file(path: Path) -> bytes:
    """Read a file of a store.

    Args:
        path: of the file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
