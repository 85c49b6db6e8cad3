"""A tiny federation: real coordinator parts and real device code in memory, and a post office that misbehaves.

`Fleet` holds simulated devices (simulation.population.simulated_host) over a made-up table and makes plans as the
coordinator does. `Post` is a Transport that can lose, delay, double, change or forge every request and every answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.config import Scenario, parse_scenario
from fedinfer.coordinator.aggregate.secure_sum import AbortedSum, Total, private_sums
from fedinfer.coordinator.enrolment import join
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.promised import promise_of
from fedinfer.coordinator.plan.run_plan import RunPlan, make_plan
from fedinfer.data.table import DeviceData, Federation
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import create_authority, enrol_device, read_authority
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.flower.records import build_id
from fedinfer.messages import EnrollReply, EnrollRequest, FitWork, Kind, Purpose, SumPlan
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.schema import Numeric, Schema
from fedinfer.secagg.authority import Authority
from fedinfer.secagg.enrolment import Challenge
from fedinfer.secagg.revocation import RevocationList, sign_revocations
from fedinfer.simulation.population import NO_END, Processes, simulated_host, simulated_revocations
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.wire import decode, encode

DEVICES = 8
SCHEMA = Schema((Numeric("a", 0, 1), Numeric("b", -1, 1), Numeric("c", 0, 10)), "y", ("no", "yes"))
NONCE = b"n" * 32
CHALLENGE = Challenge("run", NONCE, build_id())
DIMENSION = 14  # a logistic regression over three columns and their missing-value indicators, two classes
SETTINGS = """
[scenario]
name = "tiny"
seed = 7
[data]
source = "csv"
path = "rows.csv"
label = "y"
labels = ["no", "yes"]
ranges.a = [0, 1]
ranges.b = [-1, 1]
ranges.c = [0, 10]
test_fraction = 0.5
[training]
rounds = 3
sampling_rate = 0.5
[privacy]
unit = "example"
trust = "distributed"
epsilon = 4.0
delta = 1e-5
clipping_norm = 1.0
[secure_aggregation]
dropout_rate = 0.25
corruption_rate = 0.1
[drift]
windows = 3
window = 5
epsilon = 1.0
wait_seconds = 0
"""


def settings(extra: str = "", folder: Path = Path()) -> Scenario:
    """The scenario; keys of `extra` come on top, one `section.key = value` per line."""
    import tomllib

    from fedinfer.config import from_flat, to_flat

    base = to_flat(parse_scenario(SETTINGS, folder, "tiny"))
    changes = {
        f"{section}.{key}": value for section, keys in tomllib.loads(extra).items() for key, value in keys.items()
    }
    return from_flat({**base, **changes})


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((count, 3)).astype(np.float32) * np.array([1, 2, 10], np.float32) - np.array([0, 1, 0], np.float32)
    return x, (x[:, 1] > 0).astype(np.int64)


def federation(devices: int = DEVICES) -> Federation:
    held = {f"d{i:02d}": DeviceData(*rows(i, 16), *rows(100 + i, 10)) for i in range(devices)}
    tests = [(data.test_x, data.test_y) for data in held.values()]
    pooled = np.concatenate([x for x, _ in tests]), np.concatenate([y for _, y in tests])
    return Federation(SCHEMA, held, (np.empty((0, 3), np.float32), np.empty(0, np.int64)), pooled)


ChangeAsk = Callable[[Ask], Sequence[Ask]]
ChangeAnswer = Callable[[Ask, Answer], Sequence[Answer]]


@dataclass
class Post:
    """Delivers asks to responders one by one; both hooks may drop, repeat or replace what passes.

    Args:
        responders: who answers for which device.
        on_ask: what a device gets instead of an ask.
        on_answer: what the server gets instead of an answer.
    """

    responders: dict[str, DeviceResponder]
    on_ask: ChangeAsk = lambda ask: [ask]
    on_answer: ChangeAnswer = lambda ask, answer: [answer]
    asked: list[Ask] = field(default_factory=list)
    answered: list[tuple[Ask, Answer]] = field(default_factory=list)

    def devices(self) -> list[str]:
        return sorted(self.responders)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> list[Answer]:
        delivered: list[Answer] = []
        for wanted in asks:
            for ask in self.on_ask(wanted):
                self.asked.append(ask)
                answer = self.responders[ask.device].answer([ask])[0]
                self.answered.append((ask, answer))
                delivered.extend(self.on_answer(ask, answer))
        return delivered

    def answers(self, kind: Kind) -> dict[str, Answer]:
        """What the devices last said to this kind of ask."""
        return {ask.device: answer for ask, answer in self.answered if ask.kind == kind}


@dataclass
class Fleet:
    """Joined devices, the plan of their run, and a post office between them and the server."""

    scenario: Scenario
    hosts: dict[str, Host]
    post: Post
    plan: RunPlan
    roster: dict[str, bytes]
    revocations: bytes

    def promise(self, round_id: str, work: bytes, purpose: Purpose = Purpose.TRAIN, **changes: Any) -> SumPlan:
        """What the coordinator would promise; `changes` are what a dishonest one does."""
        planned = self.plan.train if purpose is Purpose.TRAIN else self.plan.drift
        assert planned is not None
        plan = SumPlan(
            run_id="run",
            round_id=round_id,
            purpose=purpose,
            mode=self.scenario.secure_aggregation.mode,
            unit=self.scenario.privacy.unit,
            trust=self.scenario.privacy.trust,
            cohort=tuple(sorted(self.roster)),
            degree=planned.degree,
            threshold=planned.threshold,
            min_survivors=planned.min_survivors,
            bits=planned.mechanism.bits,
            dimension=planned.mechanism.padded,
            mechanism=encode(planned.mechanism),
            noise_multiplier=planned.noise_multiplier,
            sampling_rate=planned.sampling_rate,
            local_steps=planned.local_steps,
            rotation_seed=b"r" * 32,
            work_hash=hashlib.sha256(work).digest(),
            promise=promise_of(self.scenario, self.plan),
        )
        # A server that goes its own way may not have promised it: then the device's filter alone decides.
        return replace(plan, **{"promise": b"", **changes}) if changes else plan

    def sum(self, plan: SumPlan, work: bytes) -> Total | AbortedSum:
        return private_sums((plan,), work, self.roster, self.post, 1.0)[0]

    def ledger(self, device: str) -> list[str]:
        """References that a device's ledger holds."""
        return [entry.reference for entry in self.hosts[device].ledger.entries(device)]


def work(window: int = 0) -> bytes:
    """Train from zero weights."""
    return encode(FitWork(np.zeros(DIMENSION, np.float32), window))


def introduce(post: Post) -> list[EnrollReply]:
    answers = post.ask(
        [Ask(device, Kind.ENROLL, encode(EnrollRequest("run", NONCE))) for device in post.devices()], 1.0
    )
    return [decode(EnrollReply, answer.body) for answer in answers]


def revocations_of(authority: Authority, *keys: bytes, version: int = 1, expires: int = NO_END) -> bytes:
    """A signed list; the same every time, so that it can be shown again."""
    return sign_revocations(authority, RevocationList(version, 0, expires, tuple(sorted(keys))))


def joined(
    scenario: Scenario, hosts: dict[str, Host], revocations: bytes, root: bytes = b"root", dimension: int = DIMENSION
) -> Fleet:
    """Enrol and join all devices of `hosts` (one host may stand for many)."""
    post = Post({device: DeviceResponder(host) for device, host in hosts.items()})
    members = introduce(post)
    counts, refused = join(members, CHALLENGE, scenario, SCHEMA, revocations, root, post, 1.0)
    assert not refused, refused
    population = Population(
        len(counts), sum(counts.values()), min(counts.values()), dimension, SCHEMA.classes, schema=SCHEMA
    )
    plan = make_plan(scenario, population, "test", ())
    roster = {member.device: member.public_key for member in members}
    return Fleet(scenario, hosts, post, plan, roster, revocations)


def simulated(folder: Path, scenario: Scenario, devices: int = DEVICES, dimension: int = DIMENSION) -> Fleet:
    """All devices in one simulated host."""
    host = simulated_host(scenario, federation(devices), folder / "devices", SystemClock(), Processes.ONE)
    hosts, revocations = dict.fromkeys(host.members, host), simulated_revocations(scenario.scenario.seed)
    return joined(scenario, hosts, revocations, dimension=dimension)


def write_table(path: Path, seed: int, count: int) -> None:
    x, y = rows(seed, count)
    lines = [f"{a},{b},{c},{('no', 'yes')[label]}" for (a, b, c), label in zip(x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(["a,b,c,y", *lines]) + "\n")


def enrolled(folder: Path, devices: int, budget: Budget, min_survivors: int = 3) -> list[Path]:
    """Stores of real devices, each with its own table."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, stores = create_authority(folder / "authority.key", SystemEntropy()), []
    for i in range(devices):
        store, table = folder / f"r{i:02d}", folder / f"r{i:02d}.csv"
        write_table(table, i, 30)
        enrol_device(store, f"r{i:02d}", table, budget, min_survivors, authority, SystemEntropy(), SystemClock())
        stores.append(store)
    return stores


def real(stores: Sequence[Path], scenario: Scenario, root: bytes = b"root") -> Fleet:
    """Real devices over their stores: entropy and noise of the operating system, everything kept in SQLite."""
    hosts = [open_host(store) for store in stores]
    authority = read_authority(stores[0].parent / "authority.key")
    by_device = {device: host for host in hosts for device in host.members}
    return joined(scenario, by_device, revocations_of(authority), root)


def reopened(fleet: Fleet, device: str) -> Host:
    """The host of a real device as the next process finds it."""
    return open_host(fleet.hosts[device].folder(device))
