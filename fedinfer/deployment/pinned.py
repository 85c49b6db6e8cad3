"""Which root of the model repository a device trusts: that of its first run, or the one it was shipped with."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fedinfer.errors import ConfigError, StoreError
from fedinfer.private_files import private_folder
from fedinfer.store import read_store

DATABASE, SHIPPED = "device.sqlite", "root.json"


def trusted_root(store: Path, given: bytes) -> bytes:
    """The root that an update rests on; the first one that is given is kept in the store.

    Args:
        store: folder of the device.
        given: root metadata that its owner names, or empty.

    Raises:
        ConfigError: none is known, or another one is.
        StoreError: the store cannot be read or written.
    """
    known = _of_first_run(store / DATABASE) or _read(store / SHIPPED)
    if known and given not in (b"", known):
        raise ConfigError(f"{store} trusts another root than the one that was given", hint="leave --root out")
    if not known and not given:
        raise ConfigError(f"{store} trusts no root yet", hint="give the root metadata it was shipped with: --root FILE")
    if not known:
        _keep(store, given)
    return known or given


def knows_root(store: Path) -> bool:
    """Whether a device trusts a root already.

    Args:
        store: folder of the device.

    Raises:
        StoreError: the store cannot be read.
    """
    return bool(shipped_root(store) or _of_first_run(store / DATABASE))


def shipped_root(store: Path) -> bytes:
    """The root that came with the device or with its approval; empty where none did.

    Args:
        store: folder of the device.

    Raises:
        StoreError: it cannot be read.
    """
    return _read(store / SHIPPED)


def _of_first_run(database: Path) -> bytes:
    if not database.exists():
        return b""
    try:
        with closing(read_store(database)) as connection:
            row = connection.execute("SELECT trusted_root FROM pinned").fetchone()
    except sqlite3.OperationalError:  # it has not joined a run yet
        return b""
    return bytes(row[0]) if row else b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _keep(store: Path, root: bytes) -> None:
    part = store / f"{SHIPPED}.part"
    try:
        private_folder(store)
        part.write_bytes(root)
        part.replace(store / SHIPPED)
    except OSError as error:
        raise StoreError(f"{store / SHIPPED}: {error.strerror}", hint="check permissions") from error
