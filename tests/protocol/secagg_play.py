"""A whole session in memory: real devices, real server, and hooks to lose, change or forge any message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedinfer import secagg
from fedinfer.errors import ProtocolAbort
from fedinfer.secagg import IdentityKey, Session, Stage, StageRequest
from fedinfer.system import SimulatedEntropy

STAGES = tuple(Stage)
LostAt = Mapping[str, Stage]
"""Device -> first stage it does not answer."""


def names(n: int) -> tuple[str, ...]:
    return tuple(f"device-{i:04d}" for i in range(n))


def make_session(n: int, **changes: Any) -> Session:
    graph = secagg.choose_graph(n, 0.1, 0.1, "semi_malicious") if not {"degree", "threshold"} <= set(changes) else None
    values: dict[str, Any] = {
        "run_id": "run",
        "round_id": "1",
        "purpose": "train",
        "model_hash": b"m" * 32,
        "cohort": names(n),
        "degree": graph.degree if graph else 0,
        "threshold": graph.threshold if graph else 0,
        "min_survivors": 2,
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
        return reply

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
