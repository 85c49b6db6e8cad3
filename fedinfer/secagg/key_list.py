"""A device's check of the key list: the heart of authentication.

Rules, whatever the server says. A device refuses a list
* of another session, with fewer members than the session promises, or with anybody it has not pinned;
* that does not hold its own keys and holders as it sent them;
* in which any member's keys and holders are not signed by the identity that it has pinned, partner or not: a forged
  member would count among the survivors although it masks nothing;
* in which two devices have the same key: X25519 keys by the decoded point, mask and box keys together. With its own
  partners it also compares the secrets, which finds keys that differ by a point of small order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from fedinfer import wire
from fedinfer.errors import Misbehaviour, TooFewSurvivors
from fedinfer.secagg.graph import Relations, from_bitmap, relations
from fedinfer.secagg.keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Stage,
    cleared_point,
    decoded_point,
    statement_bytes,
    verify_signature,
)
from fedinfer.secagg.messages import PUBLIC_BYTES, KeyList, KeysBody, key_list_hash, split
from fedinfer.secagg.parameters import Session
from fedinfer.secagg.states import SentKeys
from fedinfer.types import DeviceId


@dataclass(frozen=True, slots=True)
class Public:
    """What one device published.

    Args:
        public: mask key, box key, signing key, commitment.
        holders: bitmap of its holders; empty in a complete graph.
        signature: of its identity key.
    """

    public: bytes
    holders: bytes
    signature: bytes

    @property
    def mask_key(self) -> bytes:
        """X25519."""
        return self.public[:KEY_BYTES]

    @property
    def box_key(self) -> bytes:
        """X25519."""
        return self.public[KEY_BYTES : 2 * KEY_BYTES]

    @property
    def signing_key(self) -> bytes:
        """Ed25519."""
        return self.public[2 * KEY_BYTES : 3 * KEY_BYTES]

    @property
    def commitment(self) -> bytes:
        """To the self-mask secret."""
        return self.public[3 * KEY_BYTES :]


def write_list(session: Session, members: bytes, publics: Mapping[int, Public]) -> KeyList:
    """The message with what all members published.

    Args:
        session: the promise.
        members: bitmap of the devices in `publics`.
        publics: by cohort position.

    Returns:
        Columns in ascending order of position.
    """
    ordered = [publics[j] for j in sorted(publics)]
    columns = ([getattr(public, name) for public in ordered] for name in ("public", "holders", "signature"))
    return KeyList(session.sid, members, *map(b"".join, columns))


def read_list(session: Session, listed: KeyList) -> dict[int, Public]:
    """Read what all members published; nothing is checked but the lengths.

    Args:
        session: the promise.
        listed: as it came, of this session.

    Returns:
        By cohort position, ascending.

    Raises:
        BadMessage: a part has another length than the members need.
    """
    members = from_bitmap(listed.members, len(session.cohort))
    size = session.holders_bytes
    publics = split(listed.publics, PUBLIC_BYTES, members.size, "published keys")
    holders = split(listed.holders, size, members.size, "holders") if size else [b""] * members.size
    signatures = split(listed.signatures, SIGNATURE_BYTES, members.size, "signatures")
    return {j: Public(*parts) for j, *parts in zip(members.tolist(), publics, holders, signatures, strict=True)}


def check_list(state: SentKeys, listed: KeyList, pinned: Mapping[DeviceId, bytes]) -> dict[int, Public]:
    """Everything about a key list that does not need private keys.

    Args:
        state: what this device sent.
        listed: the list, of this session.
        pinned: enrolled Ed25519 public keys, known to this device beforehand.

    Returns:
        What all members published, by position.

    Raises:
        BadMessage: a length is wrong.
        TooFewSurvivors: fewer members than the session promises.
        Misbehaviour: anything else that an honest server would not show; it names devices.
    """
    session, cohort = state.session, state.session.cohort
    keyed = _read(session, listed)
    if len(keyed) < session.least:
        raise TooFewSurvivors(f"{len(keyed)} devices sent keys, {session.least} are needed")
    own = cohort.index(state.device)
    if keyed.get(own) != Public(state.public, state.holders, state.signature):
        raise Misbehaviour(f"the key list does not hold the keys that {state.device} sent")
    faults = _faults(session, listed, tuple([pinned.get(name) for name in cohort]))
    if faults.unknown is not None:
        raise Misbehaviour(f"{cohort[faults.unknown]} is in the key list but not enrolled")
    if faults.twins is not None:
        one, other, what = faults.twins
        raise Misbehaviour(f"{cohort[one]} and {cohort[other]} published the same {what}")
    forged = next((j for j in faults.forged if j != own), None)
    if forged is not None:
        raise Misbehaviour(f"the keys shown for {cohort[forged]} are not signed by its enrolled identity")
    return dict(keyed)


# What follows from the list and from public keys alone is the same for all devices of a process, as a simulation has
# them, and the last answer is kept. On a real device it is computed once a session, as without.


@dataclass(frozen=True, slots=True)
class _Faults:
    """What is wrong with a list, whoever looks at it; positions in the cohort.

    Args:
        unknown: the first member that is not enrolled.
        twins: the first two members with one key, and which; not looked for where somebody is unknown.
        forged: members whose keys are not signed by the enrolled identity; not looked for where there are twins.
    """

    unknown: int | None = None
    twins: tuple[int, int, str] | None = None
    forged: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListFacts:
    """What follows from a list that was checked.

    Args:
        hashed: of the list as it was sent, 32 bytes.
        graph: who holds for whom.
        signing_keys: of all members, 32 bytes each, in ascending order of position.
    """

    hashed: bytes
    graph: Relations
    signing_keys: bytes


@lru_cache(maxsize=1)
def _read(session: Session, listed: KeyList) -> Mapping[int, Public]:
    return MappingProxyType(read_list(session, listed))


@lru_cache(maxsize=1)
def _faults(session: Session, listed: KeyList, identities: tuple[bytes | None, ...]) -> _Faults:
    keyed = _read(session, listed)
    known = {j: identity for j in keyed if (identity := identities[j]) is not None}
    unknown = next((j for j in keyed if j not in known), None)
    if unknown is not None:
        return _Faults(unknown=unknown)
    twins = next(iter(decoded_twins(keyed)), None)
    if twins is not None:
        return _Faults(twins=twins)
    # Partner or not: a forged member would count among the survivors although it masks nothing.
    signed = {j for j, public in keyed.items() if _is_signed(session.sid, session.cohort[j], public, known[j])}
    return _Faults(forged=tuple(j for j in keyed if j not in signed))


@lru_cache(maxsize=1)
def facts_of(session: Session, listed: KeyList) -> ListFacts:
    """What a device needs of a list.

    Args:
        session: the promise.
        listed: that `check_list` has checked.

    Raises:
        BadMessage: a device chose holders that it may not.
    """
    keyed = _read(session, listed)
    return ListFacts(key_list_hash(listed), relations_of(session, keyed), signing_keys(keyed))


def relations_of(session: Session, keyed: Mapping[int, Public]) -> Relations:
    """Who holds for whom among the members.

    Args:
        session: the promise.
        keyed: what all members published, by cohort position.

    Raises:
        BadMessage: a device chose holders that it may not.
    """
    return relations({j: public.holders for j, public in keyed.items()}, len(session.cohort), session.degree)


def decoded_twins(keyed: Mapping[int, Public]) -> Iterable[tuple[int, int, str]]:
    """Find devices with the same X25519 point, signing key or commitment.

    Args:
        keyed: what all members published, by cohort position.

    Returns:
        (first position, second position, what is the same) each.
    """
    points = ((j, decoded_point(key)) for j, public in keyed.items() for key in (public.mask_key, public.box_key))
    yield from _twins(points, "mask or box key")
    yield from _twins(((j, public.signing_key) for j, public in keyed.items()), "signing key")
    yield from _twins(((j, public.commitment) for j, public in keyed.items()), "commitment")


def cleared_twins(keyed: Mapping[int, Public]) -> Iterable[tuple[int, int, str]]:
    """As `decoded_twins`, and keys that differ by a point of small order, which give everybody the same secrets.

    Args:
        keyed: what all members published, by cohort position; no key has small order itself.

    Returns:
        (first position, second position, what is the same) each.
    """
    points = ((j, cleared_point(key)) for j, public in keyed.items() for key in (public.mask_key, public.box_key))
    yield from _twins(points, "mask or box key")
    yield from decoded_twins(keyed)


def check_secrets(session: Session, partners: tuple[int, ...], secrets: list[bytes], what: str) -> None:
    """Refuse partners with whom one private key has the same secret.

    Keys that differ by a point of small order are different for `decoded_twins`, but their secrets are equal.

    Args:
        session: the promise; names the devices.
        partners: cohort positions.
        secrets: X25519 secrets in the same order, 32 bytes each.
        what: which key, for the message.

    Raises:
        Misbehaviour: two secrets are equal; it names both devices.
    """
    same = next(iter(_twins(zip(partners, secrets, strict=True), what)), None)
    if same is not None:
        one, other = (session.cohort[j] for j in same[:2])
        raise Misbehaviour(f"{one} and {other} published the same {what}")


def signing_keys(keyed: Mapping[int, Public]) -> bytes:
    """Signing keys of all members, one after the other.

    Args:
        keyed: what all members published, by cohort position.

    Returns:
        32 bytes each, in ascending order of position.
    """
    return b"".join(keyed[j].signing_key for j in sorted(keyed))


def _twins(values: Iterable[tuple[int, object]], what: str) -> Iterable[tuple[int, int, str]]:
    first: dict[object, int] = {}
    for j, value in values:
        if value in first:
            yield first[value], j, what
        first.setdefault(value, j)


def _is_signed(sid: bytes, name: DeviceId, public: Public, identity: bytes) -> bool:
    body = wire.encode(KeysBody(sid, public.public, public.holders))
    return verify_signature(identity, statement_bytes(Stage.KEYS, name, sid, body), public.signature)
