"""The device's side of a session: one function per question, `(state, question) -> (new state, answer)`.

What a device refuses, whatever the server says:
* a key list that `key_list` refuses, or one in which too few of the holders that it chose are left;
* sharers that are too few, that leave out itself or too many of its holders, or that never sent keys; it masks with
  exactly the sharers that it is shown, and acknowledges to its holders which they were;
* survivor sets that overlap, are too small, do not hold the device itself, or are together not exactly the sharers;
* to open masks without a quorum of signatures over the same sets, for other sets than it signed, or twice;
* to open the own mask of a device that has not acknowledged the same key list and sharers.

Source: Bell et al. 2020 (CCS), protocol 3 and section 4 (devices choose); survivor signatures as in Bonawitz et al.
2017 (CCS), section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from fedinfer import wire
from fedinfer.errors import BadMessage, Misbehaviour, TooFewSurvivors
from fedinfer.ports import Entropy
from fedinfer.secagg import shamir
from fedinfer.secagg.boxes import open_boxes, seal_box, share_digests
from fedinfer.secagg.derivations import (
    box_key,
    commitment,
    pair_mask_seed,
    self_mask_seed,
    sharers_hash,
    tag,
    tag_key,
)
from fedinfer.secagg.graph import draw_holders, from_bitmap, to_bitmap
from fedinfer.secagg.key_list import check_list, check_secrets, facts_of
from fedinfer.secagg.keys import (
    KEY_BYTES,
    IdentityKey,
    KeyAgreement,
    Signed,
    Stage,
    agree,
    public_of,
    seal,
)
from fedinfer.secagg.masks import add_masks, ring_dtype
from fedinfer.secagg.messages import (
    BOX_BYTES,
    Acknowledgements,
    Inbox,
    KeyList,
    KeysBody,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    SurvivorSets,
    UnmaskBody,
    UnmaskRequest,
    open_body,
    request_limit,
    split,
)
from fedinfer.secagg.opening import check_key_list, check_quorum, check_sets, keys_by, reveal
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
    """Draw holders; publish them, fresh keys and a commitment, signed by the identity.

    The caller has checked the proposal (`check_session`) and that the session is new (`refuse_second_use`).

    Args:
        session: the proposal.
        identity: long-term key of this device.
        device: its name; must be in the cohort.
        entropy: 160 bytes are taken.

    Raises:
        Misbehaviour: this device is not in the cohort.
    """
    if device not in session.cohort:
        raise Misbehaviour(f"{device} is not in the cohort of {len(session.cohort)} devices")
    secret, mask, box, signing, seed = (entropy.take(KEY_BYTES) for _ in range(5))
    sid, me = session.sid, session.cohort.index(device)
    holders = draw_holders(me, len(session.cohort), session.degree, seed)
    # Fresh keys for every session: a key that leaks later opens no earlier sum.
    committed = commitment(sid, me, device, secret)
    public = public_of(mask) + public_of(box) + IdentityKey(signing).public_bytes + committed
    answer = seal(identity, Stage.KEYS, device, sid, KeysBody(sid, public, holders))
    signature = wire.decode(Signed, answer).signature
    return SentKeys(session, device, public, holders, signature, secret, mask, box, signing), answer


def answer_shares(
    state: SentKeys,
    common: bytes,
    own: bytes,
    pinned: Mapping[DeviceId, bytes],
    entropy: Entropy,
    agreement: KeyAgreement = agree,
) -> tuple[SentShares, bytes]:
    """Check the key list, then share both secrets, encrypted, among the holders that this device drew.

    Args:
        state: from `answer_keys`.
        common: encoded `KeyList`.
        own: empty.
        pinned: enrolled Ed25519 public keys, known to this device beforehand.
        entropy: 32 bytes are taken.
        agreement: computes X25519 secrets; devices of one process may share the work.

    Raises:
        BadMessage: undecodable, or of another session.
        TooFewSurvivors: fewer devices, or fewer of the own holders, sent keys than are needed.
        Misbehaviour: the list is not what an honest server would show.
    """
    _expect(state, SentKeys)
    _expect_nothing(own, Stage.SHARES)
    listed = open_body(KeyList, common, request_limit(state.session), state.session.sid)
    keyed = check_list(state, listed, pinned)
    place = _find_place(state, listed)
    rows = _deal(state, place, entropy.take(KEY_BYTES))
    keys = {j: keyed[j] for j in place.partners}
    mask_secrets = _agree(place, agreement(state.mask_private, [key.mask_key for key in keys.values()]), "mask key")
    box_secrets = _agree(place, agreement(state.box_private, [key.box_key for key in keys.values()]), "box key")
    me, scope = place.position, place.scope
    # Both directions of a pair have keys of their own, so a box sent back to its dealer does not open.
    boxes = (seal_box(box_key(box_secrets[j], scope, me, j), scope, me, j, rows[j]) for j in place.holders)
    body = SharesBody(listed.sid, b"".join(boxes), share_digests(scope, me, rows))
    new = SentShares(
        place,
        state.self_secret,
        state.signing,
        b"".join(mask_secrets.values()),
        b"".join(box_key(box_secrets[j], scope, j, me) for j in place.dealers),
        b"".join(tag_key(box_secrets[j], scope, me, j) for j in place.holders),
        b"".join(tag_key(box_secrets[j], scope, j, me) for j in place.dealers),
        rows.get(me, b"")[: shamir.SHARE_BYTES],
    )
    return new, _seal(state.signing, Stage.SHARES, place, place.key_list, body)


def answer_masked(state: SentShares, common: bytes, own: bytes, vector: RingVector) -> tuple[SentMasked, bytes]:
    """Open the dealers' boxes, mask the vector with all partners among the sharers, acknowledge the sharers, pack.

    Args:
        state: from `answer_shares`.
        common: encoded `MaskedRequest`.
        own: encoded `Inbox`.
        vector: uint32, shape (dimension,), values below 2^bits.

    Raises:
        BadMessage: undecodable, of another session or key list, or the vector does not fit the session.
        Misbehaviour: sharers that never sent keys, or without this device.
        TooFewSurvivors: fewer sharers, or fewer of the own holders among them, than are needed.
    """
    _expect(state, SentShares)
    place, session = state.place, state.place.session
    request = open_body(MaskedRequest, common, request_limit(session), session.sid)
    sharers = _check_sharers(place, request)
    digest = sharers_hash(session.sid, place.key_list, request.sharers)
    boxes = wire.decode(Inbox, own, limit_bytes=request_limit(session)).boxes
    opened, unopened = _open(state, sharers, boxes)
    masked = _mask(state, sharers, digest, vector)
    tags = _acknowledge(state, sharers, digest)
    new = SentMasked(
        place,
        request.sharers,
        _bitmap(place, opened),
        b"".join(opened.values()),
        state.dealer_tags,
        state.own_share,
        state.signing,
    )
    body = MaskedBody(session.sid, masked, _bitmap(place, unopened), tags)
    return new, _seal(state.signing, Stage.MASKED, place, digest, body)


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
    check_sets(state, sets)
    return SignedSurvivors(state, common), _seal(state.signing, Stage.SURVIVORS, state.place, state.digest, sets)


def answer_unmask(state: SignedSurvivors, common: bytes, own: bytes) -> tuple[Finished, bytes]:
    """Reveal one share per dealer: of the self-mask secret of a survivor, of the mask key of a dropped one.

    Args:
        state: from `answer_survivors`.
        common: encoded `UnmaskRequest`, with the same survivor sets.
        own: encoded `Acknowledgements`.

    Raises:
        BadMessage: undecodable, or of another session.
        Misbehaviour: other sets than signed, too few signatures, or asked a second time.
    """
    _expect(state, SignedSurvivors)
    held, place, limit = state.held, state.held.place, request_limit(state.held.place.session)
    request = open_body(UnmaskRequest, common, limit, place.session.sid)
    sets = open_body(SurvivorSets, request.sets, limit, place.session.sid)
    check_sets(held, sets)
    # One pair of sets per session: with two, the server could have both masks of one device opened.
    if request.sets != state.sets:
        raise Misbehaviour("unmask: other survivor sets than this device signed")
    check_quorum(held, request)
    shares, withheld = reveal(held, sets, wire.decode(Acknowledgements, own, limit_bytes=limit).tags)
    rows = b"".join(shares[j] for j in sorted(shares))
    body = UnmaskBody(sets.sid, _bitmap(place, shares), rows, _bitmap(place, withheld))
    return Finished(sets.sid, place.device), _seal(held.signing, Stage.UNMASK, place, held.digest, body)


def _expect(state: Any, kind: type[S]) -> None:
    """The state machine: a question that is out of order, or comes again, meets another state."""
    if not isinstance(state, kind):
        raise Misbehaviour(f"asked for a stage that needs {kind.__name__}, this device is at {type(state).__name__}")


def _expect_nothing(own: bytes, stage: Stage) -> None:
    if own:
        raise BadMessage(f"{stage}: {len(own)} bytes where none belong")


def _seal(signing: bytes, stage: Stage, place: Place, context: bytes, body: Any) -> bytes:
    return seal(IdentityKey(signing), stage, place.device, context, body)


def _bitmap(place: Place, positions: Iterable[int]) -> bytes:
    return to_bitmap(np.asarray(sorted(positions), np.int64), len(place.session.cohort))


def _find_place(state: SentKeys, listed: KeyList) -> Place:
    session, me = state.session, state.session.cohort.index(state.device)
    facts = facts_of(session, listed)
    holders, dealers = (tuple(part.tolist()) for part in (facts.graph.holders(me), facts.graph.dealers(me)))
    place = Place(session, state.device, facts.hashed, listed.members, holders, dealers, facts.signing_keys)
    _check_enough(place, set(facts.graph.members.tolist()), "sent keys")
    return place


def _check_enough(place: Place, present: set[int], what: str) -> None:
    left, needed = sum(j in present for j in place.all_holders), place.session.threshold
    if left < needed:
        raise TooFewSurvivors(f"{left} of {len(place.all_holders)} share holders {what}, {needed} open a mask")


def _deal(state: SentKeys, place: Place, seed: bytes) -> dict[int, bytes]:
    """Pairs of shares by holder."""
    # Position j gets the point j + 1: the point 0 would be the secret itself.
    points = np.asarray(place.all_holders, np.int64) + 1
    shares = shamir.share(state.self_secret + state.mask_private, points, place.session.threshold, seed)
    pairs = np.concatenate([shamir.pack(shares[:, : shamir.LIMBS]), shamir.pack(shares[:, shamir.LIMBS :])], axis=1)
    return dict(zip(place.all_holders, (row.tobytes() for row in pairs), strict=True))


def _agree(place: Place, secrets: list[bytes], what: str) -> dict[int, bytes]:
    """X25519 secrets by partner, checked."""
    check_secrets(place.session, place.partners, secrets, what)
    return dict(zip(place.partners, secrets, strict=True))


def _check_sharers(place: Place, request: MaskedRequest) -> set[int]:
    session, n = place.session, len(place.session.cohort)
    check_key_list(place, request.key_list)
    sharers = set(from_bitmap(request.sharers, n).tolist())
    if len(sharers) < session.least:
        raise TooFewSurvivors(f"{len(sharers)} devices shared keys, {session.least} are needed")
    if place.position not in sharers:
        raise Misbehaviour(f"{place.device} sent its shares but is not among the sharers")
    if not sharers <= set(from_bitmap(place.members, n).tolist()):
        raise Misbehaviour("sharers that never sent keys")
    _check_enough(place, sharers, "shared keys")
    return sharers


def _open(state: SentShares, sharers: set[int], boxes: bytes) -> tuple[dict[int, bytes], list[int]]:
    """Pairs of shares by dealer, and the dealers whose boxes do not open."""
    place = state.place
    dealers = [j for j in place.dealers if j in sharers]
    keys = keys_by(place.dealers, state.open_keys, "keys")
    cut = zip(dealers, split(boxes, BOX_BYTES, len(dealers), "boxes"), strict=True)
    opened = open_boxes(place.scope, place.position, ((j, keys[j], box) for j, box in cut))
    return opened, [j for j in dealers if j not in opened]


def _mask(state: SentShares, sharers: set[int], digest: bytes, vector: RingVector) -> bytes:
    """Vector + own mask + masks with later partners - masks with earlier ones, mod 2^bits (Bonawitz 2017, 4.1)."""
    place, session, me = state.place, state.place.session, state.place.position
    if vector.dtype != np.uint32 or vector.shape != (session.dimension,):
        raise BadMessage(f"vector of {vector.dtype} {vector.shape}, expected uint32 ({session.dimension},)")
    top = int(vector.max())
    if top >> session.bits:
        raise BadMessage(f"vector has value {top}, the ring has {session.bits} bits")
    scope, secrets = place.scope, keys_by(place.partners, state.mask_secrets, "mask secrets")
    seeds = {j: pair_mask_seed(secrets[j], scope, digest, me, j) for j in place.partners if j in sharers}
    # The earlier device of a pair adds, the later one subtracts: in the sum of both the mask cancels.
    plus, minus = [seed for j, seed in seeds.items() if j > me], [seed for j, seed in seeds.items() if j < me]
    masked = vector.astype(ring_dtype(session.bits))
    add_masks(masked, [self_mask_seed(state.self_secret, scope, digest, me), *plus], minus)
    # The streams fill whole words; 2^bits divides the modulus of a word, so one reduction at the end is exact.
    masked &= masked.dtype.type((1 << session.bits) - 1)
    return pack(masked, session.bits)


def _acknowledge(state: SentShares, sharers: set[int], digest: bytes) -> bytes:
    """Tags for the holders among the sharers: with these sharers, and no others, this device has masked."""
    place, scope, me = state.place, state.place.scope, state.place.position
    keys = keys_by(place.holders, state.holder_tags, "keys")
    return b"".join(tag(keys[j], scope, digest, me, j) for j in place.holders if j in sharers)
