"""What a device checks before it opens a share, and which share it opens.

Rules:
* Survivors and dropped devices together are the sharers with whom this device masked, no one is both.
* A quorum of all members has signed them. With 2 * quorum above all devices and the corrupt ones together, no two
  different survivor sets reach it, whatever the server shows to whom: honest devices open one sum per session.
* Of a survivor only the self-mask share is opened, and only when it has acknowledged the same key list and sharers; of
  a dropped device only the share of its mask key.
"""

from __future__ import annotations

import hmac
from functools import lru_cache

from fedinfer.errors import Misbehaviour, TooFewSurvivors
from fedinfer.secagg import shamir
from fedinfer.secagg.derivations import TAG_BYTES, tag
from fedinfer.secagg.graph import from_bitmap
from fedinfer.secagg.keys import KEY_BYTES, SIGNATURE_BYTES, Stage, statement_bytes, verify_signature
from fedinfer.secagg.messages import SurvivorSets, UnmaskRequest, split
from fedinfer.secagg.parameters import Session
from fedinfer.secagg.states import Place, SentMasked


def keys_by(positions: tuple[int, ...], keys: bytes, what: str) -> dict[int, bytes]:
    """Stored keys by the positions that they belong to.

    Args:
        positions: cohort positions, ascending.
        keys: 32 bytes each, in the same order.
        what: name of the keys, for the message.

    Raises:
        BadMessage: not one key for each position.
    """
    return dict(zip(positions, split(keys, KEY_BYTES, len(positions), what), strict=True))


def check_key_list(place: Place, key_list: bytes) -> None:
    """Refuse questions about another key list than the one that this device has checked.

    Args:
        place: what the device has checked.
        key_list: hash that the question names, 32 bytes.

    Raises:
        Misbehaviour: it is another one.
    """
    if key_list != place.key_list:
        raise Misbehaviour("the server speaks of another key list than it showed this device")


def check_sets(state: SentMasked, sets: SurvivorSets) -> None:
    """Check that survivors and dropped devices are exactly the sharers, are apart, are enough, and hold this device.

    Args:
        state: after the masked stage; knows the sharers with whom this device masked.
        sets: as the server shows them.

    Raises:
        BadMessage: not bitmaps of the cohort.
        TooFewSurvivors: fewer survivors than the session promises.
        Misbehaviour: the sets contradict each other or what this device has seen.
    """
    place, session = state.place, state.place.session
    n = len(session.cohort)
    check_key_list(place, sets.key_list)
    survivors, dropped = (set(from_bitmap(data, n).tolist()) for data in (sets.survivors, sets.dropped))
    both = sorted(session.cohort[j] for j in survivors & dropped)
    if both:
        raise Misbehaviour(f"{both[0]} is listed as survivor and as dropped: both of its masks would open")
    if len(survivors) < session.least:
        raise TooFewSurvivors(f"{len(survivors)} survivors, {session.least} are needed")
    if place.position not in survivors:
        raise Misbehaviour(f"{place.device} sent its masked vector but is not among the survivors")
    if survivors | dropped != set(from_bitmap(state.sharers, n).tolist()):
        raise Misbehaviour("survivors and dropped devices are not the sharers with whom this device masked")


def check_quorum(held: SentMasked, request: UnmaskRequest) -> None:
    """Check that a quorum of all members has signed these sets; for two different ones some device had to sign twice.

    Source: consistency check of Bonawitz et al. 2017 (CCS), section 6.

    Args:
        held: after the masked stage; knows the members' signing keys.
        request: survivor sets, signers and their signatures.

    Raises:
        BadMessage: lengths do not fit.
        Misbehaviour: too few valid signatures.
    """
    place, session = held.place, held.place.session
    valid = _signers(session, place.members, place.signing_keys, held.digest, request)
    if valid < session.quorum:
        raise Misbehaviour(f"{valid} devices signed these survivor sets, {session.quorum} are needed")


@lru_cache(maxsize=1)
def _signers(session: Session, members: bytes, signing_keys: bytes, context: bytes, request: UnmaskRequest) -> int:
    """How many members have signed, counted up to a quorum.

    It follows from what is public alone and is the same for all devices of a process, as a simulation has them.
    """
    n = len(session.cohort)
    keys = keys_by(tuple(from_bitmap(members, n).tolist()), signing_keys, "signing keys")
    signers = from_bitmap(request.signers, n)
    signatures = split(request.signatures, SIGNATURE_BYTES, signers.size, "signatures")
    valid = 0
    for j, signature in zip(signers.tolist(), signatures, strict=True):
        message = statement_bytes(Stage.SURVIVORS, session.cohort[j], context, request.sets)
        valid += j in keys and verify_signature(keys[j], message, signature)
        if valid == session.quorum:
            break
    return valid


def reveal(held: SentMasked, sets: SurvivorSets, tags: bytes) -> tuple[dict[int, bytes], list[int]]:
    """Choose one share per dealer, and name the survivors that did not acknowledge the sharers of this device.

    Args:
        held: the shares.
        sets: checked and signed.
        tags: acknowledgements of the survivors that this device holds shares of, 16 bytes each, ascending.

    Returns:
        Shares of 34 bytes by dealer's cohort position, and positions of survivors whose share stays closed, ascending.

    Raises:
        BadMessage: not one tag for each of them.
    """
    place, n, size = held.place, len(held.place.session.cohort), shamir.SHARE_BYTES
    survivors = set(from_bitmap(sets.survivors, n).tolist())
    opened = from_bitmap(held.opened, n)
    # Never both shares of one dealer: with self-mask and mask key the server would have its vector.
    pairs = zip(opened.tolist(), split(held.pairs, 2 * size, opened.size, "pairs"), strict=True)
    unacknowledged = _unacknowledged(held, [j for j in place.dealers if j in survivors], tags)
    shares = {j: pair[:size] if j in survivors else pair[size:] for j, pair in pairs if j not in unacknowledged}
    if held.own_share:
        shares[place.position] = held.own_share
    return shares, sorted(unacknowledged)


def _unacknowledged(held: SentMasked, dealers: list[int], tags: bytes) -> set[int]:
    place, scope, digest = held.place, held.place.scope, held.digest
    keys = keys_by(place.dealers, held.dealer_tags, "keys")
    given = zip(dealers, split(tags, TAG_BYTES, len(dealers), "acknowledgements"), strict=True)
    return {j for j, shown in given if not hmac.compare_digest(tag(keys[j], scope, digest, j, place.position), shown)}
