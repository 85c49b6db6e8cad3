"""A whole session in memory: real devices, real server, and hooks to lose, change or forge any message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedinfer import secagg, wire
from fedinfer.errors import ProtocolAbort
from fedinfer.secagg import IdentityKey, Session, Stage, StageRequest, shamir
from fedinfer.secagg.derivations import TAG_BYTES
from fedinfer.secagg.graph import from_bitmap
from fedinfer.secagg.keys import Signed, seal
from fedinfer.secagg.messages import MaskedBody, UnmaskBody, split
from fedinfer.secagg.shamir import SHARE_BYTES
from fedinfer.secagg.states import Place
from fedinfer.system import SimulatedEntropy

STAGES = tuple(Stage)
LostAt = Mapping[str, Stage]
"""Device -> first stage it does not answer."""


def names(n: int) -> tuple[str, ...]:
    return tuple(f"device-{i:04d}" for i in range(n))


def make_session(n: int, **changes: Any) -> Session:
    graph = secagg.choose_graph(n, 0.1, 0.1) if not {"degree", "threshold"} <= set(changes) else None
    values: dict[str, Any] = {
        "run_id": "run",
        "round_id": "1",
        "purpose": "train",
        "model_hash": b"m" * 32,
        "cohort": names(n),
        "degree": graph.degree if graph else 0,
        "threshold": graph.threshold if graph else 0,
        "min_survivors": 2 if n <= 20 else n - n // 10,
        "bits": 20,
        "dimension": 37,
        "mechanism_hash": b"p" * 32,
    }
    return Session(**(values | changes))


@dataclass
class World:
    """Devices with their identities, states, vectors; `errors` holds what a device refused."""

    session: Session
    seed: int = 0
    identities: dict[str, IdentityKey] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, ProtocolAbort] = field(default_factory=dict)
    signing: dict[str, IdentityKey] = field(default_factory=dict)
    secrets: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    holders: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        for name in self.session.cohort:
            self.identities[name] = IdentityKey.generate(SimulatedEntropy("identity", self.seed, name))
            self.vectors[name] = rng.integers(0, 1 << self.session.bits, self.session.dimension, dtype=np.uint32)

    @property
    def roster(self) -> dict[str, bytes]:
        return {name: key.public_bytes for name, key in self.identities.items()}

    def answer(self, name: str, request: StageRequest) -> bytes:
        """Let a device answer; its state passes through bytes each time."""
        entropy = SimulatedEntropy(self.seed, name, str(request.stage))
        state = secagg.decode_state(self.states[name]) if name in self.states else None
        common, own = request.common, request.own
        match request.stage:
            case Stage.KEYS:
                new, reply = secagg.answer_keys(secagg.read_session(common), self.identities[name], name, entropy)
            case Stage.SHARES:
                new, reply = secagg.answer_shares(state, common, own, self.roster, entropy)
            case Stage.MASKED:
                new, reply = secagg.answer_masked(state, common, own, self.vectors[name])
            case Stage.SURVIVORS:
                new, reply = secagg.answer_survivors(state, common, own)
            case Stage.UNMASK:
                new, reply = secagg.answer_unmask(state, common, own)
        self.states[name] = secagg.encode_state(new)
        self._remember(name, new)
        if isinstance(new, secagg.SentMasked):
            self._keep_tags(name, new, reply)
        return reply

    def _keep_tags(self, name: str, state: secagg.SentMasked, reply: bytes) -> None:
        """The acknowledgements in a masked answer, by holder."""
        cohort, sharers = self.session.cohort, set(from_bitmap(state.sharers, len(self.session.cohort)).tolist())
        holders = [cohort[j] for j in state.place.holders if j in sharers]
        tags = split(body_of(MaskedBody, reply).tags, TAG_BYTES, len(holders), "tags")
        self.tags[name] = dict(zip(holders, tags, strict=True))

    @property
    def chosen(self) -> dict[str, set[str]]:
        """Whom each device drew as a holder; in a complete graph everybody, itself too."""
        cohort = self.session.cohort
        if self.session.is_complete:
            return {name: set(cohort) for name in cohort}
        drawn = {name: from_bitmap(holders, len(cohort)).tolist() for name, holders in self.holders.items()}
        return {name: {cohort[j] for j in chosen} for name, chosen in drawn.items()}

    def _remember(self, name: str, state: Any) -> None:
        """What a corrupt device, or a test that checks claims, knows and a later state has forgotten."""
        if isinstance(state, secagg.SentKeys):
            self.signing[name] = IdentityKey(state.signing)
            self.holders[name] = state.holders
            self.secrets[name] = (state.self_secret, state.mask_private)
        if isinstance(state, secagg.SentShares):
            self.places[name] = state.place
        if isinstance(state, secagg.SentMasked):
            self.digests[name] = state.digest

    def resign(self, name: str, stage: Stage, body: Any) -> bytes:
        """The answer of a device that sends what it likes, correctly signed."""
        if stage is Stage.KEYS:
            return seal(self.identities[name], stage, name, self.session.sid, body)
        return seal(self.signing[name], stage, name, self.context(name, stage), body)

    def context(self, name: str, stage: Stage) -> bytes:
        """What a device's signature of a stage covers besides the answer."""
        if stage is Stage.KEYS:
            return self.session.sid
        return self.places[name].key_list if stage is Stage.SHARES else self.digests[name]

    def answer_all(self, requests: Mapping[str, StageRequest]) -> dict[str, bytes]:
        replies = {}
        for name, request in requests.items():
            try:
                replies[name] = self.answer(name, request)
            except ProtocolAbort as error:
                self.errors[name] = error
        return replies

    def ideal(self, survivors: Sequence[str]) -> np.ndarray:
        total = sum(self.vectors[name].astype(np.uint64) for name in survivors)
        return (total & np.uint64((1 << self.session.bits) - 1)).astype(np.uint32)


Tamper = Callable[[Stage, dict[str, bytes]], dict[str, bytes]]


def play(
    world: World, lost: LostAt | None = None, tamper: Tamper | None = None, until: Stage | None = None
) -> tuple[Any, Mapping[str, StageRequest]]:
    """Run a session; stop before `until` is asked.

    Args:
        world: the devices.
        lost: first stage that a device does not answer.
        tamper: changes the replies of a stage on their way to the server.
        until: return the state and the questions of this stage instead of answering them.
    """
    lost = lost or {}
    state, requests = secagg.begin(world.session, world.roster)
    for stage in STAGES:
        if stage is until or not requests:
            break
        asked = {
            name: request
            for name, request in requests.items()
            if name not in lost or STAGES.index(lost[name]) > STAGES.index(stage)
        }
        replies = world.answer_all(asked)
        state, requests = secagg.step(state, tamper(stage, replies) if tamper else replies)
    return state, requests


def body_of(kind: type, reply: bytes) -> Any:
    """The unverified body of an answer."""
    return wire.decode(kind, wire.decode(Signed, reply).body)


@dataclass
class Loot:
    """Shares of both secrets of every device that a malicious server has gathered, by target and holder."""

    world: World
    seeds: dict[str, dict[str, bytes]] = field(default_factory=dict)
    keys: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def take_answer(self, name: str, reply: bytes, survivors: Sequence[str]) -> None:
        """What one unmask answer gives."""
        body, cohort = body_of(UnmaskBody, reply), self.world.session.cohort
        dealers = [cohort[j] for j in from_bitmap(body.dealers, len(cohort))]
        for dealer, row in zip(dealers, split(body.shares, SHARE_BYTES, len(dealers), "shares"), strict=True):
            (self.seeds if dealer in survivors else self.keys).setdefault(dealer, {})[name] = row

    def take_corrupt(self, name: str) -> None:
        """A corrupt device hands over both shares of every dealer it holds, and its own share of itself."""
        state = secagg.decode_state(self.world.states[name])
        held = getattr(state, "held", state)
        cohort = self.world.session.cohort
        dealers = [cohort[j] for j in from_bitmap(held.opened, len(cohort))]
        for dealer, pair in zip(dealers, split(held.pairs, 2 * SHARE_BYTES, len(dealers), "pairs"), strict=True):
            self.seeds.setdefault(dealer, {})[name] = pair[:SHARE_BYTES]
            self.keys.setdefault(dealer, {})[name] = pair[SHARE_BYTES:]

    def missing(self, target: str) -> tuple[int, int]:
        """Shares that lack for the self-mask seed and for the mask key; reading `target` needs (0, 0)."""
        needed = self.world.session.threshold
        return tuple(max(0, needed - len(kind.get(target, {}))) for kind in (self.seeds, self.keys))

    def rebuild(self, target: str) -> tuple[bool, bool]:
        """Try with everything there is: are the self-mask seed, the mask key found?"""
        found = []
        for kind, secret in zip((self.seeds, self.keys), self.world.secrets[target], strict=True):
            shares = kind.get(target, {})
            points = np.array([self.world.session.cohort.index(name) + 1 for name in shares], np.int64)
            rows = shamir.unpack(np.frombuffer(b"".join(shares.values()), np.uint8).reshape(-1, SHARE_BYTES))
            use = min(len(points), self.world.session.threshold)
            found.append(bool(use) and shamir.combine(rows[:use], points[:use]) == secret)
        return found[0], found[1]
