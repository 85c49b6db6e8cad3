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
from fedinfer.secagg.messages import PUBLIC_BYTES, KeyList, KeysBody, split
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
    keyed = read_list(session, listed)
    if len(keyed) < session.least:
        raise TooFewSurvivors(f"{len(keyed)} devices sent keys, {session.least} are needed")
    own = cohort.index(state.device)
    if keyed.get(own) != Public(state.public, state.holders, state.signature):
        raise Misbehaviour(f"the key list does not hold the keys that {state.device} sent")
    unknown = [cohort[j] for j in keyed if cohort[j] not in pinned]
    if unknown:
        raise Misbehaviour(f"{unknown[0]} is in the key list but not enrolled")
    same = next(iter(decoded_twins(keyed)), None)
    if same is not None:
        raise Misbehaviour(f"{cohort[same[0]]} and {cohort[same[1]]} published the same {same[2]}")
    sid = session.sid
    # Partner or not: a forged member would count among the survivors although it masks nothing.
    for j, public in keyed.items():
        if j != own:
            _check_signature(sid, cohort[j], public, pinned[cohort[j]])
    return keyed


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


def _check_signature(sid: bytes, name: DeviceId, public: Public, identity: bytes) -> None:
    body = wire.encode(KeysBody(sid, public.public, public.holders))
    if not verify_signature(identity, statement_bytes(Stage.KEYS, name, sid, body), public.signature):
        raise Misbehaviour(f"the keys shown for {name} are not signed by its enrolled identity")
