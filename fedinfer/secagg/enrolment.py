"""Who belongs to the population: the enrolment authority signs (device, identity key), devices pin the authority.

A device believes a neighbour because of this signature, never because of what the server says. The server believes a
device because of this certificate, which is public, and a proof, made for this start of a run alone, that the device
has the certified key.

A certificate counts from `not_before` until `not_after`, both inside what is signed, unless its key is on the
authority's revocation list (`revocation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.messages import MOST_CERTIFICATE_BYTES
from fedinfer.ports import Entropy
from fedinfer.secagg.authority import Authority, verify_by_authority
from fedinfer.secagg.keys import IdentityKey, verify_signature
from fedinfer.secagg.revocation import RevocationList, check_fresh, read_revocations
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode

NONCE_BYTES = 32
_ENROLMENT = b"fedinfer/enrolment/v2\0"
_POSSESSION = b"fedinfer/possession/v1\0"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the authority signs.

    Args:
        device: name.
        public_key: its Ed25519 identity, 32 bytes.
        not_before, not_after: first and last second at which this counts, since 1970, UTC.
    """

    device: DeviceId
    public_key: bytes
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """An enrolment and the authority's signature over it; encoded, it is what a device shows.

    Args:
        enrolment: what is certified.
        signature: 64 bytes (Ed25519), or ECDSA in DER.
    """

    enrolment: Enrolment
    signature: bytes


@dataclass(frozen=True, slots=True)
class Validation:
    """What certificates are checked against. Made by `validation`.

    Args:
        authority: public key of the enrolment authority, pinned.
        revocations: the newest list, verified and fresh.
        now: seconds since 1970; never before the list was issued.
    """

    authority: bytes
    revocations: RevocationList
    now: int


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
        """Draw a challenge that nobody has seen before.

        Args:
            run_id: name of the run.
            build: version and digest of the program that asks.
            entropy: 32 bytes are taken.
        """
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


def sign_enrolment(authority: Authority, enrolment: Enrolment) -> bytes:
    """Certify that a key belongs to a device for a time.

    Args:
        authority: whose key signs.
        enrolment: what is certified; the caller has checked who asks.

    Returns:
        An encoded `Certificate`.

    Raises:
        ConfigError: the authority's key cannot sign.
    """
    return encode(Certificate(enrolment, authority.sign(_ENROLMENT + encode(enrolment))))


def validation(authority: bytes, revocations: bytes, now: int) -> Validation:
    """What certificates are checked against now.

    Args:
        authority: public key, pinned.
        revocations: the signed list.
        now: seconds since 1970 by a clock; one that stands before the list was issued is wrong and is not followed.

    Raises:
        Misbehaviour: the list is missing, not the authority's, or has ended.
    """
    listed = read_revocations(authority, revocations)
    # The list is signed, the clock is not: a clock that was set back must not revive an expired certificate.
    latest = max(now, listed.issued)
    check_fresh(listed, latest)
    return Validation(authority, listed, latest)


def read_certificate(authority: bytes, certificate: bytes) -> Enrolment:
    """Read what the authority signed, whether it still counts or not.

    Args:
        authority: its public key, pinned; 32 or 65 bytes.
        certificate: encoded `Certificate`.

    Raises:
        Misbehaviour: the bytes are malformed, or the authority did not sign them.
    """
    try:
        shown = decode(Certificate, certificate, limit_bytes=MOST_CERTIFICATE_BYTES)
    except BadMessage as error:
        raise Misbehaviour(f"a certificate that the enrolment authority did not sign: {error}") from error
    if not verify_by_authority(authority, _ENROLMENT + encode(shown.enrolment), shown.signature):
        raise Misbehaviour(f"the enrolment authority did not sign the key of device {shown.enrolment.device!r}")
    return shown.enrolment


def certified(authority: bytes, device: DeviceId, public_key: bytes, certificate: bytes) -> Enrolment:
    """Check that a certificate is for this device and key, whether it still counts or not.

    Args:
        authority: the authority's public key, pinned.
        device: whose key it is said to certify.
        public_key: that key, 32 bytes.
        certificate: encoded.

    Raises:
        Misbehaviour: the authority did not sign this.
    """
    enrolment = read_certificate(authority, certificate)
    if (enrolment.device, enrolment.public_key) != (device, public_key):
        raise Misbehaviour(f"the enrolment authority did not sign the key of device {device!r}")
    return enrolment


def verify_enrolment(against: Validation, device: DeviceId, public_key: bytes, certificate: bytes) -> Enrolment:
    """Check a certificate: signature, time, and that its key is not revoked.

    Args:
        against: authority, list and time.
        device: whose key it is said to certify.
        public_key: that key, 32 bytes.
        certificate: encoded.

    Raises:
        Misbehaviour: says which of them is wrong.
    """
    enrolment = certified(against.authority, device, public_key, certificate)
    if public_key in against.revocations.keys:
        raise Misbehaviour(f"the key of device {device!r} was revoked (revocation list {against.revocations.version})")
    if against.now < enrolment.not_before:
        raise Misbehaviour(f"the certificate of device {device!r} counts in {enrolment.not_before - against.now} s")
    if against.now > enrolment.not_after:
        raise Misbehaviour(
            f"the certificate of device {device!r} expired {against.now - enrolment.not_after} s ago",
            hint="fedinfer device renew",
        )
    return enrolment


def prove_possession(identity: IdentityKey, possession: Possession) -> bytes:
    """Prove that a device has the key of its certificate: an Ed25519 signature (RFC 8032) under a label of its own.

    Args:
        identity: the device's key.
        possession: the question and the device's answer to it.

    Returns:
        64 bytes.
    """
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
