"""Which device keys count no more: a list that the enrolment authority signs, with a number and an end.

Rules:
* A list revokes keys, not certificates: a later certificate for a stolen key is worth nothing either.
* A list ends. Whoever carries lists can hold back a newer one until then, and not longer.
* Who has seen a list takes no older one, and no other one of the same number.
* The moment at which a list was issued is signed, so it cannot be earlier than that now, whatever a clock says.

Source: the fields are those of a CRL (RFC 5280, section 5: issuer, thisUpdate, nextUpdate, CRL number).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.messages import MOST_LIST_BYTES
from fedinfer.secagg.authority import Authority, verify_by_authority
from fedinfer.wire import decode, encode

_LABEL = b"fedinfer/revocations/v1\0"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What the authority signs.

    Args:
        version: grows with every list of this authority, from 1.
        issued, expires: seconds since 1970, UTC.
        keys: revoked public keys of devices, 32 bytes each, sorted.
    """

    version: int
    issued: int
    expires: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignedList:
    """A list and the authority's signature over it.

    Args:
        body: the list.
        signature: 64 bytes (Ed25519), or ECDSA in DER.
    """

    body: RevocationList
    signature: bytes


def sign_revocations(authority: Authority, revocations: RevocationList) -> bytes:
    """Sign a list of revoked keys.

    Args:
        authority: whose key signs.
        revocations: the new list; its number is above every earlier one's.

    Returns:
        An encoded `SignedList`.

    Raises:
        ConfigError: the authority's key cannot sign.
    """
    return encode(SignedList(revocations, authority.sign(_LABEL + encode(revocations))))


def read_revocations(authority: bytes, data: bytes) -> RevocationList:
    """Read a signed list, whatever its age.

    Args:
        authority: public key of the authority, pinned; 32 or 65 bytes.
        data: encoded `SignedList`.

    Raises:
        Misbehaviour: there is none, it is malformed, or the authority did not sign it.
    """
    if not data:
        raise Misbehaviour("there is no revocation list", hint="the authority signs one: `fedinfer server revoke`")
    try:
        signed = decode(SignedList, data, limit_bytes=MOST_LIST_BYTES)
    except BadMessage as error:
        raise Misbehaviour(f"the revocation list cannot be read: {error}") from error
    if not verify_by_authority(authority, _LABEL + encode(signed.body), signed.signature):
        raise Misbehaviour("the enrolment authority did not sign the revocation list")
    return signed.body


def check_fresh(revocations: RevocationList, now: int) -> None:
    """Refuse a list that has ended.

    Args:
        revocations: verified.
        now: seconds since 1970.

    Raises:
        Misbehaviour: says since when, in seconds.
    """
    if now >= revocations.expires:
        raise Misbehaviour(
            f"revocation list {revocations.version} ended {now - revocations.expires} s ago, a newer one is held back",
            hint="the authority signs it again: `fedinfer server revoke` without a name",
        )


def check_not_older(revocations: RevocationList, seen: RevocationList | None) -> None:
    """Refuse a list that unsays what an earlier one said.

    Args:
        revocations: verified.
        seen: the newest list that was believed before, if any.

    Raises:
        Misbehaviour: an older one, or another one with the same number.
    """
    if seen is None or revocations == seen or revocations.version > seen.version:
        return
    if revocations.version == seen.version:
        raise Misbehaviour(f"two revocation lists have the number {seen.version}")
    raise Misbehaviour(f"revocation list {revocations.version} is older than {seen.version}, which was seen before")


def seconds_of(now: datetime) -> int:
    """Whole seconds since 1970.

    Args:
        now: aware time.
    """
    return int(now.timestamp())
