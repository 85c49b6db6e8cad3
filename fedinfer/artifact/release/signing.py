"""Keys of the update channel: Ed25519, one file per key, readable by the owner alone.

Root keys are three, two must sign. They are needed only to rotate keys, so in a real deployment their files are kept
off the server; `load_keys` accepts a folder without them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Entropy

ROOT_KEYS = 3
ROOT_THRESHOLD = 2
_FILE = re.compile(r"([a-z0-9_-]+)\.([0-9]+)\.key")


class Role(StrEnum):
    """The four top-level roles of TUF."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Keys:
    """Signing keys by role name; a cohort's role is called "cohort-<name>". Never printed.

    Args:
        signers: role name to its keys, oldest first.
    """

    signers: Mapping[str, tuple[CryptoSigner, ...]] = field(repr=False)

    def of(self, role: str) -> tuple[CryptoSigner, ...]:
        """The keys of a role.

        Raises:
            ConfigError: when there are none.
        """
        if not self.signers.get(role):
            raise ConfigError(
                f"no key for role {str(role)!r}", hint="root keys may be kept offline: add their files first"
            )
        return self.signers[role]

    def with_role(self, role: str, signers: tuple[CryptoSigner, ...]) -> Keys:
        """A copy in which a role has these keys."""
        return Keys({**self.signers, role: signers})


def new_signer(entropy: Entropy) -> CryptoSigner:
    """A fresh Ed25519 key; simulated entropy gives the same key for the same seed."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(entropy.take(32)))


def generate_keys(entropy: Entropy) -> Keys:
    """Three root keys and one key for each of the other top-level roles."""
    counts = {role: ROOT_KEYS if role is Role.ROOT else 1 for role in Role}
    return Keys({str(role): tuple(new_signer(entropy) for _ in range(n)) for role, n in counts.items()})


def save_keys(keys: Keys, folder: Path) -> None:
    """Write every key to `<role>.<number>.key` with mode 0600, the folder with 0700; keys that were replaced go.

    Raises:
        StoreError: when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        wanted = {
            f"{role}.{number}.key": signer
            for role, signers in keys.signers.items()
            for number, signer in enumerate(signers)
        }
        for name, signer in wanted.items():
            _write_private(folder / name, signer.private_bytes)
        for path in folder.glob("*.key"):
            if path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise StoreError(f"keys cannot be written to {folder}: {error.strerror}") from error


def load_keys(folder: Path) -> Keys:
    """Read what `save_keys` wrote.

    Raises:
        ConfigError: no keys, a file that others may read, or a file that holds no Ed25519 key.
    """
    found: dict[str, list[tuple[int, CryptoSigner]]] = {}
    for path in sorted(folder.glob("*.key")):
        match = _FILE.fullmatch(path.name)
        if match:
            found.setdefault(match[1], []).append((int(match[2]), _read_private(path)))
    if not found:
        raise ConfigError(f"{folder} holds no keys", hint="make them with `fedinfer artifact keys`")
    return Keys({role: tuple(signer for _, signer in sorted(pairs, key=_number)) for role, pairs in found.items()})


def _number(pair: tuple[int, CryptoSigner]) -> int:
    return pair[0]


def _write_private(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read_private(path: Path) -> CryptoSigner:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:04o}: others can read it", hint=f"chmod 600 {path}")
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds {type(key).__name__}, expected an Ed25519 key")
    return CryptoSigner(key)
