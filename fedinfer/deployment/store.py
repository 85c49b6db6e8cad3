"""The folder of a real device: its name, keys and databases. Made once at enrolment, never by a server.

device.json       {"device": name, "data": table of the device, "budget": {"epsilon", "delta"}, "min_survivors",
                   "factories": own models that a task may use (may be left out)}
identity.key      Ed25519 private key, mode 0600
certificate       the enrolment authority's signature
authority.pub     the authority's public key, pinned
device.sqlite     ledger, running rounds, windows, the joined task; mode 0600: keys of running rounds, unnoised counts
slots/ metadata/  models and the update channel's trusted metadata
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Entropy
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.secagg.enrolment import sign_enrolment, verify_enrolment
from fedinfer.secagg.keys import IdentityKey
from fedinfer.types import DeviceId

DATABASE = "device.sqlite"


@dataclass(frozen=True, slots=True)
class DeviceStore:
    """What a device's folder says.

    Args:
        folder: the store.
        device: its name.
        data: its own table.
        budget: what its owner allows over all runs.
        min_survivors: among how many it wants to hide.
        identity: its key.
        certificate: 64 bytes of the authority.
        authority: pinned public key of the authority.
        factories: model factories ("package.module:callable") that a task may name.
    """

    folder: Path
    device: DeviceId
    data: Path
    budget: Budget
    min_survivors: int
    identity: IdentityKey
    certificate: bytes
    authority: bytes
    factories: frozenset[str] = frozenset()


def create_authority(path: Path, entropy: Entropy) -> IdentityKey:
    """Make the key of an enrolment authority, mode 0600; keep it off every server.

    Raises:
        StoreError: the file exists or cannot be written.
    """
    authority = IdentityKey.generate(entropy)
    _write_private(path, authority.private_bytes)
    return authority


def read_authority(path: Path) -> IdentityKey:
    """Read what `create_authority` wrote.

    Raises:
        StoreError: the file cannot be read.
    """
    return IdentityKey(_read(path))


def enrol_device(
    folder: Path,
    device: DeviceId,
    data: Path,
    budget: Budget,
    min_survivors: int,
    authority: IdentityKey,
    entropy: Entropy,
) -> DeviceStore:
    """Make the store of a device and have the authority sign its key.

    Raises:
        StoreError: the folder holds a device already or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from error
    identity = IdentityKey.generate(entropy)
    _write_private(folder / "identity.key", identity.private_bytes)
    (folder / "certificate").write_bytes(sign_enrolment(authority, device, identity.public_bytes))
    (folder / "authority.pub").write_bytes(authority.public_bytes)
    settings = {
        "device": device,
        "data": str(data.resolve()),
        "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
        "min_survivors": min_survivors,
    }
    (folder / "device.json").write_text(json.dumps(settings, indent=2) + "\n")
    return open_device(folder)


def open_device(folder: Path) -> DeviceStore:
    """Read a device's store.

    Raises:
        ConfigError: a file is missing or says something impossible.
        Misbehaviour: the certificate is not the authority's for this device and key.
    """
    try:
        settings = json.loads((folder / "device.json").read_text())
        identity = IdentityKey(_read(folder / "identity.key"))
        store = DeviceStore(
            folder=folder,
            device=str(settings["device"]),
            data=Path(settings["data"]),
            budget=Budget(float(settings["budget"]["epsilon"]), float(settings["budget"]["delta"])),
            min_survivors=int(settings["min_survivors"]),
            identity=identity,
            certificate=_read(folder / "certificate"),
            authority=_read(folder / "authority.pub"),
            factories=frozenset(str(name) for name in settings.get("factories", ())),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no device store: {error}", hint="enrol the device first") from error
    verify_enrolment(store.authority, store.device, identity.public_bytes, store.certificate)
    return store


def private_file(path: Path) -> None:
    """Make an empty file that only its owner reads, or take that right from everybody else.

    Raises:
        StoreError: it cannot be made or changed.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _write_private(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="a key is never overwritten") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
