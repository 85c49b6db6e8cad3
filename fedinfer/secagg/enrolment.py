"""Who belongs to the population: the enrolment authority signs (device, identity key), devices pin the authority.

A device believes a neighbour because of this signature, never because of what the server says. The server believes a
device because of this certificate, which is public, and a proof, made for this start of a run alone, that the device
has the certified key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.ports import Entropy
from fedinfer.secagg.keys import IdentityKey, verify_signature
from fedinfer.types import DeviceId
from fedinfer.wire import encode

NONCE_BYTES = 32
_POSSESSION = b"fedinfer/possession/v1\0"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the authority signs."""

    device: DeviceId
    public_key: bytes


class Step(StrEnum):
    """When a device proves that it has its key; a proof for one step fits no other."""

    ENROLL = "enroll"
    JOIN = "join"


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a proof of possession answers.

    Args:
        run_id: the run.
        nonce: 32 bytes that the server drew for this start of the run, so that no earlier proof fits.
        build: version and digest of the program: one that another build computed by other rules proves nothing here.

    Raises:
        BadMessage: a nonce of another length.
    """

    run_id: str
    nonce: bytes
    build: str

    def __post_init__(self) -> None:
        if len(self.nonce) != NONCE_BYTES:
            raise BadMessage(f"a challenge has a nonce of {NONCE_BYTES} bytes, got {len(self.nonce)}")

    @classmethod
    def draw(cls, run_id: str, build: str, entropy: Entropy) -> Challenge:
        """A challenge that nobody has seen before."""
        return cls(run_id, entropy.take(NONCE_BYTES), build)


@dataclass(frozen=True, slots=True)
class Possession:
    """What a device signs with its identity key to show that it has it.

    Args:
        step: which question is answered.
        challenge: the server's.
        device: who answers.
        facts: everything else in the answer, encoded.
    """

    step: Step
    challenge: Challenge
    device: DeviceId
    facts: bytes


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


def prove_possession(identity: IdentityKey, possession: Possession) -> bytes:
    """The device's proof: 64 bytes, an Ed25519 signature (RFC 8032) under a label of its own."""
    return identity.sign(_POSSESSION + encode(possession))


def verify_possession(public_key: bytes, possession: Possession, proof: bytes) -> None:
    """Check a proof before anything in the answer is believed.

    Args:
        public_key: the certified key, 32 bytes.
        possession: what was asked, and what the device answered.
        proof: 64 bytes.

    Raises:
        Misbehaviour: not signed with that key, or for another step, run, nonce, build or device, or with other facts.
    """
    if not verify_signature(public_key, _POSSESSION + encode(possession), proof):
        raise Misbehaviour(
            f"no proof that it has the key of device {possession.device!r}: its {possession.step} answer is not signed "
            "with that key for this run, nonce and build"
        )
