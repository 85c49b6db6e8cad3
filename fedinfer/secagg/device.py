"""The device's side of a session: one function per question, `(state, question) -> (new state, answer)`.

What a device refuses, whatever the server says:
* a key list of another session, with too few devices, without its own keys as it sent them, or with a neighbour
  whose keys are not signed by the pinned identity; it computes its neighbours itself;
* to mask with fewer boxes than shares are needed;
* survivor sets that overlap, are too small, leave out or invent a neighbour, or do not hold the device itself;
* to open masks without `threshold` signatures of its share holders over the same sets, for other sets than it signed,
  or twice.

Source: Bell et al. 2020 (CCS), protocols 2 and 3; survivor signatures as in Bonawitz et al. 2017 (CCS), section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from fedinfer import wire
from fedinfer.errors import BadMessage, Misbehaviour, TooFewSurvivors
from fedinfer.ports import Entropy
from fedinfer.secagg import shamir
from fedinfer.secagg.boxes import all_digests, open_boxes, seal_boxes
from fedinfer.secagg.graph import IntArray, from_bitmap, own_neighbours, to_bitmap
from fedinfer.secagg.keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    IdentityKey,
    Signed,
    Stage,
    agree,
    commit,
    public_of,
    seal,
    statement_bytes,
    verify_signature,
)
from fedinfer.secagg.masks import add_masks, pair_mask_seed, ring_dtype, self_mask_seed
from fedinfer.secagg.messages import (
    PUBLIC_BYTES,
    Inbox,
    KeyList,
    KeysBody,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    SurvivorSets,
    UnmaskBody,
    Witnesses,
    key_list_hash,
    open_body,
    request_limit,
    split,
)
from fedinfer.secagg.packing import pack
from fedinfer.secagg.parameters import Session
from fedinfer.secagg.states import (
    Finished,
    Place,
    SentKeys,
    SentMasked,
    SentShares,
    SignedSurvivors,
    decode_state,
    encode_state,
)
from fedinfer.types import DeviceId, RingVector

__all__ = [
    "answer_keys",
    "answer_masked",
    "answer_shares",
    "answer_survivors",
    "answer_unmask",
    "decode_state",
    "encode_state",
]

S = TypeVar("S")


def answer_keys(session: Session, identity: IdentityKey, device: DeviceId, entropy: Entropy) -> tuple[SentKeys, bytes]:
    """Publish fresh keys and a commitment, signed by the identity.

    The caller has checked the proposal (`check_session`) and that the session is new (`refuse_second_use`).

    Args:
        session: the proposal.
        identity: long-term key of this device.
        device: its name; must be in the cohort.
        entropy: 128 bytes are taken.

    Raises:
        Misbehaviour: this device is not in the cohort.
    """
    if device not in session.cohort:
        raise Misbehaviour(f"{device} is not in the cohort of {len(session.cohort)} devices")
    seed, mask, box, signing = (entropy.take(KEY_BYTES) for _ in range(4))
    sid = session.sid
    public = public_of(mask) + public_of(box) + IdentityKey(signing).public_bytes + commit(sid, device, seed)
    answer = seal(identity, Stage.KEYS, device, sid, KeysBody(sid, public))
    signature = wire.decode(Signed, answer).signature
    return SentKeys(session, device, public, signature, seed, mask, box, signing), answer


def answer_shares(
    state: SentKeys, common: bytes, own: bytes, pinned: Mapping[DeviceId, bytes], entropy: Entropy
) -> tuple[SentShares, bytes]:
    """Check the key list, compute the neighbours, deal encrypted shares of both secrets to them.

    Args:
        state: from `answer_keys`.
        common: encoded `KeyList`.
        own: empty.
        pinned: enrolled Ed25519 public keys, known to this device beforehand.
        entropy: 32 bytes are taken.

    Raises:
        BadMessage: undecodable, or of another session.
        TooFewSurvivors: fewer devices sent keys than the session promises.
        Misbehaviour: the list is not what an honest server would show.
    """
    _expect(state, SentKeys)
    _expect_nothing(own, Stage.SHARES)
    listed = open_body(KeyList, common, request_limit(state.session), state.session.sid)
    members, publics = _check_list(state, listed, pinned)
    place = _find_place(state, listed, members, publics)
    _check_neighbours(state.session, listed, place.near, pinned)
    secret = state.self_seed + state.mask_private
    points = np.asarray(place.holders, np.int64) + 1
    dealt = shamir.share(secret, points, state.session.threshold, entropy.take(KEY_BYTES))
    pairs = np.concatenate([shamir.pack(dealt[:, : shamir.LIMBS]), shamir.pack(dealt[:, shamir.LIMBS :])], axis=1)
    rows = dict(zip(place.holders, (row.tobytes() for row in pairs), strict=True))
    boxes, open_keys = seal_boxes(state.box_private, place, publics, rows)
    near_masks = [publics[j][:KEY_BYTES] for j in place.near]
    seeds = [pair_mask_seed(secret, place.key_list) for secret in agree(state.mask_private, near_masks)]
    own_share = rows.get(place.position, b"")[: shamir.SHARE_BYTES]
    body = SharesBody(listed.sid, boxes, all_digests(place, rows))
    new = SentShares(place, state.self_seed, state.signing, b"".join(seeds), open_keys, own_share)
    return new, _seal(state.signing, Stage.SHARES, place, body)


def answer_masked(state: SentShares, common: bytes, own: bytes, vector: RingVector) -> tuple[SentMasked, bytes]:
    """Open the neighbours' boxes, mask the vector, pack it.

    Args:
        state: from `answer_shares`.
        common: encoded `MaskedRequest`.
        own: encoded `Inbox`.
        vector: uint32, shape (dimension,), values below 2^bits.

    Raises:
        BadMessage: undecodable, of another session or key list, or the vector does not fit the session.
        Misbehaviour: boxes of devices that are not neighbours.
        TooFewSurvivors: fewer shares arrived than are needed to rebuild a secret.
    """
    _expect(state, SentShares)
    place = state.place
    session = place.session
    request = open_body(MaskedRequest, common, request_limit(session), session.sid)
    _check_key_list(place, request.key_list)
    inbox = wire.decode(Inbox, own, limit_bytes=request_limit(session))
    dealers = from_bitmap(inbox.dealers, len(session.cohort))
    if not set(dealers.tolist()) <= set(place.near):
        raise Misbehaviour("boxes from devices that are not neighbours")
    _check_enough(place, len(dealers), "neighbours shared keys")
    opened = open_boxes(state, dealers, inbox.boxes)
    _check_enough(place, len(opened), "boxes opened")
    masked = _mask(state, dealers, vector)
    new = SentMasked(
        place, inbox.dealers, _bitmap(place, opened), b"".join(opened.values()), state.own_share, state.signing
    )
    unopened = _bitmap(place, [j for j in dealers.tolist() if j not in opened])
    return new, _seal(state.signing, Stage.MASKED, place, MaskedBody(session.sid, masked, unopened))


def answer_survivors(state: SentMasked, common: bytes, own: bytes) -> tuple[SignedSurvivors, bytes]:
    """Check the survivor sets and sign them; no other sets will be answered in this session.

    Args:
        state: from `answer_masked`.
        common: encoded `SurvivorSets`.
        own: empty.

    Raises:
        BadMessage: undecodable, or of another session or key list.
        TooFewSurvivors: fewer survivors than the session promises.
        Misbehaviour: the sets contradict each other or what this device has seen.
    """
    _expect(state, SentMasked)
    _expect_nothing(own, Stage.SURVIVORS)
    sets = open_body(SurvivorSets, common, request_limit(state.place.session), state.place.session.sid)
    _check_sets(state, sets)
    return SignedSurvivors(state, common), _seal(state.signing, Stage.SURVIVORS, state.place, sets)


def answer_unmask(state: SignedSurvivors, common: bytes, own: bytes) -> tuple[Finished, bytes]:
    """Reveal one share per neighbour: of the self-mask seed of a survivor, of the mask key of a dropped one.

    Args:
        state: from `answer_survivors`.
        common: the same survivor sets, encoded.
        own: encoded `Witnesses`.

    Raises:
        BadMessage: undecodable, or of another session.
        Misbehaviour: other sets than signed, too few signatures, or asked a second time.
    """
    _expect(state, SignedSurvivors)
    held, place = state.held, state.held.place
    sets = open_body(SurvivorSets, common, request_limit(place.session), place.session.sid)
    _check_sets(held, sets)
    if common != state.sets:
        raise Misbehaviour("unmask: other survivor sets than this device signed")
    _check_witnesses(place, common, wire.decode(Witnesses, own, limit_bytes=request_limit(place.session)))
    shares = _reveal(held, sets)
    body = UnmaskBody(sets.sid, _bitmap(place, shares), b"".join(shares[j] for j in sorted(shares)))
    return Finished(sets.sid, place.device), _seal(held.signing, Stage.UNMASK, place, body)


def _expect(state: Any, kind: type[S]) -> None:
    """The state machine: a question that is out of order, or comes again, meets another state."""
    if not isinstance(state, kind):
        raise Misbehaviour(f"asked for a stage that needs {kind.__name__}, this device is at {type(state).__name__}")


def _expect_nothing(own: bytes, stage: Stage) -> None:
    if own:
        raise BadMessage(f"{stage}: {len(own)} bytes where none belong")


def _seal(signing: bytes, stage: Stage, place: Place, body: Any) -> bytes:
    return seal(IdentityKey(signing), stage, place.device, place.key_list, body)


def _bitmap(place: Place, positions: Any) -> bytes:
    return to_bitmap(np.asarray(sorted(positions), np.int64), len(place.session.cohort))


def _check_list(
    state: SentKeys, listed: KeyList, pinned: Mapping[DeviceId, bytes]
) -> tuple[IntArray, dict[int, bytes]]:
    session = state.session
    members = from_bitmap(listed.members, len(session.cohort))
    publics = split(listed.publics, PUBLIC_BYTES, members.size, "published keys")
    signatures = split(listed.signatures, SIGNATURE_BYTES, members.size, "signatures")
    if members.size < session.least:
        raise TooFewSurvivors(f"{members.size} devices sent keys, {session.least} are needed")
    unknown = [session.cohort[j] for j in members.tolist() if session.cohort[j] not in pinned]
    if unknown:
        raise Misbehaviour(f"{len(unknown)} devices of the key list are not enrolled, first {unknown[0]}")
    keyed = dict(zip(members.tolist(), zip(publics, signatures, strict=True), strict=True))
    if keyed.get(session.cohort.index(state.device)) != (state.public, state.signature):
        raise Misbehaviour(f"the key list does not hold the keys that {state.device} sent")
    return members, {j: public for j, (public, _) in keyed.items()}


def _find_place(state: SentKeys, listed: KeyList, members: IntArray, publics: dict[int, bytes]) -> Place:
    session, me = state.session, state.session.cohort.index(state.device)
    digest = key_list_hash(listed)
    near = tuple(own_neighbours(me, members, session.degree, digest).tolist())
    holders = sorted((*near, me)) if session.is_complete else near
    witness_keys = b"".join(publics[j][2 * KEY_BYTES : 3 * KEY_BYTES] for j in holders)
    return Place(session, state.device, digest, listed.members, near, witness_keys)


def _check_neighbours(
    session: Session, listed: KeyList, near: tuple[int, ...], pinned: Mapping[DeviceId, bytes]
) -> None:
    """The heart of authentication: neighbours' keys against identities that the server cannot choose."""
    members = from_bitmap(listed.members, len(session.cohort))
    for j, at in zip(near, np.searchsorted(members, near).tolist(), strict=True):
        public = listed.publics[at * PUBLIC_BYTES : (at + 1) * PUBLIC_BYTES]
        signature = listed.signatures[at * SIGNATURE_BYTES : (at + 1) * SIGNATURE_BYTES]
        body = wire.encode(KeysBody(listed.sid, public))
        name = session.cohort[j]
        if not verify_signature(pinned[name], statement_bytes(Stage.KEYS, name, listed.sid, body), signature):
            raise Misbehaviour(f"the keys shown for {name} are not signed by its enrolled identity")


def _check_key_list(place: Place, key_list: bytes) -> None:
    if key_list != place.key_list:
        raise Misbehaviour("the server speaks of another key list than it showed this device")


def _check_enough(place: Place, neighbours: int, what: str) -> None:
    shares, needed = neighbours + place.session.is_complete, place.session.threshold
    if shares < needed:
        raise TooFewSurvivors(f"{neighbours} {what}: {shares} shares, {needed} are needed to open a mask")


def _mask(state: SentShares, dealers: IntArray, vector: RingVector) -> bytes:
    """Vector + own mask + masks with later neighbours - masks with earlier ones, mod 2^bits (Bonawitz 2017, 4.1)."""
    session, me = state.place.session, state.place.position
    if vector.dtype != np.uint32 or vector.shape != (session.dimension,):
        raise BadMessage(f"vector of {vector.dtype} {vector.shape}, expected uint32 ({session.dimension},)")
    top = int(vector.max())
    if top >> session.bits:
        raise BadMessage(f"vector has value {top}, the ring has {session.bits} bits")
    near = state.place.near
    seeds = dict(zip(near, split(state.mask_seeds, KEY_BYTES, len(near), "mask seeds"), strict=True))
    plus = [seeds[j] for j in dealers.tolist() if j > me]
    minus = [seeds[j] for j in dealers.tolist() if j < me]
    masked = vector.astype(ring_dtype(session.bits))
    add_masks(masked, [self_mask_seed(state.self_seed, state.place.key_list), *plus], minus)
    masked &= masked.dtype.type((1 << session.bits) - 1)
    return pack(masked, session.bits)


def _check_sets(state: SentMasked, sets: SurvivorSets) -> None:
    place, session = state.place, state.place.session
    n = len(session.cohort)
    _check_key_list(place, sets.key_list)
    survivors, dropped = (set(from_bitmap(data, n).tolist()) for data in (sets.survivors, sets.dropped))
    both = sorted(session.cohort[j] for j in survivors & dropped)
    if both:
        raise Misbehaviour(f"{both[0]} is listed as survivor and as dropped: both of its masks would open")
    if len(survivors) < session.least:
        raise TooFewSurvivors(f"{len(survivors)} survivors, {session.least} are needed")
    if place.position not in survivors:
        raise Misbehaviour(f"{place.device} sent its masked vector but is not among the survivors")
    if not survivors | dropped <= set(from_bitmap(place.members, n).tolist()):
        raise Misbehaviour("survivors or dropped devices that never sent keys")
    delivered = set(from_bitmap(state.delivered, n).tolist())
    if (survivors | dropped) & set(place.near) != delivered:
        raise Misbehaviour("the neighbours in the sets are not those whose boxes were delivered")


def _check_witnesses(place: Place, sets: bytes, witnesses: Witnesses) -> None:
    signers = from_bitmap(witnesses.signers, len(place.session.cohort))
    signatures = split(witnesses.signatures, SIGNATURE_BYTES, signers.size, "witness signatures")
    keys = dict(zip(place.holders, split(place.witness_keys, KEY_BYTES, len(place.holders), "keys"), strict=True))
    valid = 0
    for j, signature in zip(signers.tolist(), signatures, strict=True):
        message = statement_bytes(Stage.SURVIVORS, place.session.cohort[j], place.key_list, sets)
        valid += j in keys and verify_signature(keys[j], message, signature)
        if valid == place.session.threshold:
            return
    raise Misbehaviour(f"{valid} share holders signed these survivor sets, {place.session.threshold} are needed")


def _reveal(held: SentMasked, sets: SurvivorSets) -> dict[int, bytes]:
    place, n = held.place, len(held.place.session.cohort)
    survivors = set(from_bitmap(sets.survivors, n).tolist())
    opened = from_bitmap(held.opened, n)
    pairs = split(held.pairs, 2 * shamir.SHARE_BYTES, opened.size, "pairs")
    size = shamir.SHARE_BYTES
    shares = {j: pair[:size] if j in survivors else pair[size:] for j, pair in zip(opened.tolist(), pairs, strict=True)}
    if held.own_share:
        shares[place.position] = held.own_share
    return shares
