"""The server's side of a session: `begin`, then `step(state, replies) -> (state, questions)` until Done or Aborted.

Rules:
* Pure: no clock, no network, no randomness. A device that is missing from `replies` has dropped out.
* An answer that is malformed, forged, or of another session or stage drops its sender and names it in `blamed`.
* Answers of devices that were not asked (late, replayed, unknown) are not looked at.
* The sum is exact for every survivor set that reaches `min_survivors` and whose masks can be opened; otherwise the
  session ends in `Aborted` with the numbers, as soon as that is certain.

Source: Bell et al. 2020 (CCS), protocols 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour, ProtocolAbort
from fedinfer.secagg.graph import from_bitmap, neighbour_table, to_bitmap
from fedinfer.secagg.keys import KEY_BYTES, Signed, Stage, is_weak, unseal
from fedinfer.secagg.messages import (
    BOX_BYTES,
    DIGEST_PAIR_BYTES,
    PUBLIC_BYTES,
    Inbox,
    KeyList,
    KeysBody,
    KeysRequest,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    StageRequest,
    SurvivorSets,
    Witnesses,
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
    session, sid = state.session, state.session.sid
    keyed, blamed = _read_keys(state, sid, replies)
    members = np.asarray(sorted(keyed), np.int64)
    if members.size < session.least:
        reason = f"{members.size} of {len(session.cohort)} devices sent keys, {session.least} are needed"
        return Aborted(reason, Stage.KEYS, tuple(session.cohort[j] for j in members.tolist()), blamed), {}
    publics, signatures = ({j: pair[at] for j, pair in sorted(keyed.items())} for at in (0, 1))
    bitmap = to_bitmap(members, len(session.cohort))
    listed = KeyList(sid, bitmap, b"".join(publics.values()), b"".join(signatures.values()))
    digest = key_list_hash(listed)
    ground = Ground(session, sid, digest, publics, neighbour_table(members, session.degree, digest))
    request = StageRequest(Stage.SHARES, wire.encode(listed))
    return AwaitShares(ground, blamed), dict.fromkeys(ground.names(publics), request)


def _read_keys(
    state: AwaitKeys, sid: bytes, replies: Mapping[DeviceId, bytes]
) -> tuple[dict[int, tuple[bytes, bytes]], Blamed]:
    """(published keys, signature) by position; the signature is that of the enrolled identity."""
    session, limit = state.session, answer_limit(state.session, Stage.KEYS)
    keyed: dict[int, tuple[bytes, bytes]] = {}
    blamed: list[tuple[DeviceId, str]] = []
    for j, name in enumerate(session.cohort):
        if name not in replies:
            continue
        try:
            signed = unseal(state.roster[name], Stage.KEYS, name, sid, replies[name], limit)
            keyed[j] = (_check_public(signed, limit, sid), signed.signature)
        except ProtocolAbort as error:
            blamed.append((name, str(error)))
    return keyed, tuple(blamed)


def _check_public(signed: Signed, limit: int, sid: bytes) -> bytes:
    public = open_body(KeysBody, signed.body, limit, sid).public
    if len(public) != PUBLIC_BYTES:
        raise BadMessage(f"published keys have {len(public)} bytes, expected {PUBLIC_BYTES}")
    if is_weak(public[:KEY_BYTES]) or is_weak(public[KEY_BYTES : 2 * KEY_BYTES]):
        raise Misbehaviour("a published key is a point of small order: it would give no secret with anybody")
    return public


def _take_shares(state: AwaitShares, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    ground, session = state.ground, state.ground.session

    def parse(j: int, body: SharesBody) -> tuple[dict[int, bytes], bytes]:
        near, holders = ground.near[j].tolist(), ground.holders(j)
        split(body.digests, DIGEST_PAIR_BYTES, len(holders), "share digests")
        return dict(zip(near, split(body.boxes, BOX_BYTES, len(near), "boxes"), strict=True)), body.digests

    dealt, refused = read_answers(ground, Stage.SHARES, SharesBody, replies, ground.publics, parse)
    blamed = state.blamed + refused
    shared = _with_enough_holders(ground, set(dealt))
    if len(shared) < session.least:
        reason = (
            f"{len(dealt)} of {len(ground.publics)} devices shared keys, {len(shared)} of them with at least "
            f"{session.threshold} holders; {session.least} are needed"
        )
        return Aborted(reason, Stage.SHARES, ground.names(sorted(shared)), blamed), {}
    common = wire.encode(MaskedRequest(ground.sid, ground.key_list))
    requests = {
        ground.name(i): StageRequest(Stage.MASKED, common, _inbox(ground, i, shared, dealt)) for i in sorted(shared)
    }
    digests = {j: dealt[j][1] for j in shared}
    return AwaitMasked(ground, blamed, tuple(sorted(shared)), digests), requests


def _with_enough_holders(ground: Ground, shared: set[int]) -> set[int]:
    """Leave out, until nothing changes, devices of which too few holders are left: they could not be unmasked."""
    while True:
        short = {j for j in shared if sum(i in shared for i in ground.holders(j)) < ground.session.threshold}
        if not short:
            return shared
        shared = shared - short


def _inbox(ground: Ground, i: int, shared: set[int], dealt: Mapping[int, tuple[dict[int, bytes], bytes]]) -> bytes:
    dealers = [j for j in ground.near[i].tolist() if j in shared]
    bitmap = to_bitmap(np.asarray(dealers, np.int64), len(ground.session.cohort))
    return wire.encode(Inbox(bitmap, b"".join(dealt[j][0][i] for j in dealers)))


def _take_masked(state: AwaitMasked, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    ground, session, n = state.ground, state.ground.session, len(state.ground.session.cohort)
    total = np.zeros(session.dimension, np.uint32)

    def parse(j: int, body: MaskedBody) -> set[int]:
        unopened = set(from_bitmap(body.unopened, n).tolist())
        np.add(total, unpack(body.vector, session.bits, session.dimension), out=total)
        return unopened

    unopened, refused = read_answers(ground, Stage.MASKED, MaskedBody, replies, state.shared, parse)
    complaints = tuple(
        (ground.name(j), f"its shares for {ground.name(i)} do not open, says {ground.name(i)}")
        for i, dealers in unopened.items()
        for j in sorted(dealers & set(ground.near[i].tolist()) & set(state.shared))
    )
    blamed = state.blamed + refused + complaints
    survivors = tuple(unopened)
    dropped = tuple(j for j in state.shared if j not in unopened)
    if len(survivors) < session.least:
        reason = f"{len(survivors)} of {n} devices sent a masked vector, {session.least} are needed"
        return Aborted(reason, Stage.MASKED, ground.names(survivors), blamed), {}
    needed = _needed(ground, survivors, dropped)
    missing = shortage(ground, needed, lambda j, i: i in unopened and j not in unopened[i])
    if missing:
        missing = f"{len(survivors)} of {len(state.shared)} devices that were asked sent a masked vector: {missing}"
        return Aborted(missing, Stage.MASKED, ground.names(survivors), blamed), {}
    bitmaps = (to_bitmap(np.asarray(part, np.int64), n) for part in (survivors, dropped))
    sets = wire.encode(SurvivorSets(ground.sid, ground.key_list, *bitmaps))
    summed = Summed(survivors, dropped, total, state.digests, sets)
    request = StageRequest(Stage.SURVIVORS, sets)
    return AwaitSurvivors(ground, blamed, summed), dict.fromkeys(ground.names(survivors), request)


def _needed(ground: Ground, survivors: tuple[int, ...], dropped: tuple[int, ...]) -> list[int]:
    """Whose secret must be rebuilt: every survivor's, and that of a dropped device which shares a mask with one."""
    alive = set(survivors)
    return [*survivors, *(j for j in dropped if alive.intersection(ground.near[j].tolist()))]


def _take_survivors(state: AwaitSurvivors, replies: Mapping[DeviceId, bytes]) -> tuple[ServerState, Requests]:
    ground, summed = state.ground, state.summed
    threshold = ground.session.threshold

    def parse(j: int, body: SurvivorSets) -> bytes:
        if wire.encode(body) != summed.request:
            raise Misbehaviour("signed other survivor sets than it was shown")
        return wire.decode(Signed, replies[ground.name(j)]).signature

    signatures, refused = read_answers(ground, Stage.SURVIVORS, SurvivorSets, replies, summed.survivors, parse)
    witnesses = {i: [j for j in ground.holders(i) if j in signatures][:threshold] for i in signatures}
    asked = tuple(i for i in signatures if len(witnesses[i]) == threshold)
    blamed = state.blamed + refused
    missing = shortage(ground, _needed(ground, summed.survivors, summed.dropped), lambda j, i: i in asked)
    if missing:
        missing = (
            f"{len(signatures)} of {len(summed.survivors)} devices that were asked signed the survivor sets, each goes "
            f"on only when {threshold} of its share holders did, {len(asked)} can: {missing}"
        )
        return Aborted(missing, Stage.SURVIVORS, ground.names(signatures), blamed), {}
    requests = {
        ground.name(i): StageRequest(
            Stage.UNMASK, summed.request, _witnesses(len(ground.session.cohort), witnesses[i], signatures)
        )
        for i in asked
    }
    return AwaitUnmask(ground, blamed, summed, asked), requests


def _witnesses(n: int, signers: list[int], signatures: Mapping[int, bytes]) -> bytes:
    bitmap = to_bitmap(np.asarray(signers, np.int64), n)
    return wire.encode(Witnesses(bitmap, b"".join(signatures[j] for j in signers)))
