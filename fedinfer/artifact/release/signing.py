"""Keys of the update channel: Ed25519 in files under a passphrase, or ECDSA keys that never leave a PKCS #11 token.

Root keys are three, two must sign. They are needed only to name other keys, so their folder is another one and is kept
off every server; `load_keys` accepts a folder without them. Files are readable by their owner alone. Keys without a
passphrase exist for simulations, which throw them away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, HSMSigner, Signer

from fedinfer.artifact.release.pkcs8 import encrypted_pem
from fedinfer.artifact.release.secret import Secret, no_secret, read_private
from fedinfer.artifact.release.token import SUFFIX as TOKEN
from fedinfer.artifact.release.token import read_token_key, token_document
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Entropy

ROOT_METADATA = "root.json"
"""File beside the online keys: root metadata that names them, signed elsewhere."""
ROOT_KEYS = 3
ROOT_THRESHOLD = 2
SEED_BYTES = 32
SHORTEST_PASSPHRASE = 12
_FILE = re.compile(r"([a-z0-9_-]+)\.([0-9]+)\.(key|token)")


@dataclass(frozen=True, slots=True)
class Protection:
    """How new key files are encrypted.

    Args:
        secret: asked for the passphrase when a file is written; keys on tokens need none.
        entropy: for the salt of each file.
    """

    secret: Secret
    entropy: Entropy

    def passphrase(self, name: str) -> bytes:
        """The passphrase of a new key file, as UTF-8.

        Args:
            name: of the file, for instance "targets.0.key".

        Raises:
            ConfigError: it has fewer than 12 characters.
        """
        given = self.secret(name)
        if len(given) < SHORTEST_PASSPHRASE:
            raise ConfigError(f"the passphrase of {name} has {len(given)} characters, at least {SHORTEST_PASSPHRASE}")
        return given.encode()


class Role(StrEnum):
    """The four top-level roles of TUF (Specification 1.0, section 2.1)."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


ONLINE = (Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP)
"""Roles that a server signs for."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Signing keys by role name; a cohort's role is called "cohort-<name>". Never printed.

    Args:
        signers: role name to its keys, oldest first.
    """

    signers: Mapping[str, tuple[Signer, ...]] = field(repr=False)

    def of(self, role: str) -> tuple[Signer, ...]:
        """The keys of a role, oldest first.

        Args:
            role: name of a top-level or cohort role.

        Raises:
            ConfigError: when there are none.
        """
        if not self.signers.get(role):
            raise ConfigError(
                f"no key for role {str(role)!r}", hint="root keys are kept offline: name their folder too"
            )
        return self.signers[role]

    def with_role(self, role: str, signers: tuple[Signer, ...]) -> Keys:
        """A copy in which a role has these keys.

        Args:
            role: name of a top-level or cohort role.
            signers: all its keys, oldest first; what it had before is replaced.
        """
        return Keys({**self.signers, role: signers})

    def online(self) -> Keys:
        """All but the root keys: what a server needs."""
        return Keys({role: signers for role, signers in self.signers.items() if role != Role.ROOT})

    def root(self) -> Keys:
        """The root keys alone; no role when there are none."""
        return Keys({role: signers for role, signers in self.signers.items() if role == Role.ROOT})

    def joined(self, other: Keys) -> Keys:
        """The keys of both, by role; a key that both have counts once.

        Args:
            other: its keys come after those of this one.
        """
        known = {role: {s.public_key.keyid for s in signers} for role, signers in self.signers.items()}
        more = {
            role: tuple(s for s in signers if s.public_key.keyid not in known.get(role, set()))
            for role, signers in other.signers.items()
        }
        return Keys({role: (*self.signers.get(role, ()), *more.get(role, ())) for role in {**self.signers, **more}})


def new_signer(entropy: Entropy) -> CryptoSigner:
    """A fresh Ed25519 key; simulated entropy gives the same key for the same seed.

    Args:
        entropy: gives 32 bytes.
    """
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(entropy.take(SEED_BYTES)))


def bare_signer(path: Path) -> CryptoSigner:
    """The Ed25519 key in a file of 32 bytes that its owner alone may read.

    Args:
        path: of the file, without a passphrase.

    Raises:
        ConfigError: others may read it, or it has another length.
    """
    data = read_private(path)
    if len(data) != SEED_BYTES:
        raise ConfigError(f"{path} has {len(data)} bytes, a bare key has {SEED_BYTES}")
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(data))


def _keys_needed(role: Role) -> int:
    match role:
        case Role.ROOT:
            return ROOT_KEYS
        case Role.TARGETS | Role.SNAPSHOT | Role.TIMESTAMP:
            return 1
        case _:
            assert_never(role)


def generate_keys(entropy: Entropy) -> Keys:
    """Three root keys and one key for each of the other top-level roles.

    Args:
        entropy: gives 32 bytes per key.
    """
    counts = {role: _keys_needed(role) for role in Role}
    return Keys({str(role): tuple(new_signer(entropy) for _ in range(n)) for role, n in counts.items()})


def save_keys(keys: Keys, folder: Path, protection: Protection | None = None) -> None:
    """Write every key to `<role>.<number>.key` with mode 0600, the folder with 0700; keys that were replaced go.

    Of a key on a token, `<role>.<number>.token` says where it is; it holds no secret.

    Args:
        keys: to keep.
        folder: made when it does not exist.
        protection: encrypts the files; None for a simulation, whose keys protect nothing.

    Raises:
        StoreError: when the folder cannot be written.
        ConfigError: when a passphrase is too short, or a key is of a kind that cannot be kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        wanted = dict(
            _file_of(role, number, signer, protection)
            for role, signers in keys.signers.items()
            for number, signer in enumerate(signers)
        )
        for name, data in wanted.items():
            _replace_private(folder / name, data)
        for path in folder.iterdir():  # last: a crash before leaves too many keys, never too few
            if _FILE.fullmatch(path.name) and path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise StoreError(f"keys cannot be written to {folder}: {error.strerror}") from error


def load_keys(folder: Path, secret: Secret = no_secret) -> Keys:
    """Read what `save_keys` wrote.

    Args:
        folder: with the files.
        secret: asked for the passphrase of an encrypted file, and for the PIN whenever a token signs.

    Raises:
        ConfigError: no keys, a wrong passphrase, a file that others may read, or one that holds no Ed25519 key.
    """
    found: dict[str, list[tuple[int, Signer]]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _FILE.fullmatch(path.name)
        if match:
            signer = read_token_key(path, secret) if match[3] == TOKEN else _read_private(path, secret)
            found.setdefault(match[1], []).append((int(match[2]), signer))
    if not found:
        raise ConfigError(f"{folder} holds no keys", hint="make them with `fedinfer artifact keys`")
    return Keys({role: tuple(signer for _, signer in sorted(pairs, key=_number)) for role, pairs in found.items()})


def holds_root_keys(folder: Path) -> bool:
    """Tell whether a folder has root keys in it, without opening any.

    Args:
        folder: may be absent.
    """
    return folder.is_dir() and any(
        match[1] == Role.ROOT for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))
    )


def _number(pair: tuple[int, Signer]) -> int:
    return pair[0]


def _file_of(role: str, number: int, signer: Signer, protection: Protection | None) -> tuple[str, bytes]:
    if isinstance(signer, HSMSigner):
        return f"{role}.{number}.{TOKEN}", token_document(signer)
    if not isinstance(signer, CryptoSigner):
        raise ConfigError(f"a key of {role} is of the kind {type(signer).__name__}, which cannot be kept")
    if protection is None:
        return f"{role}.{number}.key", signer.private_bytes
    key = load_pem_private_key(signer.private_bytes, None)
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    name = f"{role}.{number}.key"
    return name, encrypted_pem(plain, protection.passphrase(name), protection.entropy)


def _replace_private(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    # The mode at creation, not by chmod afterwards: there is no moment at which others could open the file.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read_private(path: Path, secret: Secret) -> CryptoSigner:
    data = read_private(path)
    encrypted = b"ENCRYPTED" in data[:64]
    passphrase = secret(path.name).encode() if encrypted else None
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError) as error:
        wrong = "cannot be opened with this passphrase" if encrypted else "holds no private key"
        raise ConfigError(f"{path} {wrong}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds {type(key).__name__}, expected an Ed25519 key")
    return CryptoSigner(key)
