"""Signing keys as `fedinfer artifact keys` leaves them: root apart, online keys encrypted. Not a test itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedinfer.artifact.release.root import first_root, signed_root
from fedinfer.artifact.release.signing import ROOT_METADATA, Keys, Protection, generate_keys, save_keys
from fedinfer.system import SystemEntropy

PASSPHRASE = "correct horse battery"


def protection() -> Protection:
    return Protection(lambda _what: PASSPHRASE, SystemEntropy())


def save_new_keys(folder: Path) -> Keys:
    """`folder/root` and `folder/online`, the first root metadata among the latter."""
    keys = generate_keys(SystemEntropy())
    save_keys(keys.root(), folder / "root", protection())
    save_keys(keys.online(), folder / "online", protection())
    expires = (datetime.now(UTC) + timedelta(days=365)).replace(microsecond=0)
    (folder / "online" / ROOT_METADATA).write_bytes(signed_root(first_root(keys, expires), keys))
    return keys
