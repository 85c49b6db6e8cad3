"""What travels between a device and the enrolment authority: a request one way, an approval back. Neither is secret.

The key is made on the device and stays there. A request proves that whoever wrote it has the key; a renewal proves it
with the key that was certified before as well, so nobody takes over the name of a device by asking for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from fedinfer.deployment.card import MOST_CARD_BYTES
from fedinfer.deployment.node_key import node_pem
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour
from fedinfer.messages import MOST_CERTIFICATE_BYTES, MOST_LIST_BYTES
from fedinfer.printable import LONGEST_NAME, NAME_RULE, is_device_name, shown
from fedinfer.secagg import Enrolment, IdentityKey, certified, read_certificate, verify_signature
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode

CERTIFICATE_DAYS = 365
CLOCK_SKEW = timedelta(hours=1)
"""A certificate counts from so long before it was signed, because clocks of devices differ."""
MOST_REQUEST_BYTES = 4096
MOST_APPROVAL_BYTES = MOST_LIST_BYTES + MOST_CERTIFICATE_BYTES + MOST_REQUEST_BYTES + MOST_CARD_BYTES
_LABEL = b"fedinfer/request/v2\0"


@dataclass(frozen=True, slots=True)
class Request:
    """What a device asks for.

    Args:
        device: its name, 1 to 64 printable ASCII characters.
        public_key: Ed25519, made on the device; 32 bytes.
        previous: the certificate that is renewed; empty for a first one.
        node_key: public line of the key with which the SuperLink lets it connect, see `node_key`.
    """

    device: DeviceId
    public_key: bytes
    previous: bytes
    node_key: bytes


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request and the proofs that its sender has the keys.

    Args:
        body: the request.
        proof: signature of the key that it names, 64 bytes.
        previous_proof: signature of the key that was certified before, 64 bytes; empty for a first request.
    """

    body: Request
    proof: bytes
    previous_proof: bytes


@dataclass(frozen=True, slots=True)
class EnrolmentApproval:
    """What the authority answers.

    Args:
        certificate: encoded.
        authority: its public key, which the device pins.
        revocations: its newest list.
        card: of the site, signed by the same authority, see `card`; empty: the device is told an address otherwise.
    """

    certificate: bytes
    authority: bytes
    revocations: bytes
    card: bytes


def write_request(
    device: DeviceId, identity: IdentityKey, previous: bytes, former: IdentityKey | None, node_key: bytes
) -> bytes:
    """The bytes of a request.

    Args:
        device: name.
        identity: the key to be certified.
        previous: certificate that is renewed, or empty.
        former: key of that certificate, or None.
        node_key: public line.

    Raises:
        ConfigError: no session would accept the name.
    """
    check_name(device)
    body = Request(device, identity.public_bytes, previous, node_key)
    message = _LABEL + encode(body)
    return encode(SignedRequest(body, identity.sign(message), former.sign(message) if former else b""))


def read_request(data: bytes) -> Request:
    """Read a request, if whoever wrote it has the key.

    Args:
        data: encoded `SignedRequest`, at most MOST_REQUEST_BYTES.

    Raises:
        ConfigError: malformed, a name that no session would accept, or no node key.
        Misbehaviour: not signed with the key that it names.
    """
    try:
        signed = decode(SignedRequest, data, limit_bytes=MOST_REQUEST_BYTES)
    except BadMessage as error:
        raise ConfigError(f"this is no request of a device: {error}") from error
    check_name(signed.body.device)
    node_pem(signed.body.node_key)
    if not verify_signature(signed.body.public_key, _LABEL + encode(signed.body), signed.proof):
        raise Misbehaviour(f"the request of {signed.body.device!r} is not signed with the key that it names")
    return signed.body


def renewed_enrolment(authority: bytes, data: bytes) -> Enrolment | None:
    """The enrolment that a request renews, proved with its key; None for a first request.

    Args:
        authority: public key of the authority, 32 or 65 bytes.
        data: encoded `SignedRequest`; `read_request` has accepted it.

    Raises:
        BadMessage: malformed.
        Misbehaviour: of another device or authority, or not signed with the former key.
    """
    signed = decode(SignedRequest, data, limit_bytes=MOST_REQUEST_BYTES)
    if not signed.body.previous:
        return None
    former = read_certificate(authority, signed.body.previous)
    certified(authority, signed.body.device, former.public_key, signed.body.previous)
    if not verify_signature(former.public_key, _LABEL + encode(signed.body), signed.previous_proof):
        raise Misbehaviour(f"the renewal of {signed.body.device!r} is not signed with its former key")
    return former


def read_approval(data: bytes) -> EnrolmentApproval:
    """Read an approval; what is in it is checked by the store.

    Args:
        data: encoded `EnrolmentApproval`.

    Raises:
        ConfigError: malformed.
    """
    try:
        approval = decode(EnrolmentApproval, data, limit_bytes=MOST_APPROVAL_BYTES)
    except BadMessage as error:
        raise ConfigError(f"this is no approval of an authority: {error}") from error
    return approval


def check_name(name: str, whose: str = "device") -> None:
    """Refuse a name with which every round would fail later.

    Args:
        name: any text.
        whose: for the error.

    Raises:
        ConfigError: it is not 1 to 64 printable ASCII characters.
    """
    if not is_device_name(name):
        raise ConfigError(f"{whose} {shown(name, LONGEST_NAME)!r} of {len(name)} characters", hint=NAME_RULE)
