"""Messages of a session as an adversary makes and reads them. Only this file knows how messages are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedinfer import wire
from fedinfer.device.sessions import Sessions
from fedinfer.secagg import IdentityKey, Session, Stage, StageRequest
from fedinfer.secagg.boxes import pair_context
from fedinfer.secagg.graph import neighbour_table, to_bitmap
from fedinfer.secagg.hypergeometric import share_of
from fedinfer.secagg.keys import KEY_BYTES, Signed, agree, commit, derive, public_of, seal
from fedinfer.secagg.messages import (
    BOX_BYTES,
    Inbox,
    KeyList,
    KeysBody,
    KeysRequest,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    SurvivorSets,
    Witnesses,
    key_list_hash,
)
from fedinfer.secagg.states import decode_state

CURVE_PRIME = 2**255 - 19


def counted_corrupt(n: int, rate: float) -> int:
    """How many corrupt devices an owner with this rate counts on."""
    return share_of(n, rate)


@dataclass(frozen=True)
class KeyMessage:
    """A published set of keys; the private halves where the adversary made it."""

    name: str
    public: bytes
    signature: bytes
    box: bytes = field(default=b"", repr=False)
    signing: IdentityKey | None = None

    @property
    def mask_key(self) -> bytes:
        return self.public[:KEY_BYTES]

    @property
    def box_key(self) -> bytes:
        return self.public[KEY_BYTES : 2 * KEY_BYTES]

    @property
    def signing_key(self) -> bytes:
        return self.public[2 * KEY_BYTES : 3 * KEY_BYTES]


def keys_request(session: Session) -> StageRequest:
    return StageRequest(Stage.KEYS, wire.encode(KeysRequest(session)))


def read_keys(name: str, answer: bytes) -> KeyMessage:
    signed = wire.decode(Signed, answer)
    return KeyMessage(name, wire.decode(KeysBody, signed.body).public, signed.signature)


@dataclass(frozen=True)
class Chosen:
    """What a corrupt device publishes; empty fields are made honestly from `seed` (96 bytes)."""

    seed: bytes
    mask_key: bytes = b""
    box_key: bytes = b""
    signing_key: bytes = b""


def forge_keys(identity: IdentityKey, name: str, session: Session, chosen: Chosen) -> KeyMessage:
    """A key message that `identity` really signs."""
    mask, box, signing = (chosen.seed[at : at + KEY_BYTES] for at in (0, KEY_BYTES, 2 * KEY_BYTES))
    key = IdentityKey(signing)
    public = b"".join(
        (
            chosen.mask_key or public_of(mask),
            chosen.box_key or public_of(box),
            chosen.signing_key or key.public_bytes,
            commit(session.sid, name, mask),
        )
    )
    signed = wire.decode(Signed, seal(identity, Stage.KEYS, name, session.sid, KeysBody(session.sid, public)))
    return KeyMessage(name, public, signed.signature, box, key)


def variants(point: bytes) -> dict[str, bytes]:
    """Encodings of public keys that give the secrets of `point`: X25519 ignores the top bit and small torsion."""
    u = int.from_bytes(point, "little") % 2**255 % CURVE_PRIME
    torsion = pow(u, -1, CURVE_PRIME)  # u(P + (0, 0)) = 1 / u(P); clamped scalars are multiples of the cofactor
    same = {"equal": point, "top bit": point[:-1] + bytes([point[-1] ^ 0x80]), "torsion": torsion.to_bytes(32, "little")}
    if u < 2**255 - CURVE_PRIME:
        same["not reduced"] = (u + CURVE_PRIME).to_bytes(32, "little")
    return same


@dataclass(frozen=True)
class Listing:
    """A key list that the server shows, with all that follows from it."""

    session: Session
    messages: Mapping[int, KeyMessage]
    common: bytes
    digest: bytes

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted(self.messages))

    def position(self, name: str) -> int:
        return self.session.cohort.index(name)

    def name(self, position: int) -> str:
        return self.session.cohort[position]

    def partners(self, position: int) -> tuple[int, ...]:
        """With whom a member masks."""
        members = np.array(self.members, np.int64)
        table = neighbour_table(members, self.session.degree, self.digest)
        return tuple(int(j) for j in table[position])

    def holders(self, position: int) -> tuple[int, ...]:
        """Who gets boxes of a member, ascending."""
        return self.partners(position)

    def dealers(self, position: int) -> tuple[int, ...]:
        """Whose boxes a member gets, ascending."""
        return self.partners(position)

    def witnesses(self, position: int) -> tuple[int, ...]:
        """Whose signatures count for a member."""
        near = self.partners(position)
        return tuple(sorted((*near, position))) if self.session.is_complete else near


def make_list(session: Session, messages: Mapping[int, KeyMessage]) -> Listing:
    ordered = dict(sorted(messages.items()))
    listed = KeyList(
        session.sid,
        _bitmap(session, ordered),
        b"".join(message.public for message in ordered.values()),
        b"".join(message.signature for message in ordered.values()),
    )
    return Listing(session, ordered, wire.encode(listed), key_list_hash(listed))


def shares_request(listing: Listing) -> StageRequest:
    return StageRequest(Stage.SHARES, listing.common)


def read_boxes(listing: Listing, position: int, answer: bytes) -> dict[int, bytes]:
    """Boxes by holder."""
    body = wire.decode(SharesBody, wire.decode(Signed, answer).body)
    cut = [body.boxes[at : at + BOX_BYTES] for at in range(0, len(body.boxes), BOX_BYTES)]
    return dict(zip(listing.holders(position), cut, strict=True))


def forge_box(listing: Listing, dealer: KeyMessage, holder: int, pair: bytes) -> bytes:
    """A box of a corrupt dealer that opens (where it has the private half), with any two shares in it."""
    at = listing.position(dealer.name)
    context = pair_context(listing.digest, at, holder)
    key = derive(agree(dealer.box, [listing.messages[holder].box_key])[0], "box", context)
    return AESGCM(key).encrypt(bytes(12), pair[: BOX_BYTES - 16], listing.session.sid + context)


@dataclass(frozen=True)
class Delivery:
    """What a device is told at the masked stage: who shared keys (U), and boxes by dealer."""

    listing: Listing
    shared: frozenset[int]
    boxes: Mapping[int, bytes]


def masked_request(delivery: Delivery, receiver: int) -> StageRequest:
    listing = delivery.listing
    dealers = sorted(set(listing.dealers(receiver)) & delivery.shared & set(delivery.boxes))
    inbox = Inbox(_bitmap(listing.session, dealers), b"".join(delivery.boxes[j] for j in dealers))
    common = wire.encode(MaskedRequest(listing.session.sid, listing.digest))
    return StageRequest(Stage.MASKED, common, wire.encode(inbox))


def read_vector(answer: bytes) -> bytes:
    return wire.decode(MaskedBody, wire.decode(Signed, answer).body).vector


@dataclass(frozen=True)
class Sets:
    """One statement about who survived."""

    listing: Listing
    shared: frozenset[int]
    survivors: frozenset[int]
    dropped: frozenset[int]

    @property
    def body(self) -> SurvivorSets:
        session = self.listing.session
        return SurvivorSets(
            session.sid, self.listing.digest, _bitmap(session, self.survivors), _bitmap(session, self.dropped)
        )


def survivors_request(sets: Sets) -> StageRequest:
    return StageRequest(Stage.SURVIVORS, wire.encode(sets.body))


def read_signature(answer: bytes) -> bytes:
    return wire.decode(Signed, answer).signature


def forge_signature(sets: Sets, message: KeyMessage, signing: IdentityKey | None = None) -> bytes:
    """A corrupt device signs any sets."""
    key = signing or message.signing
    assert key is not None
    return read_signature(seal(key, Stage.SURVIVORS, message.name, sets.listing.digest, sets.body))


def unmask_request(
    sets: Sets, receiver: int, signatures: Mapping[int, bytes], tags: Mapping[int, bytes] | None = None
) -> StageRequest:
    """All signatures that count for the receiver."""
    use = sorted(set(signatures) & set(sets.listing.witnesses(receiver)))
    own = Witnesses(_bitmap(sets.listing.session, use), b"".join(signatures[j] for j in use))
    return StageRequest(Stage.UNMASK, wire.encode(sets.body), wire.encode(own))


def witnesses_needed(listing: Listing) -> int:
    """How many signatures a device wants before it opens anything."""
    return listing.session.threshold


def signing_of(sessions: Sessions, name: str) -> IdentityKey:
    """The session's signing key of an honest device, for tests that must not lean on a count of signatures."""
    state: Any = decode_state(sessions.load(name).state)
    return IdentityKey(getattr(state, "held", state).signing)


def _bitmap(session: Session, positions: Iterable[int]) -> bytes:
    return to_bitmap(np.asarray(sorted(positions), np.int64), len(session.cohort))
