"""Messages of a session as an adversary makes and reads them. Only this file knows how messages are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedinfer import wire
from fedinfer.device.session_store import Sessions
from fedinfer.errors import Misbehaviour
from fedinfer.secagg import IdentityKey, Session, Stage, StageRequest
from fedinfer.secagg.boxes import seal_box
from fedinfer.secagg.derivations import Scope, box_key, commitment, sharers_hash, tag, tag_key
from fedinfer.secagg.graph import from_bitmap, to_bitmap
from fedinfer.secagg.key_list import Public, relations_of, write_list
from fedinfer.secagg.keys import KEY_BYTES, Signed, agree, public_of, seal
from fedinfer.secagg.messages import (
    BOX_BYTES,
    TAG_BYTES,
    Acknowledgements,
    Inbox,
    KeysBody,
    KeysRequest,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    SurvivorSets,
    UnmaskRequest,
    key_list_hash,
)
from fedinfer.secagg.states import decode_state

CURVE_PRIME = 2**255 - 19
PAIR_BYTES = BOX_BYTES - 16
"""Two shares in a box."""


@dataclass(frozen=True)
class KeyMessage:
    """What one device published; the private halves where the adversary made it."""

    name: str
    public: Public
    box: bytes = field(default=b"", repr=False)
    signing: IdentityKey | None = None

    @property
    def mask_key(self) -> bytes:
        return self.public.mask_key

    @property
    def box_key(self) -> bytes:
        return self.public.box_key

    @property
    def signature(self) -> bytes:
        return self.public.signature


def keys_request(session: Session) -> StageRequest:
    return StageRequest(Stage.KEYS, wire.encode(KeysRequest(session)))


def read_keys(name: str, answer: bytes) -> KeyMessage:
    signed = wire.decode(Signed, answer)
    body = wire.decode(KeysBody, signed.body)
    return KeyMessage(name, Public(body.public, body.holders, signed.signature))


@dataclass(frozen=True)
class Chosen:
    """What a corrupt device publishes; empty fields are made honestly from `seed` (96 bytes)."""

    seed: bytes
    mask_key: bytes = b""
    box_key: bytes = b""
    signing_key: bytes = b""
    holders: tuple[int, ...] = ()


def forge_keys(identity: IdentityKey, name: str, session: Session, chosen: Chosen) -> KeyMessage:
    """A key message that `identity` really signs."""
    mask, box, signing = (chosen.seed[at : at + KEY_BYTES] for at in (0, KEY_BYTES, 2 * KEY_BYTES))
    key, me = IdentityKey(signing), session.cohort.index(name)
    public = b"".join(
        (
            chosen.mask_key or public_of(mask),
            chosen.box_key or public_of(box),
            chosen.signing_key or key.public_bytes,
            commitment(session.sid, me, name, mask),
        )
    )
    others = [j for j in range(len(session.cohort)) if j != me]
    holders = b"" if session.is_complete else _bitmap(session, chosen.holders or others[: session.degree])
    body = KeysBody(session.sid, public, holders)
    signed = wire.decode(Signed, seal(identity, Stage.KEYS, name, session.sid, body))
    return KeyMessage(name, Public(public, holders, signed.signature), box, key)


def variants(point: bytes) -> dict[str, bytes]:
    """Encodings of public keys that give the secrets of `point`: X25519 ignores the top bit and small torsion."""
    u = int.from_bytes(point, "little") % 2**255 % CURVE_PRIME
    torsion = pow(u, -1, CURVE_PRIME)  # u(P + (0, 0)) = 1 / u(P); clamped scalars are multiples of the cofactor
    same = {
        "equal": point,
        "top bit": point[:-1] + bytes([point[-1] ^ 0x80]),
        "torsion": torsion.to_bytes(32, "little"),
    }
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

    @property
    def scope(self) -> Scope:
        return Scope(self.session.sid, self.digest, self.session.cohort)

    def position(self, name: str) -> int:
        return self.session.cohort.index(name)

    def name(self, position: int) -> str:
        return self.session.cohort[position]

    def holders(self, position: int) -> tuple[int, ...]:
        """Who gets boxes of a member, ascending."""
        return self._related(position, "holders")

    def dealers(self, position: int) -> tuple[int, ...]:
        """Whose boxes a member gets, ascending."""
        return self._related(position, "dealers")

    def partners(self, position: int) -> tuple[int, ...]:
        """With whom a member masks, ascending."""
        return self._related(position, "partners")

    def _related(self, position: int, how: str) -> tuple[int, ...]:
        graph = relations_of(self.session, {j: message.public for j, message in self.messages.items()})
        return tuple(int(j) for j in getattr(graph, how)(position))


def make_list(session: Session, messages: Mapping[int, KeyMessage]) -> Listing:
    listed = write_list(session, _bitmap(session, messages), {j: message.public for j, message in messages.items()})
    return Listing(session, dict(messages), wire.encode(listed), key_list_hash(listed))


def shares_request(listing: Listing) -> StageRequest:
    return StageRequest(Stage.SHARES, listing.common)


def read_boxes(listing: Listing, position: int, answer: bytes) -> dict[int, bytes]:
    """Boxes by holder."""
    body = wire.decode(SharesBody, wire.decode(Signed, answer).body)
    cut = [body.boxes[at : at + BOX_BYTES] for at in range(0, len(body.boxes), BOX_BYTES)]
    return dict(zip(listing.holders(position), cut, strict=True))


def forge_box(listing: Listing, dealer: KeyMessage, holder: int, pair: bytes) -> bytes:
    """A box of a corrupt dealer, with any two shares in it; it opens where the dealer published its own box key."""
    at = listing.position(dealer.name)
    return seal_box(
        box_key(_box_secret(listing, dealer, holder), listing.scope, at, holder), listing.scope, at, holder, pair
    )


def _box_secret(listing: Listing, message: KeyMessage, other: int) -> bytes:
    try:
        return agree(message.box, [listing.messages[other].box_key])[0]
    except Misbehaviour:
        return bytes(KEY_BYTES)


@dataclass(frozen=True)
class Delivery:
    """What a device is told at the masked stage: who shared keys (U), and boxes by dealer."""

    listing: Listing
    shared: frozenset[int]
    boxes: Mapping[int, bytes]


def masked_request(delivery: Delivery, receiver: int) -> StageRequest:
    listing, session = delivery.listing, delivery.listing.session
    dealers = [j for j in listing.dealers(receiver) if j in delivery.shared and j in delivery.boxes]
    common = MaskedRequest(session.sid, listing.digest, _bitmap(session, delivery.shared))
    own = Inbox(b"".join(delivery.boxes[j] for j in dealers))
    return StageRequest(Stage.MASKED, wire.encode(common), wire.encode(own))


def read_tags(delivery: Delivery, position: int, answer: bytes) -> dict[int, bytes]:
    """Acknowledgements of the sender by holder."""
    tags = wire.decode(MaskedBody, wire.decode(Signed, answer).body).tags
    cut = [tags[at : at + TAG_BYTES] for at in range(0, len(tags), TAG_BYTES)]
    holders = [j for j in delivery.listing.holders(position) if j in delivery.shared]
    return dict(zip(holders, cut, strict=True))


def forge_tag(sets: Sets, dealer: KeyMessage, holder: int) -> bytes:
    """A corrupt device acknowledges whatever suits it."""
    at, scope = sets.listing.position(dealer.name), sets.listing.scope
    key = tag_key(_box_secret(sets.listing, dealer, holder), scope, at, holder)
    return tag(key, scope, sets.digest, at, holder)


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

    @property
    def digest(self) -> bytes:
        """Of those who shared: what the signatures are bound to."""
        session = self.listing.session
        return sharers_hash(session.sid, self.listing.digest, _bitmap(session, self.shared))


def survivors_request(sets: Sets) -> StageRequest:
    return StageRequest(Stage.SURVIVORS, wire.encode(sets.body))


def read_signature(answer: bytes) -> bytes:
    return wire.decode(Signed, answer).signature


def forge_signature(sets: Sets, message: KeyMessage, signing: IdentityKey | None = None) -> bytes:
    """A corrupt device signs any sets."""
    key = signing or message.signing
    assert key is not None
    return read_signature(seal(key, Stage.SURVIVORS, message.name, sets.digest, sets.body))


def unmask_request(
    sets: Sets, receiver: int, signatures: Mapping[int, bytes], tags: Mapping[int, bytes]
) -> StageRequest:
    """Open these sets.

    Args:
        sets: what is opened.
        receiver: who is asked.
        signatures: by signer, as many as shall be shown.
        tags: acknowledgements for the receiver by dealer; junk is shown where one is missing.
    """
    session, use = sets.listing.session, sorted(signatures)
    witnesses = b"".join(signatures[j] for j in use)
    common = UnmaskRequest(session.sid, wire.encode(sets.body), _bitmap(session, use), witnesses)
    dealers = [j for j in sets.listing.dealers(receiver) if j in sets.survivors]
    own = Acknowledgements(b"".join(tags.get(j, bytes(TAG_BYTES)) for j in dealers))
    return StageRequest(Stage.UNMASK, wire.encode(common), wire.encode(own))


def witnesses_needed(session: Session) -> int:
    """How many signatures a device wants before it opens anything."""
    return session.quorum


def signing_of(sessions: Sessions, name: str) -> IdentityKey:
    """The session's signing key of an honest device, for tests that must not lean on a count of signatures."""
    state: Any = decode_state(sessions.load(name).state)
    return IdentityKey(getattr(state, "held", state).signing)


def chosen_holders(session: Session, message: KeyMessage) -> tuple[int, ...]:
    """Whom a device drew."""
    holders = from_bitmap(message.public.holders, len(session.cohort))
    return tuple(int(j) for j in holders)


def _bitmap(session: Session, positions: Iterable[int]) -> bytes:
    return to_bitmap(np.asarray(sorted(positions), np.int64), len(session.cohort))
