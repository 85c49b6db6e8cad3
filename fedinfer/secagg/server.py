"""The server's side of a session: `begin`, then `step(state, replies) -> (state, questions)` until Done or Aborted.

Rules:
* Pure: no clock, no network, no randomness. A device that is missing from `replies` has dropped out.
* An answer that is malformed, forged, or of another session or stage drops its sender and names it in `blamed`.
* Devices that published the same key are all left out: their keys are fresh and nobody has seen them yet, so a copy is
  a broken generator or a key that leaked, and neither is safe to mask with.
* Answers of devices that were not asked (late, replayed, unknown) are ignored.
* The sum is exact for every survivor set that reaches `min_survivors` and whose masks can be opened; otherwise the
  session ends in `Aborted` with the numbers, as soon as that is certain.

Source: Bell et al. 2020 (CCS), protocol 3 and section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour, ProtocolAbort
from fedinfer.secagg.derivations import TAG_BYTES, sharers_hash
from fedinfer.secagg.graph import from_bitmap, relations, to_bitmap
from fedinfer.secagg.key_list import Public, cleared_twins, relations_of, write_list
from fedinfer.secagg.keys import Signed, Stage, is_weak, unseal
from fedinfer.secagg.messages import (
    BOX_BYTES,
    DIGEST_PAIR_BYTES,
    PUBLIC_BYTES,
    Acknowledgements,
    Inbox,
    KeysBody,
    KeysRequest,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    StageRequest,
    SurvivorSets,
    UnmaskRequest,
    answer_limit,
    key_list_hash,
    open_body,
    split,
)
from fedinfer.secagg.packing import unpack
from fedinfer.secagg.parameters import Session
from fedinfer.secagg.recovery import finish
from fedinfer.secagg.rounds import (
    Aborted,
    AwaitKeys,
    AwaitMasked,
    AwaitShares,
    AwaitSurvivors,
    AwaitUnmask,
    Blamed,
    Done,
    Ground,
    ServerState,
    Sharers,
    Summed,
    read_answers,
    shortage,
)
from fedinfer.types import DeviceId

__all__ = [
    "Aborted",
    "AwaitKeys",
    "AwaitMasked",
    "AwaitShares",
    "AwaitSurvivors",
    "AwaitUnmask",
    "Done",
    "Requests",
    "ServerState",
    "begin",
    "step",
]

Requests: TypeAlias = Mapping[DeviceId, StageRequest]


def begin(session: Session, roster: Mapping[DeviceId, bytes]) -> tuple[AwaitKeys, Requests]:
    """Propose a session to its cohort.

    Args:
        session: the promise.
        roster: enrolled Ed25519 public keys; must hold the whole cohort.

    Raises:
        ConfigError: a device of the cohort is not enrolled.
    """
    unknown = [name for name in session.cohort if name not in roster]
    if unknown:
        raise ConfigError(f"{len(unknown)} of {len(session.cohort)} devices are not enrolled, first {unknown[0]}")
    request = StageRequest(Stage.KEYS, wire.encode(KeysRequest(session)))
    return AwaitKeys(session, roster), dict.fromkeys(session.cohort, request)


def step(state: ServerState, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    """Take the answers of one stage and ask the next.

    Args:
        state: the present state.
        replies: encoded answers by device; those missing have dropped out.

    Returns:
        The next state and the next questions; none when it is Done or Aborted. Those two do not change any more.
    """
    match state:
        case AwaitKeys():
            return _take_keys(state, replies)
        case AwaitShares():
            return _take_shares(state, replies)
        case AwaitMasked():
            return _take_masked(state, replies)
        case AwaitSurvivors():
            return _take_survivors(state, replies)
        case AwaitUnmask():
            return finish(state, replies), {}
        case Done() | Aborted():
            return state, {}


def _take_keys(state: AwaitKeys, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    session = state.session
    keyed, blamed = _without_twins(session, *_read_keys(state, session.sid, replies))
    if len(keyed) < session.least:
        reason = f"{len(keyed)} of {len(session.cohort)} devices sent keys, {session.least} are needed"
        return Aborted(reason, Stage.KEYS, tuple(session.cohort[j] for j in keyed), blamed), {}
    listed = write_list(session, _bitmap(session, keyed), keyed)
    ground = Ground(session, session.sid, key_list_hash(listed), keyed, relations_of(session, keyed))
    asked = tuple(sorted(_with_enough_holders(ground, set(keyed))))
    if len(asked) < session.least:
        reason = (
            f"{len(keyed)} of {len(session.cohort)} devices sent keys, {len(asked)} of them with at least "
            f"{session.threshold} holders; {session.least} are needed"
        )
        return Aborted(reason, Stage.KEYS, ground.names(asked), blamed), {}
    request = StageRequest(Stage.SHARES, wire.encode(listed))
    return AwaitShares(ground, blamed, asked), dict.fromkeys(ground.names(asked), request)


def _bitmap(session: Session, positions: Iterable[int]) -> bytes:
    return to_bitmap(np.asarray(sorted(positions), np.int64), len(session.cohort))


def _read_keys(
    state: AwaitKeys, sid: bytes, replies: Mapping[DeviceId, bytes]
) -> tuple[dict[int, Public], list[tuple[DeviceId, str]]]:
    """What was published, by position; the signatures are those of the enrolled identities."""
    session, limit = state.session, answer_limit(state.session, Stage.KEYS)
    keyed: dict[int, Public] = {}
    blamed: list[tuple[DeviceId, str]] = []
    for j, name in enumerate(session.cohort):
        if name not in replies:
            continue
        try:
            signed = unseal(state.roster[name], Stage.KEYS, name, sid, replies[name], limit)
            keyed[j] = _check_public(session, j, signed, open_body(KeysBody, signed.body, limit, sid))
        except ProtocolAbort as error:
            blamed.append((name, str(error)))
    return keyed, blamed


def _check_public(session: Session, position: int, signed: Signed, body: KeysBody) -> Public:
    public = Public(body.public, body.holders, signed.signature)
    # The signature is copied into the key list, where devices encode the body again: only one encoding may count.
    if len(body.public) != PUBLIC_BYTES or wire.encode(body) != signed.body:
        raise BadMessage(f"published keys have {len(body.public)} bytes, expected {PUBLIC_BYTES} in the one encoding")
    if is_weak(public.mask_key) or is_weak(public.box_key):
        raise Misbehaviour("a published key is a point of small order: it would give no secret with anybody")
    relations({position: body.holders}, len(session.cohort), session.degree)
    return public


def _without_twins(
    session: Session, keyed: dict[int, Public], blamed: list[tuple[DeviceId, str]]
) -> tuple[dict[int, Public], Blamed]:
    """Leave out devices that published the same key, and name them all."""
    twins = {(one, other): what for one, other, what in cleared_twins(keyed)}
    for (one, other), what in twins.items():
        for who, whose in dict.fromkeys([(one, other), (other, one)]):
            blamed.append((session.cohort[who], f"its {what} is also that of {session.cohort[whose]}"))
    # Both of a pair go: nobody has seen a fresh key yet, so it cannot be told who copied it.
    gone = {j for pair in twins for j in pair}
    return {j: public for j, public in keyed.items() if j not in gone}, tuple(blamed)


def _take_shares(state: AwaitShares, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    ground, session = state.ground, state.ground.session

    def parse(j: int, body: SharesBody) -> tuple[dict[int, bytes], bytes]:
        others: list[int] = ground.graph.holders(j).tolist()
        split(body.digests, DIGEST_PAIR_BYTES, len(ground.holders(j)), "share digests")
        return dict(zip(others, split(body.boxes, BOX_BYTES, len(others), "boxes"), strict=True)), body.digests

    dealt, refused = read_answers(ground, Stage.SHARES, ground.key_list, SharesBody, replies, state.asked, parse)
    blamed = state.blamed + refused
    shared = _with_enough_holders(ground, set(dealt))
    if len(shared) < session.least:
        reason = (
            f"{len(dealt)} of {len(state.asked)} devices shared keys, {len(shared)} of them with at least "
            f"{session.threshold} holders; {session.least} are needed"
        )
        return Aborted(reason, Stage.SHARES, ground.names(sorted(shared)), blamed), {}
    sharers = _sharers(ground, shared)
    common = wire.encode(MaskedRequest(ground.sid, ground.key_list, sharers.bitmap))
    requests = {
        ground.name(i): StageRequest(Stage.MASKED, common, _inbox(ground, i, shared, dealt)) for i in sharers.members
    }
    digests = {j: dealt[j][1] for j in sharers.members}
    return AwaitMasked(ground, blamed, sharers, digests), requests


def _sharers(ground: Ground, shared: set[int]) -> Sharers:
    bitmap = _bitmap(ground.session, shared)
    return Sharers(tuple(sorted(shared)), bitmap, sharers_hash(ground.sid, ground.key_list, bitmap))


def _with_enough_holders(ground: Ground, shared: set[int]) -> set[int]:
    """Leave out, until nothing changes, devices of which too few holders are left: they could not be unmasked."""
    holders = {j: set(ground.holders(j)) for j in shared}
    # Leaving one device out takes a holder from others, so until nothing changes.
    while True:
        short = {j for j in shared if len(holders[j] & shared) < ground.session.threshold}
        if not short:
            return shared
        shared = shared - short


def _inbox(ground: Ground, i: int, shared: set[int], dealt: Mapping[int, tuple[dict[int, bytes], bytes]]) -> bytes:
    return wire.encode(Inbox(b"".join(dealt[j][0][i] for j in ground.dealers(i) if j in shared)))


def _take_masked(state: AwaitMasked, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    ground, session, n = state.ground, state.ground.session, len(state.ground.session.cohort)
    total, sharers = np.zeros(session.dimension, np.uint32), state.sharers
    present = set(sharers.members)

    def parse(j: int, body: MaskedBody) -> tuple[set[int], dict[int, bytes]]:
        unopened = set(from_bitmap(body.unopened, n).tolist())
        holders = [i for i in ground.graph.holders(j).tolist() if i in present]
        tags = dict(zip(holders, split(body.tags, TAG_BYTES, len(holders), "acknowledgements"), strict=True))
        # Last, because it cannot be undone: whoever is refused above must not be in the total.
        np.add(total, unpack(body.vector, session.bits, session.dimension), out=total)
        return unopened, tags

    found, refused = read_answers(ground, Stage.MASKED, sharers.digest, MaskedBody, replies, sharers.members, parse)
    unopened = {j: complained for j, (complained, _) in found.items()}
    tags = {j: sent for j, (_, sent) in found.items()}
    complaints = tuple(
        (ground.name(j), f"its shares for {ground.name(i)} do not open, says {ground.name(i)}")
        for i, dealers in unopened.items()
        for j in sorted(dealers & set(ground.dealers(i)) & present)
    )
    blamed = state.blamed + refused + complaints
    survivors = tuple(found)
    dropped = tuple(j for j in sharers.members if j not in found)
    if len(survivors) < session.least:
        reason = f"{len(survivors)} of {n} devices sent a masked vector, {session.least} are needed"
        return Aborted(reason, Stage.MASKED, ground.names(survivors), blamed), {}
    # Abort now, before anybody signs, when the masks of these survivors could never be opened.
    needed = _needed(ground, survivors, dropped)
    missing = shortage(ground, needed, lambda j, i: i in found and j not in unopened[i])
    if missing:
        missing = f"{len(survivors)} of {len(sharers.members)} devices that were asked sent a masked vector: {missing}"
        return Aborted(missing, Stage.MASKED, ground.names(survivors), blamed), {}
    sets = SurvivorSets(ground.sid, ground.key_list, _bitmap(session, survivors), _bitmap(session, dropped))
    summed = Summed(sharers, survivors, dropped, total, state.digests, tags, wire.encode(sets))
    request = StageRequest(Stage.SURVIVORS, summed.request)
    return AwaitSurvivors(ground, blamed, summed), dict.fromkeys(ground.names(survivors), request)


def _needed(ground: Ground, survivors: tuple[int, ...], dropped: tuple[int, ...]) -> list[int]:
    """Whose secret must be rebuilt: every survivor's, and that of a dropped device which shares a mask with one."""
    alive = set(survivors)
    return [*survivors, *(j for j in dropped if alive.intersection(ground.partners(j)))]


def _take_survivors(state: AwaitSurvivors, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    ground, summed, quorum = state.ground, state.summed, state.ground.session.quorum

    def parse(j: int, body: SurvivorSets) -> bytes:
        if wire.encode(body) != summed.request:
            raise Misbehaviour("signed other survivor sets than it was shown")
        return wire.decode(Signed, replies[ground.name(j)]).signature

    digest = summed.sharers.digest
    signatures, refused = read_answers(ground, Stage.SURVIVORS, digest, SurvivorSets, replies, summed.survivors, parse)
    blamed = state.blamed + refused
    missing = "" if len(signatures) >= quorum else f"{quorum} are needed, devices go on only then"
    missing = missing or shortage(
        ground, _needed(ground, summed.survivors, summed.dropped), lambda j, i: i in signatures
    )
    if missing:
        asked = f"{len(signatures)} of {len(summed.survivors)} devices that were asked signed the survivor sets"
        return Aborted(f"{asked}: {missing}", Stage.SURVIVORS, ground.names(signatures), blamed), {}
    # A quorum is enough proof, and every signature more is sent to every device.
    signers = sorted(signatures)[:quorum]
    common = wire.encode(
        UnmaskRequest(
            ground.sid, summed.request, _bitmap(ground.session, signers), b"".join(signatures[j] for j in signers)
        )
    )
    requests = {
        ground.name(i): StageRequest(Stage.UNMASK, common, _acknowledgements(ground, summed, i)) for i in signatures
    }
    return AwaitUnmask(ground, blamed, summed, tuple(signatures)), requests


def _acknowledgements(ground: Ground, summed: Summed, i: int) -> bytes:
    tags = (summed.tags[j][i] for j in ground.dealers(i) if j in summed.tags)
    return wire.encode(Acknowledgements(b"".join(tags)))
