"""What a device remembers between two questions of one session; each state knows only what later stages need.

Rules:
* The caller stores `encode_state(new state)` BEFORE it sends the answer, and removes the older one: then no crash can
  make a device answer a stage twice. `Finished` holds no secret; keep it until the session can no longer be replayed.
* Secrets are in the bytes, never in a repr. Private keys and mask seeds are gone once they have been used.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from fedinfer import wire
from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.secagg.derivations import Scope, sharers_hash
from fedinfer.secagg.parameters import Session
from fedinfer.types import DeviceId


@dataclass(frozen=True, slots=True)
class SentKeys:
    """Keys and the choice of holders are published; all private halves are here.

    Args:
        session: the promise.
        device: this device.
        public: mask key, box key, signing key, commitment, as in `KeysBody`.
        holders: bitmap of the holders that it drew; empty in a complete graph.
        signature: of its identity key over the published keys.
        self_secret: what its own mask follows from, 32 bytes.
        mask_private: X25519 private key for pair masks, 32 bytes.
        box_private: X25519 private key for boxes and acknowledgements, 32 bytes.
        signing: Ed25519 private key of this session, 32 bytes.
    """

    session: Session
    device: DeviceId
    public: bytes
    holders: bytes
    signature: bytes
    self_secret: bytes = field(repr=False)
    mask_private: bytes = field(repr=False)
    box_private: bytes = field(repr=False)
    signing: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device stands in the graph of one key list.

    Args:
        session: the promise.
        device: this device.
        key_list: hash of the key list.
        members: bitmap of the devices that sent keys.
        holders: other devices that hold this one's shares, ascending cohort positions.
        dealers: other devices whose shares this one holds, ascending.
        signing_keys: signing keys of all members, 32 bytes each, ascending.
    """

    session: Session
    device: DeviceId
    key_list: bytes
    members: bytes
    holders: tuple[int, ...]
    dealers: tuple[int, ...]
    signing_keys: bytes

    @property
    def position(self) -> int:
        """This device's position in the cohort."""
        return self.session.cohort.index(self.device)

    @property
    def scope(self) -> Scope:
        """What derived values are bound to."""
        return Scope(self.session.sid, self.key_list, self.session.cohort)

    @property
    def partners(self) -> tuple[int, ...]:
        """Devices that share a mask with this one: its holders and its dealers, ascending."""
        return tuple(sorted({*self.holders, *self.dealers}))

    @property
    def all_holders(self) -> tuple[int, ...]:
        """Who holds a share of this device's secrets: in a complete graph it holds one of its own, too."""
        return tuple(sorted((*self.holders, self.position))) if self.session.is_complete else self.holders


@dataclass(frozen=True, slots=True)
class SentShares:
    """The shares of both secrets are sent to the holders.

    Args:
        place: where the device stands.
        self_secret: what its own mask follows from.
        signing: private key of this session.
        mask_secrets: X25519 secrets with the partners, 32 bytes each, by ascending partner.
        open_keys: keys of the dealers' boxes, 32 bytes each, by ascending dealer.
        holder_tags: keys of its acknowledgements to its holders, 32 bytes each, by ascending holder.
        dealer_tags: keys of the dealers' acknowledgements to it, 32 bytes each, by ascending dealer.
        own_share: share of its own self-mask secret (complete graph), else empty.
    """

    place: Place
    self_secret: bytes = field(repr=False)
    signing: bytes = field(repr=False)
    mask_secrets: bytes = field(repr=False)
    open_keys: bytes = field(repr=False)
    holder_tags: bytes = field(repr=False)
    dealer_tags: bytes = field(repr=False)
    own_share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SentMasked:
    """The masked vector is out; what remains are the shares of others.

    Args:
        place: where the device stands.
        sharers: bitmap of the devices with which everybody masked.
        opened: bitmap of the dealers whose boxes opened.
        pairs: their two shares, by ascending dealer.
        dealer_tags: keys of the dealers' acknowledgements, as in `SentShares`.
        own_share: share of the own self-mask secret (complete graph), else empty.
        signing: private key of this session.
    """

    place: Place
    sharers: bytes
    opened: bytes
    pairs: bytes = field(repr=False)
    dealer_tags: bytes = field(repr=False)
    own_share: bytes = field(repr=False)
    signing: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """Hash of session, key list and sharers: context of every later signature."""
        return sharers_hash(self.place.session.sid, self.place.key_list, self.sharers)


@dataclass(frozen=True, slots=True)
class SignedSurvivors:
    """One pair of survivor and dropped sets is signed; no other will be answered.

    Args:
        held: what the device held when it signed.
        sets: encoded `SurvivorSets`, as signed.
    """

    held: SentMasked
    sets: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The session is over for this device; no secret is left.

    Args:
        sid: session id, kept so that a replayed session is recognised.
        device: this device.
    """

    sid: bytes
    device: DeviceId


DeviceState: TypeAlias = SentKeys | SentShares | SentMasked | SignedSurvivors | Finished


@dataclass(frozen=True, slots=True)
class _Stored:
    kind: str
    body: bytes = field(repr=False)


_KINDS: Final[dict[str, type[DeviceState]]] = {
    kind.__name__: kind for kind in (SentKeys, SentShares, SentMasked, SignedSurvivors, Finished)
}


def encode_state(state: DeviceState) -> bytes:
    """Encode a state for the device's own store.

    Args:
        state: of a running or finished session.

    Returns:
        Bytes that hold the session's secrets, unless it is finished: they never leave the device.
    """
    return wire.encode(_Stored(type(state).__name__, wire.encode(state)))


def decode_state(data: bytes) -> DeviceState:
    """Read a state that `encode_state` wrote.

    Args:
        data: from the device's own store.

    Raises:
        BadMessage: damaged bytes or an unknown state.
    """
    stored = wire.decode(_Stored, data)
    if stored.kind not in _KINDS:
        raise BadMessage(f"no device state is called {stored.kind[:40]!r}")
    return wire.decode(_KINDS[stored.kind], stored.body)


def refuse_second_use(session: Session, used: Collection[bytes]) -> None:
    """Refuse a session that this device has already answered; call it before `answer_keys`.

    Args:
        session: the proposal.
        used: session ids for which a state was ever stored.

    Raises:
        Misbehaviour: the session id is among them.
    """
    if session.sid in used:
        raise Misbehaviour(f"session {session.sid.hex()[:16]} was already answered: a device answers a session once")
