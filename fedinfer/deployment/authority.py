"""The folder of an enrolment authority. It stays away from every server; what it signs is public.

authority.0.key   Ed25519 key under a passphrase, or authority.0.token: where the key is on a PKCS #11 token
authority.pub     its public key, which server and devices pin
revocations       its newest revocation list, signed; the server gets a copy after every change
issued.json       whose keys were certified until when, so that a name is given once and can be revoked
nodes/            public node keys of the devices that may connect; the server gets a copy after every change
card              of the site, signed; goes with every approval
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.signer import Signer

from fedinfer.artifact import Keys, Protection, Secret, load_keys, save_keys
from fedinfer.deployment.card import card_of
from fedinfer.deployment.request import CERTIFICATE_DAYS, CLOCK_SKEW, EnrolmentApproval, read_request, renewed_enrolment
from fedinfer.errors import ConfigError, FedInferError, StoreError
from fedinfer.secagg import (
    Authority,
    Enrolment,
    RevocationList,
    read_revocations,
    seconds_of,
    sign_enrolment,
    sign_revocations,
)
from fedinfer.types import DeviceId, Json
from fedinfer.wire import encode

ROLE = "authority"
PUBLIC, REVOCATIONS, ISSUED, NODES = "authority.pub", "revocations", "issued.json", "nodes"
LIST_DAYS = 30


class KeyAuthority:
    """Signs with a key file that was opened, or with a token.

    Args:
        signer: of securesystemslib.
    """

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def public_bytes(self) -> bytes:
        """32 bytes (Ed25519) or 65 bytes (P-256)."""
        return public_bytes(self._signer)

    def sign(self, message: bytes) -> bytes:
        """As `Authority.sign`, with the key file or the token.

        Args:
            message: any bytes, a label of its purpose first.

        Raises:
            ConfigError: the token is not there, or the PIN is wrong.
        """
        try:
            return bytes.fromhex(self._signer.sign(message).signature)
        except FedInferError:
            raise
        except Exception as error:  # a token's library has errors of its own
            raise ConfigError(f"the authority's key does not sign: {type(error).__name__} {error}") from error


@dataclass(frozen=True, slots=True)
class Issued:
    """One certified key.

    Args:
        public_key: hexadecimal.
        not_after: seconds since 1970.
    """

    public_key: str
    not_after: int


def make_authority(folder: Path, signer: Signer, protection: Protection, now: datetime) -> None:
    """Make the folder of an authority, with a first revocation list that is empty.

    Args:
        folder: to make; kept away from every server.
        signer: a fresh Ed25519 key, or a P-256 key on a token.
        protection: passphrase under which a key file is written.
        now: aware time; the list counts for LIST_DAYS from it.

    Raises:
        ConfigError: there is an authority already, or the passphrase is too short.
        StoreError: it cannot be written.
    """
    if (folder / PUBLIC).exists():
        raise ConfigError(f"{folder} is an authority already", hint="a key is never overwritten")
    save_keys(Keys({ROLE: (signer,)}), folder, protection)
    authority = KeyAuthority(signer)
    _write(folder / REVOCATIONS, _list(authority, 1, (), now, LIST_DAYS))
    _write(folder / ISSUED, b"{}\n")
    _write(folder / PUBLIC, authority.public_bytes)


def open_authority(folder: Path, secret: Secret) -> KeyAuthority:
    """Open the key of an authority's folder.

    Args:
        folder: from `make_authority`.
        secret: gives the passphrase, or the PIN of the token.

    Raises:
        ConfigError: no authority, a wrong passphrase, or a key that is not the one of `authority.pub`.
    """
    authority = KeyAuthority(load_keys(folder, secret).of(ROLE)[0])
    if authority.public_bytes != _read(folder / PUBLIC):
        raise ConfigError(f"{folder / PUBLIC} is not the public half of the authority's key")
    return authority


def approve(folder: Path, authority: Authority, request: bytes, now: datetime, days: int = CERTIFICATE_DAYS) -> bytes:
    """Certify the key of a request.

    A renewal under another key revokes the former one. A name that has a key is not given to another. The same request
    may be approved again.

    Args:
        folder: of the authority.
        authority: its key.
        request: bytes of a device.
        now: time, aware.
        days: how long the certificate counts.

    Returns:
        The encoded `EnrolmentApproval`.

    Raises:
        ConfigError: a malformed request, a name that is taken, or a revoked key.
        Misbehaviour: it is not signed with the keys that it names.
    """
    asked, former = read_request(request), renewed_enrolment(authority.public_bytes, request)
    issued, listed = _issued(folder), _fresh_list(folder, authority, now)
    entries = issued.get(asked.device, [])
    again = any(entry.public_key == asked.public_key.hex() for entry in entries)  # an answer may be lost on its way
    if former is None and not again:
        _check_free(asked.device, entries, listed)
    if asked.public_key in listed.keys or (not again and former is not None and former.public_key in listed.keys):
        raise ConfigError(f"a key of device {asked.device!r} was revoked", hint="make a new request on the device")
    enrolment = Enrolment(
        asked.device, asked.public_key, seconds_of(now - CLOCK_SKEW), seconds_of(now + timedelta(days=days))
    )
    certificate = sign_enrolment(authority, enrolment)
    entry = Issued(asked.public_key.hex(), enrolment.not_after)
    others = [old for old in entries if old.public_key != entry.public_key]
    _keep_issued(folder, {**issued, asked.device: [*others, entry]})
    if former and former.public_key != asked.public_key:
        _extend(folder, authority, [former.public_key], now, LIST_DAYS)
    keep_node(folder, asked.device, asked.node_key)
    approval = EnrolmentApproval(certificate, authority.public_bytes, _read(folder / REVOCATIONS), card_of(folder))
    return encode(approval)


def revoke(folder: Path, authority: Authority, devices: Sequence[DeviceId], now: datetime, days: int) -> RevocationList:
    """Sign a new list: with the keys of these devices, or, when none is named, the same keys with a later end.

    Args:
        folder: of the authority.
        authority: its key.
        devices: names; every key that was ever certified for one of them is revoked.
        now: aware time.
        days: how long the list counts.

    Returns:
        The list; its file in the folder is to be given to the server.

    Raises:
        ConfigError: a device that was never certified.
        StoreError: the folder cannot be written.
    """
    issued = _issued(folder)
    unknown = [device for device in devices if device not in issued]
    if unknown:
        raise ConfigError(f"no key of {unknown[0]!r} was ever certified", hint=f"there are: {', '.join(issued)}")
    keys = [bytes.fromhex(entry.public_key) for device in devices for entry in issued[device]]
    listed = _extend(folder, authority, keys, now, days)
    for device in devices:
        forget_node(folder, device)
    return listed


def node_file(folder: Path, device: DeviceId) -> Path:
    """Where the public node key of a device lies.

    Args:
        folder: of an authority or a server.
        device: its name; a character that a file name cannot have is percent-encoded.
    """
    return folder / NODES / f"{quote(device, safe='')}.pub"


def keep_node(folder: Path, device: DeviceId, node_key: bytes) -> None:
    """Note with which key a device may connect.

    Args:
        folder: of an authority or a server.
        device: its name.
        node_key: its public line.

    Raises:
        StoreError: it cannot be written.
    """
    path = node_file(folder, device)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent}: {error.strerror}") from error
    _write(path, node_key + b"\n")


def forget_node(folder: Path, device: DeviceId) -> None:
    """Let a device connect no more.

    Args:
        folder: of an authority or a server.
        device: its name.
    """
    node_file(folder, device).unlink(missing_ok=True)


def nodes_of(folder: Path) -> dict[DeviceId, bytes]:
    """Which devices may connect with which public node keys.

    Args:
        folder: of an authority or a server.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {unquote(path.stem): _read(path).strip() for path in sorted((folder / NODES).glob("*.pub"))}


def public_bytes(signer: Signer) -> bytes:
    """The public key of a signer as devices pin it.

    Args:
        signer: of securesystemslib.

    Returns:
        32 bytes (Ed25519), or 65 bytes (P-256, an uncompressed point).

    Raises:
        ConfigError: neither Ed25519 nor P-256.
    """
    key = signer.public_key
    if key.keytype == "ed25519":
        return bytes.fromhex(key.keyval["public"])
    loaded = load_pem_public_key(key.keyval["public"].encode()) if key.keytype == "ecdsa" else None
    if not isinstance(loaded, EllipticCurvePublicKey) or not isinstance(loaded.curve, SECP256R1):
        raise ConfigError(f"an authority signs with Ed25519 or P-256, not with {key.scheme}")
    return loaded.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _check_free(device: DeviceId, entries: Sequence[Issued], listed: RevocationList) -> None:
    alive = [entry for entry in entries if bytes.fromhex(entry.public_key) not in listed.keys]
    if alive:
        raise ConfigError(
            f"device {device!r} has a key already",
            hint="renew it from the device; if its key is lost, revoke the device first",
        )


def _fresh_list(folder: Path, authority: Authority, now: datetime) -> RevocationList:
    """The newest list; one that has ended is signed again, because no device would take it."""
    listed = read_revocations(authority.public_bytes, _read(folder / REVOCATIONS))
    return listed if seconds_of(now) < listed.expires else _extend(folder, authority, (), now, LIST_DAYS)


def _extend(folder: Path, authority: Authority, keys: Sequence[bytes], now: datetime, days: int) -> RevocationList:
    listed = read_revocations(authority.public_bytes, _read(folder / REVOCATIONS))
    data = _list(authority, listed.version + 1, (*listed.keys, *keys), now, days)
    _write(folder / REVOCATIONS, data)
    return read_revocations(authority.public_bytes, data)


def _list(authority: Authority, version: int, keys: Sequence[bytes], now: datetime, days: int) -> bytes:
    expires = seconds_of(now + timedelta(days=days))
    return sign_revocations(authority, RevocationList(version, seconds_of(now), expires, tuple(sorted(set(keys)))))


def _issued(folder: Path) -> dict[str, list[Issued]]:
    try:
        said: Json = json.loads(_read(folder / ISSUED))
        return {name: [Issued(str(e["public_key"]), int(e["not_after"])) for e in said[name]] for name in said}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / ISSUED} is no register: {error}") from error


def _keep_issued(folder: Path, issued: dict[str, list[Issued]]) -> None:
    document = {
        name: [{"public_key": entry.public_key, "not_after": entry.not_after} for entry in entries]
        for name, entries in sorted(issued.items())
    }
    _write(folder / ISSUED, (json.dumps(document, indent=1) + "\n").encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="fedinfer server authority DIR") from error


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
