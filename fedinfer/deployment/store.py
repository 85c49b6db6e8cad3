"""The folder of a real device: its name, keys and databases. Made once by its owner, never by a server.

`request_enrolment` makes the folder and the key, `import_approval` takes what the authority answered. A renewal goes
the same two steps in the same folder, so the ledger stays.

device.json       {"device": name, "data": table of the device, "budget": {"epsilon", "delta"}, "min_survivors",
                   "corruption_rate", "dropout_rate" (0.1 each where left out),
                   "factories": own models that a task may use (may be left out),
                   "tasks": names of scenarios that the owner agreed to, "*" for all,
                   "publishers": of app bundles (may be left out: fedinfer)}
identity.key      Ed25519 private key, mode 0600
node.key(.pub)    with which the SuperLink lets the device connect, mode 0600
card ca.crt       where the site's SuperLink is and whose TLS certificate counts, as the approval brought it
identity.next.key one that takes its place as soon as a certificate for it is here
certificate       the enrolment authority's signature over name, key and time
authority.pub     the authority's public key, pinned
device.sqlite     ledger, running rounds, windows, the joined task, the newest revocation list; mode 0600: keys of
                  running rounds, unnoised counts
slots/ metadata/  models and the update channel's trusted metadata
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fedinfer.deployment.card import take_card
from fedinfer.deployment.key_files import (
    AUTHORITY,
    CERTIFICATE,
    FOLLOWING,
    IDENTITY,
    certificate_of,
    create_private,
    finish_new_key,
    own_keys,
    private_file,
    read_file,
    replace_file,
    take_certificate,
)
from fedinfer.deployment.node_key import make_node_key
from fedinfer.deployment.request import CERTIFICATE_DAYS, CLOCK_SKEW, check_name, read_approval, write_request
from fedinfer.device import VALIDITY_MIGRATIONS, StoredKnown, believe, known_time
from fedinfer.errors import ConfigError, Misbehaviour, StoreError
from fedinfer.ports import Clock, Entropy
from fedinfer.privacy import Budget
from fedinfer.secagg import (
    Authority,
    Enrolment,
    IdentityKey,
    certified,
    read_certificate,
    seconds_of,
    sign_enrolment,
    verify_enrolment,
)
from fedinfer.store import open_store
from fedinfer.types import DeviceId

DATABASE = "device.sqlite"
ANY_TASK = "*"
PUBLISHERS = frozenset({"fedinfer"})
"""Whose runs a device takes part in when its owner names nobody."""
CORRUPTION_RATE, DROPOUT_RATE = 0.1, 0.1
"""What an owner who says nothing demands of every private sum."""


@dataclass(frozen=True, slots=True)
class Floors:
    """What an owner demands of every private sum; no server can lower it.

    Args:
        min_survivors: minimum aggregation size: fewest devices in a sum, 2 or more.
        corruption_rate: part of a cohort's devices that may work for the attacker, in (0, 1): one at least.
        dropout_rate: part of a cohort that may drop out while this device's vector stays secret, in [0, 1).

    Raises:
        ConfigError: a number outside its range.
    """

    min_survivors: int
    corruption_rate: float = CORRUPTION_RATE
    dropout_rate: float = DROPOUT_RATE

    def __post_init__(self) -> None:
        if self.min_survivors < 2:
            raise ConfigError(
                f"min_survivors {self.min_survivors}: a sum over fewer than 2 devices is one device's vector"
            )
        if not 0 < self.corruption_rate < 1:
            raise ConfigError(f"corruption_rate {self.corruption_rate}, allowed are 0 to 1 without the ends")
        if not 0 <= self.dropout_rate < 1:
            raise ConfigError(f"dropout_rate {self.dropout_rate}, allowed are 0 to below 1")


@dataclass(frozen=True, slots=True)
class DeviceStore:
    """What a device's folder says.

    Args:
        folder: the store.
        device: its name.
        data: its own table.
        budget: what its owner allows over all runs.
        floors: what its owner demands of every private sum.
        identity: its key.
        certificate: fedinfer.secagg.enrolment.Certificate, encoded.
        authority: pinned public key of the authority.
        factories: model factories ("package.module:callable") that a task may name.
        tasks: names of scenarios that it may take part in; ANY_TASK among them: all.
        publishers: of the app bundles whose runs it takes part in.
    """

    folder: Path
    device: DeviceId
    data: Path
    budget: Budget
    floors: Floors
    identity: IdentityKey
    certificate: bytes
    authority: bytes
    factories: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    publishers: frozenset[str] = PUBLISHERS


def create_authority(path: Path, entropy: Entropy) -> IdentityKey:
    """Make the bare key of an enrolment authority, mode 0600: for simulations and tests, `authority` has real ones.

    Args:
        path: of the key file; it must not exist.
        entropy: 32 bytes are taken.

    Raises:
        StoreError: the file exists or cannot be written.
    """
    authority = IdentityKey.generate(entropy)
    create_private(path, authority.private_bytes)
    return authority


def read_authority(path: Path) -> IdentityKey:
    """Read what `create_authority` wrote.

    Args:
        path: of the key file.

    Raises:
        StoreError: the file cannot be read.
        BadMessage: it has not the length of a key.
    """
    return IdentityKey(read_file(path))


def request_enrolment(
    folder: Path,
    device: DeviceId,
    data: Path,
    budget: Budget,
    min_survivors: int,
    entropy: Entropy,
    authority: bytes = b"",
    corruption_rate: float = CORRUPTION_RATE,
    dropout_rate: float = DROPOUT_RATE,
    tasks: Sequence[str] = (),
) -> bytes:
    """Make the store of a device, its key included, and ask for a certificate.

    Args:
        folder: to make.
        device: its name.
        data: its own table.
        budget: what its owner allows over all runs.
        min_survivors: fewest devices in a sum.
        entropy: for its key.
        authority: public key to pin now, got from the authority itself; empty: the one that the approval brings.
        corruption_rate: see `Floors`.
        dropout_rate: see `Floors`.
        tasks: names of scenarios that the owner agrees to.

    Returns:
        The request for the authority; it holds no secret.

    Raises:
        ConfigError: no session would accept the name, or a number is outside its range.
        StoreError: the folder holds a device already or cannot be written.
    """
    check_name(device)
    floors = Floors(min_survivors, corruption_rate, dropout_rate)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from error
    identity = IdentityKey.generate(entropy)
    create_private(folder / IDENTITY, identity.private_bytes)
    settings = {
        "device": device,
        "data": str(data.resolve()),
        "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
        **asdict(floors),
        "tasks": list(tasks),
    }
    if authority:
        replace_file(folder / AUTHORITY, authority)
    replace_file(folder / "device.json", (json.dumps(settings, indent=2) + "\n").encode())
    return write_request(device, identity, b"", None, make_node_key(folder))


def request_again(folder: Path) -> bytes:
    """Ask for another certificate for the key that the store has; for a renewal, or because a request was lost.

    Args:
        folder: the store.

    Returns:
        The request for the authority; it holds no secret.

    Raises:
        ConfigError: the folder is no device store.
        StoreError: its key cannot be read.
    """
    device, identity = _name_of(folder), IdentityKey(read_file(folder / IDENTITY))
    previous = certificate_of(folder)
    return write_request(device, identity, previous, identity if previous else None, make_node_key(folder))


def request_new_key(folder: Path, entropy: Entropy) -> bytes:
    """Make a new key and ask for a certificate for it; the old one is used until that is here.

    A key that waits for its certificate already is asked for again: the request or the answer may have been lost.

    Args:
        folder: the store.
        entropy: 32 bytes are taken for a new key.

    Returns:
        The request for the authority; it holds no secret.

    Raises:
        ConfigError: the folder is no device store.
        StoreError: the key cannot be written.
    """
    store = open_device(folder)
    if not (folder / FOLLOWING).exists():
        create_private(folder / FOLLOWING, IdentityKey.generate(entropy).private_bytes)
    following = IdentityKey(read_file(folder / FOLLOWING))
    return write_request(store.device, following, store.certificate, store.identity, make_node_key(folder))


def import_approval(folder: Path, data: bytes, now: datetime, authority: bytes = b"") -> Enrolment:
    """Take what the authority answered: certificate, its key, its newest revocation list, the card of the site.

    The root of the card is the one that the device's models rest on from then on, if it knew none.

    Args:
        folder: the store.
        data: the answer.
        now: time by the clock, aware.
        authority: the public key that the owner expects; empty: the one pinned before, or at first the one that came.

    Returns:
        What is certified.

    Raises:
        ConfigError: malformed, or the folder is no device store.
        Misbehaviour: another authority, name or key; expired, not yet valid, revoked; an ended or older list.
    """
    approval, device = read_approval(data), _name_of(folder)
    pinned = read_file(folder / AUTHORITY) if (folder / AUTHORITY).exists() else authority or approval.authority
    if approval.authority != pinned or authority not in (b"", pinned):
        raise Misbehaviour("the approval is of another authority than this device's")
    enrolment = read_certificate(pinned, approval.certificate)
    if enrolment.public_key not in [key.public_bytes for key in own_keys(folder)]:
        raise Misbehaviour(f"the approval certifies another key than those of device {device!r}")
    private_file(folder / DATABASE)
    known = StoredKnown(open_store(folder / DATABASE, "validity", VALIDITY_MIGRATIONS))
    against = believe(known, pinned, approval.revocations, known_time(known, folder / "metadata", now))
    verify_enrolment(against, device, enrolment.public_key, approval.certificate)
    if approval.card:
        take_card(folder, pinned, approval.card)
    take_certificate(folder, pinned, approval.certificate)
    return enrolment


def enrol_device(
    folder: Path,
    device: DeviceId,
    data: Path,
    budget: Budget,
    min_survivors: int,
    authority: Authority,
    entropy: Entropy,
    clock: Clock,
    corruption_rate: float = CORRUPTION_RATE,
    dropout_rate: float = DROPOUT_RATE,
) -> DeviceStore:
    """Request and approval in one process that has the authority's key: for simulations and tests.

    Args:
        folder: to make.
        device: its name.
        data: its own table.
        budget: what its owner allows over all runs.
        min_survivors: fewest devices in a sum, >= 2.
        authority: whose key signs the certificate.
        entropy: for the device's key.
        clock: when the certificate begins; it counts for CERTIFICATE_DAYS.
        corruption_rate: see `Floors`.
        dropout_rate: see `Floors`.

    Raises:
        ConfigError: no session would accept the name, or a number is outside its range.
        StoreError: the folder holds a device already or cannot be written.
    """
    request_enrolment(folder, device, data, budget, min_survivors, entropy, b"", corruption_rate, dropout_rate)
    now = clock.now()
    begin, end = seconds_of(now - CLOCK_SKEW), seconds_of(now + timedelta(days=CERTIFICATE_DAYS))
    public = own_keys(folder)[0].public_bytes
    take_certificate(folder, authority.public_bytes, sign_enrolment(authority, Enrolment(device, public, begin, end)))
    return open_device(folder)


def open_device(folder: Path) -> DeviceStore:
    """Read a device's store; whether its certificate still counts is checked by those who are shown it.

    Args:
        folder: the store.

    Raises:
        ConfigError: a file is missing or says something impossible.
        StoreError: a key or certificate cannot be read.
        Misbehaviour: the certificate is not the authority's for this device and key.
    """
    try:
        settings = json.loads((folder / "device.json").read_text())
        finish_new_key(folder)
        identity = IdentityKey(read_file(folder / IDENTITY))
        store = DeviceStore(
            folder=folder,
            device=str(settings["device"]),
            data=Path(settings["data"]),
            budget=Budget(float(settings["budget"]["epsilon"]), float(settings["budget"]["delta"])),
            floors=Floors(
                min_survivors=int(settings["min_survivors"]),
                corruption_rate=float(settings.get("corruption_rate", CORRUPTION_RATE)),
                dropout_rate=float(settings.get("dropout_rate", DROPOUT_RATE)),
            ),
            identity=identity,
            certificate=read_file(folder / CERTIFICATE),
            authority=read_file(folder / AUTHORITY),
            factories=frozenset(str(name) for name in settings.get("factories", ())),
            tasks=_names(settings.get("tasks", [])),
            publishers=_names(settings.get("publishers", sorted(PUBLISHERS))),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no device store: {error}", hint="enrol the device first") from error
    certified(store.authority, store.device, identity.public_bytes, store.certificate)
    return store


def _names(listed: object) -> frozenset[str]:
    """A list of names; one text would otherwise be taken for a list of letters."""
    if not isinstance(listed, list):
        raise TypeError(f"expected a list of names, got {listed!r}")
    return frozenset(str(name) for name in listed)


def set_floors(folder: Path, floors: Floors) -> None:
    """Write what the owner demands into `device.json`; it holds from the next message on.

    Args:
        folder: the store.
        floors: replace those of before.

    Raises:
        StoreError: the file cannot be read or written.
    """
    path = folder / "device.json"
    try:
        settings = json.loads(path.read_text()) | asdict(floors)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: {error}", hint="enrol the device first") from error
    replace_file(path, (json.dumps(settings, indent=2) + "\n").encode())


def _name_of(folder: Path) -> DeviceId:
    try:
        return str(json.loads((folder / "device.json").read_text())["device"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no device store: {error}", hint="fedinfer device request") from error
