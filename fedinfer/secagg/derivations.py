"""Every derived key, seed and digest of a session, and what each of them binds: one table, one encoding.

Rules:
* Nothing is derived or hashed without a row of `DERIVATIONS`; the row says which values go in, in which order.
* Protocol version, label and every value are length-prefixed, so no two rows and no two sets of values share an input.
* A device is bound by position AND name; a pair by both devices in a fixed order, which is the direction: dealer before
  holder, or who adds a mask before who subtracts it. Two pairs never share a seed, whatever keys they published.

Sources: HKDF-SHA256, RFC 5869, without salt; HMAC, RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedinfer.types import DeviceId

PROTOCOL = b"fedinfer/secagg/v2"
TAG_BYTES = 16
"""Bytes of an acknowledgement and of a share digest: only a second preimage or a forgery would help a liar."""
_KEY_BYTES = 32


class Label(StrEnum):
    """What a derived value is for."""

    SESSION = "session"
    COMMITMENT = "commitment"
    KEY_LIST = "key list"
    SHARERS = "sharers"
    SELF_MASK = "self mask"
    PAIR_MASK = "pair mask"
    BOX = "box"
    TAG_KEY = "acknowledgement key"
    TAG = "acknowledgement"
    SHARE = "share"
    STATEMENT = "statement"


@dataclass(frozen=True, slots=True)
class Derivation:
    """One row of the table.

    Args:
        label: what is derived.
        function: how.
        secret: input keying material, or what is signed with; empty for a plain digest.
        binds: the values in its input after protocol and label, in this order.
    """

    label: Label
    function: str
    secret: str
    binds: tuple[str, ...]


DERIVATIONS: tuple[Derivation, ...] = (
    Derivation(Label.SESSION, "SHA-256", "", ("session",)),
    Derivation(Label.COMMITMENT, "SHA-256", "", ("session id", "device", "self-mask secret")),
    Derivation(Label.KEY_LIST, "SHA-256", "", ("session id", "key list")),
    Derivation(Label.SHARERS, "SHA-256", "", ("session id", "key list hash", "sharers")),
    Derivation(
        Label.SELF_MASK,
        "HKDF-SHA256",
        "self-mask secret",
        ("session id", "key list hash", "sharers hash", "device"),
    ),
    Derivation(
        Label.PAIR_MASK,
        "HKDF-SHA256",
        "X25519 of mask keys",
        ("session id", "key list hash", "sharers hash", "who adds", "who subtracts"),
    ),
    Derivation(Label.BOX, "HKDF-SHA256", "X25519 of box keys", ("session id", "key list hash", "dealer", "holder")),
    Derivation(Label.TAG_KEY, "HKDF-SHA256", "X25519 of box keys", ("session id", "key list hash", "dealer", "holder")),
    Derivation(
        Label.TAG,
        "HMAC-SHA256, 16 bytes",
        "acknowledgement key",
        ("session id", "key list hash", "sharers hash", "dealer", "holder"),
    ),
    Derivation(
        Label.SHARE,
        "SHA-256, 16 bytes",
        "",
        ("session id", "key list hash", "dealer", "holder", "which secret", "share"),
    ),
    Derivation(Label.STATEMENT, "Ed25519", "signing key", ("stage", "device's name", "context", "SHA-256 of the body")),
)
_COUNTS = {row.label: len(row.binds) for row in DERIVATIONS}
_SIZES = tuple(count.to_bytes(4, "little") for count in range(256))
_HEADS = {
    row.label: b"".join(len(part).to_bytes(4, "little") + part for part in (PROTOCOL, row.label.encode()))
    for row in DERIVATIONS
}


class Secret(StrEnum):
    """The two secrets of a device that are shared."""

    SELF_MASK = "self-mask secret"
    MASK_KEY = "mask key"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a value of one session and key list is bound to.

    Args:
        sid: session id.
        key_list: hash of the key list.
        cohort: names by position.
    """

    sid: bytes
    key_list: bytes
    cohort: tuple[DeviceId, ...]

    def party(self, position: int) -> bytes:
        """The bytes that stand for a device of the cohort in everything derived.

        Args:
            position: in the cohort, 0..len(cohort) - 1.

        Returns:
            As `derivations.party`.
        """
        return party(position, self.cohort[position])


@lru_cache(maxsize=16384)
def party(position: int, name: DeviceId) -> bytes:
    """The bytes that stand for a device: its position, 4 bytes little-endian, then its name.

    Args:
        position: in the cohort, from 0.
        name: of the device at that position.
    """
    return position.to_bytes(4, "little") + name.encode()


def bind(label: Label, *values: bytes) -> bytes:
    """Input of a derivation: protocol, label and values, each with its length in 4 bytes before it.

    The lengths make the encoding injective: no two rows of the table and no two lists of values give the same bytes.

    Args:
        label: row of the table.
        *values: as many as the row's `binds`, in that order.

    Raises:
        ValueError: not as many values as the row of the table has.
    """
    if len(values) != _COUNTS[label]:
        raise ValueError(f"{label} binds {_COUNTS[label]} values, got {len(values)}")
    pieces = [_HEADS[label]]
    for value in values:
        count = len(value)
        pieces += (_SIZES[count] if count < len(_SIZES) else count.to_bytes(4, "little"), value)
    return b"".join(pieces)


def session_id(session: bytes) -> bytes:
    """Id of a session: the hash of all its fields.

    Args:
        session: encoded `Session`.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(bind(Label.SESSION, session)).digest()


def commitment(sid: bytes, position: int, name: DeviceId, secret: bytes) -> bytes:
    """Commitment to a device's self-mask secret; binding, and hiding because the secret is uniform.

    It lets the server tell who lied when a rebuilt secret is wrong: see `recovery`.

    Args:
        sid: session id.
        position: of the device in the cohort.
        name: of the device.
        secret: 32 uniform bytes.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(bind(Label.COMMITMENT, sid, party(position, name), secret)).digest()


def key_list_hash(sid: bytes, key_list: bytes) -> bytes:
    """Hash of an encoded key list; from the shares stage on everything is bound to it.

    Args:
        sid: session id.
        key_list: encoded `KeyList`.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(bind(Label.KEY_LIST, sid, key_list)).digest()


def sharers_hash(sid: bytes, key_list: bytes, sharers: bytes) -> bytes:
    """Hash of the set of devices whose shares arrived.

    Masks are bound to it, so a server that shows different sets to different devices gets masks that do not cancel.

    Args:
        sid: session id.
        key_list: hash of the key list.
        sharers: bitmap over the cohort.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(bind(Label.SHARERS, sid, key_list, sharers)).digest()


def self_mask_seed(secret: bytes, scope: Scope, sharers: bytes, position: int) -> bytes:
    """Seed of a device's own mask (Bonawitz et al. 2017, section 4: double masking).

    Without it, the server could open the pair masks of a device whose vector was only late, and read the vector.

    Args:
        secret: self-mask secret, 32 bytes; shared among the device's holders.
        scope: session and key list.
        sharers: `sharers_hash`.
        position: of the device in the cohort.

    Returns:
        32 bytes for `masks.add_masks`.
    """
    return _hkdf(secret, bind(Label.SELF_MASK, scope.sid, scope.key_list, sharers, scope.party(position)))


def pair_mask_seed(secret: bytes, scope: Scope, sharers: bytes, one: int, other: int) -> bytes:
    """Seed of the mask that the earlier of two devices adds and the later subtracts (Bonawitz et al. 2017, section 4).

    Args:
        secret: X25519 secret of the two mask keys, 32 bytes.
        scope: session and key list.
        sharers: `sharers_hash`.
        one: cohort position of either device.
        other: that of the second one; the order does not matter.

    Returns:
        32 bytes for `masks.add_masks`, the same on both devices.
    """
    adds, subtracts = scope.party(min(one, other)), scope.party(max(one, other))
    return _hkdf(secret, bind(Label.PAIR_MASK, scope.sid, scope.key_list, sharers, adds, subtracts))


def box_key(secret: bytes, scope: Scope, dealer: int, holder: int) -> bytes:
    """AES-256-GCM key of the one box from a dealer to a holder.

    Args:
        secret: X25519 secret of the two box keys, 32 bytes.
        scope: session and key list.
        dealer: cohort position of the sender.
        holder: cohort position of the receiver.

    Returns:
        32 bytes, another key in each direction.
    """
    return _hkdf(secret, box_context(scope, dealer, holder))


def box_context(scope: Scope, dealer: int, holder: int) -> bytes:
    """What the key of a box is bound to; also the associated data of its encryption.

    Args:
        scope: session and key list.
        dealer: cohort position of the sender.
        holder: cohort position of the receiver.
    """
    return bind(Label.BOX, scope.sid, scope.key_list, scope.party(dealer), scope.party(holder))


def tag_key(secret: bytes, scope: Scope, dealer: int, holder: int) -> bytes:
    """Key of the dealer's acknowledgement to a holder.

    Args:
        secret: X25519 secret of the two box keys, 32 bytes.
        scope: session and key list.
        dealer: cohort position of the device that acknowledges.
        holder: cohort position of the device that checks it.

    Returns:
        32 bytes.
    """
    return _hkdf(secret, bind(Label.TAG_KEY, scope.sid, scope.key_list, scope.party(dealer), scope.party(holder)))


def tag(key: bytes, scope: Scope, sharers: bytes, dealer: int, holder: int) -> bytes:
    """Acknowledgement for one holder: this dealer has masked with exactly these sharers.

    A holder opens no self-mask share without it, so a server that shows the dealer other sharers than its holders has
    nothing of it opened (docs/secure-aggregation.md, proof, step 3).

    Args:
        key: from `tag_key`.
        scope: session and key list.
        sharers: `sharers_hash`.
        dealer: cohort position of the device that acknowledges.
        holder: cohort position of the device that checks it.

    Returns:
        16 bytes: HMAC-SHA256, cut.
    """
    message = bind(Label.TAG, scope.sid, scope.key_list, sharers, scope.party(dealer), scope.party(holder))
    return hmac.digest(key, message, "sha256")[:TAG_BYTES]


def share_digest(scope: Scope, dealer: int, holder: int, secret: Secret, share: bytes) -> bytes:
    """Digest of one share; it does not reveal the share, because shares are uniform.

    Args:
        scope: session and key list.
        dealer: cohort position of the device whose secret is shared.
        holder: cohort position of the device that holds the share.
        secret: which of the two secrets.
        share: 34 bytes.

    Returns:
        16 bytes: SHA-256, cut.
    """
    values = (scope.sid, scope.key_list, scope.party(dealer), scope.party(holder), secret.encode(), share)
    return hashlib.sha256(bind(Label.SHARE, *values)).digest()[:TAG_BYTES]


def _hkdf(secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, None, info).derive(secret)
