"""Who belongs to the population: the enrolment authority signs (device, identity key), devices pin the authority.

A device believes a neighbour because of this signature, never because of what the server says.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.errors import Misbehaviour
from fedinfer.secagg.keys import IdentityKey, verify_signature
from fedinfer.types import DeviceId
from fedinfer.wire import encode


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the authority signs."""

    device: DeviceId
    public_key: bytes


def sign_enrolment(authority: IdentityKey, device: DeviceId, public_key: bytes) -> bytes:
    """Certificate (64 bytes) that `public_key` (Ed25519, 32 bytes) belongs to `device`."""
    return authority.sign(b"fedinfer/enrolment/v1\0" + encode(Enrolment(device, public_key)))


def verify_enrolment(authority: bytes, device: DeviceId, public_key: bytes, certificate: bytes) -> None:
    """Check a certificate.

    Args:
        authority: the authority's public key, pinned.
        device: whose key it is said to certify.
        public_key: that key, 32 bytes.
        certificate: 64 bytes.

    Raises:
        Misbehaviour: the authority did not sign this.
    """
    message = b"fedinfer/enrolment/v1\0" + encode(Enrolment(device, public_key))
    if not verify_signature(authority, message, certificate):
        raise Misbehaviour(f"the enrolment authority did not sign the key of device {device!r}")
