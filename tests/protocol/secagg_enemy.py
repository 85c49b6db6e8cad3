"""Honest devices as they are deployed, and an enemy that is their server and some of their number.

Honest devices are the real functions behind the real floor (`check_session`) and the real memory of rounds
(`MemorySessions`), put together as in `fedinfer.device.aggregate.stages`: a refusal wipes the round. The enemy composes
messages with `secagg_forge` from whatever it has seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedinfer import secagg
from fedinfer.device.session_store import MemorySessions, Running
from fedinfer.errors import FedInferError, Misbehaviour
from fedinfer.messages import Kind
from fedinfer.secagg import IdentityKey, Session, Stage, StageRequest, parameters
from fedinfer.secagg.states import decode_state, encode_state
from fedinfer.system import SimulatedEntropy
from tests.protocol import secagg_forge as forge
from tests.protocol.knowledge import Recorder, Violation, violations
from tests.protocol.secagg_forge import Chosen, Delivery, KeyMessage, Listing, Sets

KINDS = {
    Stage.KEYS: Kind.KEYS,
    Stage.SHARES: Kind.SHARES,
    Stage.MASKED: Kind.MASKED,
    Stage.SURVIVORS: Kind.SURVIVORS,
    Stage.UNMASK: Kind.UNMASK,
}
ORDER = tuple(KINDS)


@dataclass(frozen=True)
class Owner:
    """What a device's owner demands."""

    min_survivors: int = 2
    dropout_rate: float = 0.1
    corruption_rate: float = 0.1


class Tape:
    """Random bytes of one honest device, written down."""

    def __init__(self, recorder: Recorder, *seed: int | str) -> None:
        self._recorder, self._inner = recorder, SimulatedEntropy(*seed)

    def take(self, count: int) -> bytes:
        taken = self._inner.take(count)
        self._recorder.random += taken
        return taken


@dataclass
class Device:
    """An honest device."""

    name: str
    identity: IdentityKey
    owner: Owner
    pinned: Mapping[str, bytes]
    recorder: Recorder
    sessions: MemorySessions = field(default_factory=MemorySessions)
    asked: int = 0

    def answer(self, request: StageRequest) -> bytes:
        self.asked += 1
        entropy = Tape(self.recorder, "device", self.name, self.asked)
        if request.stage is Stage.KEYS:
            reply = self._start(request, entropy)
        else:
            reply = self._go_on(request, entropy)
        self.recorder.sent.append(reply)
        return reply

    def _start(self, request: StageRequest, entropy: Any) -> bytes:
        session, owner = secagg.read_session(request.common), self.owner
        # Looked up when called, so that a test can put a weaker floor in its place.
        parameters.check_session(session, owner.min_survivors, owner.dropout_rate, owner.corruption_rate)
        with self.recorder.honest(self.name, session.sid):
            state, reply = secagg.answer_keys(session, self.identity, self.name, entropy)
        running = Running(session.round_id, Kind.KEYS, b"", encode_state(state), session.run_id)
        self.sessions.begin(self.name, running)
        return reply

    def _go_on(self, request: StageRequest, entropy: Any) -> bytes:
        running = self.sessions.load(self.name)
        if running.stage is not KINDS[ORDER[ORDER.index(request.stage) - 1]]:
            raise Misbehaviour(f"{self.name} is at stage {running.stage}, asked for {request.stage}")
        state: Any = decode_state(running.state)
        try:
            with self.recorder.honest(self.name, _sid(state)):
                new, reply = self._step(request, state, entropy)
        except FedInferError:
            self.sessions.complete(self.name, running)
            raise
        if request.stage is Stage.UNMASK:
            self.sessions.complete(self.name, running)
        else:
            self.sessions.advance(self.name, running, running.at(KINDS[request.stage], encode_state(new)))
        return reply

    def _step(self, request: StageRequest, state: Any, entropy: Any) -> tuple[Any, bytes]:
        common, own = request.common, request.own
        match request.stage:
            case Stage.SHARES:
                return secagg.answer_shares(state, common, own, self.pinned, entropy)
            case Stage.MASKED:
                return secagg.answer_masked(state, common, own, vector_of(self.name, state.place.session))
            case Stage.SURVIVORS:
                return secagg.answer_survivors(state, common, own)
            case _:
                return secagg.answer_unmask(state, common, own)


def vector_of(name: str, session: Session) -> np.ndarray:
    """What a device contributes to a session."""
    words = np.frombuffer(SimulatedEntropy("vector", name, session.sid.hex()).take(4 * session.dimension), "<u4")
    return (words & np.uint32((1 << session.bits) - 1)).astype(np.uint32)


def _sid(state: Any) -> bytes:
    held = getattr(state, "held", state)
    session: Session = held.session if hasattr(held, "session") else held.place.session
    return session.sid


@dataclass
class Enemy:
    """The server and the corrupt devices.

    Args:
        names: everybody, sorted.
        corrupt: which of them work for the server.
        owner: what every honest device's owner demands.
        recorder: watches the honest devices.
    """

    names: tuple[str, ...]
    corrupt: frozenset[str]
    owner: Owner
    recorder: Recorder
    identities: dict[str, IdentityKey] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    privates: set[bytes] = field(default_factory=set)
    sessions: dict[bytes, Session] = field(default_factory=dict)
    requests: list[StageRequest] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)
    taken: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            self.identities[name] = IdentityKey.generate(SimulatedEntropy("identity", name))
        pinned = {name: key.public_bytes for name, key in self.identities.items()}
        for name in self.names:
            if name not in self.corrupt:
                self.devices[name] = Device(name, self.identities[name], self.owner, pinned, self.recorder)

    def ask(self, name: str, request: StageRequest) -> bytes | None:
        """An honest device's answer, or None when it refuses."""
        self.requests.append(request)
        try:
            reply = self.devices[name].answer(request)
        except FedInferError as error:
            self.refusals.append(f"{name} {request.stage}: {error}")
            return None
        self.accepted[str(request.stage)] += 1
        return reply

    def fresh(self) -> bytes:
        """Three private keys of the enemy."""
        taken = self.junk(96)
        self.privates |= {taken[at : at + 32] for at in range(0, 96, 32)}
        return taken

    def junk(self, count: int) -> bytes:
        """Random bytes that are no keys."""
        self.taken += 1
        return SimulatedEntropy("enemy", self.taken).take(count)

    def promised(self) -> dict[bytes, int]:
        """Fewest honest devices in a sum by session, where no more are corrupt than the owners counted on."""
        promised = {}
        for sid, session in self.sessions.items():
            corrupt = len(self.corrupt & set(session.cohort))
            if corrupt <= math.ceil(self.owner.corruption_rate * len(session.cohort)):
                promised[sid] = max(2, session.least - corrupt)
        return promised

    def violations(self) -> list[Violation]:
        return violations(self.recorder, self.privates, self.promised())


@dataclass
class Attempt:
    """One session as the enemy plays it."""

    enemy: Enemy
    session: Session
    messages: dict[str, list[KeyMessage]] = field(default_factory=dict)
    lists: list[Listing] = field(default_factory=list)
    boxes: dict[tuple[bytes, int, int], bytes] = field(default_factory=dict)
    dealt: set[tuple[bytes, int]] = field(default_factory=set)
    tags: dict[tuple[bytes, int, int], bytes] = field(default_factory=dict)
    shared: list[frozenset[int]] = field(default_factory=list)
    views: list[Sets] = field(default_factory=list)
    signatures: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.enemy.sessions[self.session.sid] = self.session

    @property
    def honest(self) -> tuple[str, ...]:
        return tuple(name for name in self.session.cohort if name not in self.enemy.corrupt)

    @property
    def corrupt(self) -> tuple[str, ...]:
        return tuple(name for name in self.session.cohort if name in self.enemy.corrupt)

    @property
    def spare(self) -> int:
        """How many may be left out."""
        return len(self.session.cohort) - self.session.least

    def listed(self, listing: Listing) -> list[str]:
        """Honest devices of a list."""
        return [name for name in self.honest if listing.position(name) in listing.messages]

    def ask_keys(self, names: Iterable[str] | None = None) -> None:
        """Honest devices publish."""
        for name in names or self.honest:
            reply = self.enemy.ask(name, forge.keys_request(self.session))
            if reply is not None:
                self.messages.setdefault(name, []).append(forge.read_keys(name, reply))

    def publish(self, name: str, **keys: Any) -> KeyMessage:
        """A corrupt device publishes what it likes."""
        chosen = Chosen(self.enemy.fresh(), **keys)
        message = forge.forge_keys(self.enemy.identities[name], name, self.session, chosen)
        self.messages.setdefault(name, []).append(message)
        return message

    def list_keys(self, omit: Iterable[str] = (), which: Mapping[str, int] | None = None) -> Listing:
        """A key list: everybody's latest message (or that of `which`), without some."""
        left, which = set(omit), which or {}
        chosen = {
            self.session.cohort.index(name): made[which.get(name, -1) % len(made)]
            for name, made in self.messages.items()
            if name not in left
        }
        self.lists.append(forge.make_list(self.session, chosen))
        return self.lists[-1]

    def show(self, listing: Listing, names: Iterable[str]) -> None:
        """Honest devices of a list share their secrets."""
        for name in names:
            reply = self.enemy.ask(name, forge.shares_request(listing))
            if reply is not None:
                at = listing.position(name)
                self.dealt.add((listing.digest, at))
                for holder, box in forge.read_boxes(listing, at, reply).items():
                    self.boxes[listing.digest, at, holder] = box

    def inbox(self, listing: Listing, receiver: int, *, swap: bool = False) -> dict[int, bytes]:
        """Boxes for one device: those of honest dealers as they came, any of corrupt ones."""
        boxes = {}
        for dealer in listing.dealers(receiver):
            name = listing.name(dealer)
            if (listing.digest, dealer, receiver) in self.boxes:
                boxes[dealer] = self.boxes[listing.digest, dealer, receiver]
            elif name in self.enemy.corrupt and receiver in listing.messages:
                junk = self.enemy.junk(forge.PAIR_BYTES)
                boxes[dealer] = forge.forge_box(listing, listing.messages[dealer], receiver, junk)
            else:
                boxes[dealer] = self.enemy.junk(forge.BOX_BYTES)
        if swap and len(boxes) > 1:
            first, second = sorted(boxes)[:2]
            boxes[first], boxes[second] = boxes[second], boxes[first]
        return boxes

    def deliver(self, listing: Listing, shared: Iterable[int], names: Iterable[str], *, swap: bool = False) -> None:
        """Honest devices mask and send their vectors."""
        together = frozenset(shared)
        for name in names:
            at = listing.position(name)
            delivery = Delivery(listing, together, self.inbox(listing, at, swap=swap))
            reply = self.enemy.ask(name, forge.masked_request(delivery, at))
            if reply is not None:
                for holder, tag in forge.read_tags(delivery, at, reply).items():
                    self.tags[listing.digest, at, holder] = tag

    def sign(self, sets: Sets, names: Iterable[str]) -> None:
        """Honest devices sign survivor sets."""
        for name in names:
            reply = self.enemy.ask(name, forge.survivors_request(sets))
            if reply is not None:
                self.signatures[_mark(sets), sets.listing.position(name)] = forge.read_signature(reply)

    def open(self, sets: Sets, names: Iterable[str]) -> None:
        """Honest devices reveal shares; the enemy adds its own signatures and acknowledgements."""
        signed = {at: signature for (mark, at), signature in self.signatures.items() if mark == _mark(sets)}
        members = sets.listing.messages
        bad = [sets.listing.position(name) for name in self.corrupt if sets.listing.position(name) in members]
        signed |= {at: forge.forge_signature(sets, members[at]) for at in bad}
        for name in names:
            at = sets.listing.position(name)
            tags = {j: self.tags.get((sets.listing.digest, j, at)) for j in sets.listing.dealers(at)}
            shown = {j: tag for j, tag in tags.items() if tag is not None}
            shown |= {j: forge.forge_tag(sets, members[j], at) for j in bad if j in tags}
            self.enemy.ask(name, forge.unmask_request(sets, at, signed, shown))


def _mark(sets: Sets) -> bytes:
    return sets.digest + forge.survivors_request(sets).common
