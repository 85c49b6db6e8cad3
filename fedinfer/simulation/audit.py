"""Auditing a scenario: train it with canaries through the real mechanism and measure how well it is seen who was in.

What runs is the product: device ledgers, clipping, encoding, noise shares, sums (mode `ideal`: the same integers, no
masks), decoding, the server's noise and optimizer. Only as many devices stay as the plan guarantees, so no noise counts
that is not promised. The view is what the scenario trusts nobody with less than: the released sums, or with trust
`local` every device's own vectors. No model is exported, no window is watched; the claim is that of the rounds alone,
with the noise that the whole plan, windows included, was calibrated to.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

import numpy as np

from fedinfer.config import Correlation, Scenario, to_flat
from fedinfer.coordinator import (
    LEDGER_OWNER,
    Group,
    Progress,
    RunPlan,
    Server,
    SumSettings,
    apply_release,
    budget_of,
    first_progress,
    release,
    sum_plan,
)
from fedinfer.data import Federation
from fedinfer.device import DeviceResponder, Host, trainer_of
from fedinfer.errors import ConfigError, TooFewSurvivors
from fedinfer.flower import CohortClientApp
from fedinfer.messages import ONE_GROUP, FitWork, Kind, PlainReply, Purpose, SumPlan
from fedinfer.ports import Answer, Ask, Clock, Transport
from fedinfer.privacy import (
    AuditMethod,
    Budget,
    NoiseKind,
    Repeated,
    account,
    charge,
    clipping_of,
    mechanism_of,
    relation_of,
)
from fedinfer.privacy import decode as decode_sum
from fedinfer.secagg import unpack
from fedinfer.simulation.audit_report import AuditReport, AuditSettings, NoiseUnderAudit, audit_bounds
from fedinfer.simulation.canaries import AuditEvidence, Canaries, CanaryTrainer, Directions, Floats, NamedSource
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.engine import Prepared
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.training import Trainer
from fedinfer.types import AggregationMode, DeviceId, Json, Trust, Unit
from fedinfer.wire import decode, encode

LEAST_CANARIES, MOST_CANARIES = 10, 1000
MOST_NUMBERS = 20_000_000
"""Canaries times dimension that are held at once."""
MOST_AXES = 2_000
"""Largest dimension in which quiet directions are searched: their basis is a dense matrix."""
MOST_ROWS = 2_000
"""Real rows that are read for that."""
SILENT = 1e-6
"""Noise multiplier that stands for none where an event must be positive."""


def run_audit(prepared: Prepared, settings: AuditSettings, clock: Clock) -> AuditReport:
    """Train a scenario with canaries and report what they show.

    Args:
        prepared: from `prepare_local`; drift windows and triggered rounds count in its plan but are not run.
        settings: what is done.
        clock: time.

    Raises:
        ConfigError: nothing is protected, nothing is trained, or too few canaries fit.
        FedInferError: whatever stops a round.
    """
    scenario = _scenario_of(prepared.scenario)
    with tempfile.TemporaryDirectory() as name:
        audit = _open(scenario, prepared, settings, Path(name), clock)
        for number in range(1, audit.plan.rounds + 1):
            _round(audit, f"round-{number:04d}")
    return _report(audit, settings)


@dataclass(slots=True)
class _Audit:
    """Wiring of one audit: a server, the only survivors, and what was planted."""

    server: Server
    plan: RunPlan
    recorder: _Recorder
    settings: SumSettings
    cohort: tuple[DeviceId, ...]
    staying: tuple[DeviceId, ...]
    trainer: CanaryTrainer
    evidence: AuditEvidence
    progress: Progress


@dataclass(slots=True)
class _Recorder:
    """A transport that keeps the last vectors that devices sent."""

    inner: Transport
    bodies: dict[DeviceId, bytes] = field(default_factory=dict)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """Carry the asks and keep the answers."""
        answers = self.inner.ask(asks, timeout_seconds)
        if asks and asks[0].kind == Kind.PLAIN:
            self.bodies = {answer.device: answer.body for answer in answers if not answer.error}
        return answers


def _scenario_of(scenario: Scenario) -> Scenario:
    if scenario.privacy.unit is Unit.NONE:
        raise ConfigError("privacy.unit is none: nothing is claimed, there is nothing to audit")
    if not scenario.training.rounds:
        raise ConfigError("no rounds are planned: there is nothing to audit", hint="--rounds 10")
    if scenario.privacy.trust is Trust.LOCAL and scenario.training.momentum:
        raise ConfigError("canaries in DP-SGD on the device are planted for plain SGD; training.momentum must be 0")
    if scenario.privacy.correlation is not Correlation.NONE:
        raise ConfigError(
            f"privacy.correlation = {str(scenario.privacy.correlation)!r}: an audit scores every round by itself, and "
            "correlated noise protects all rounds together",
            hint="audit with correlation = 'none'",
        )
    section = scenario.secure_aggregation.model_copy(update={"mode": AggregationMode.IDEAL})
    return scenario.model_copy(update={"secure_aggregation": section})


def _open(scenario: Scenario, prepared: Prepared, settings: AuditSettings, folder: Path, clock: Clock) -> _Audit:
    silent = _silent(settings.noise)
    budget = Budget(math.inf, scenario.privacy.delta) if silent else budget_of(scenario)
    host = _host(scenario, prepared.federation, folder, clock)
    if silent:
        host.policy = replace(host.policy, budget=budget)
    server, plan = open_server(_grid(scenario, host), scenario, prepared.federation, folder, "local", clock, _unheard)
    recorder = _Recorder(server.transport)
    server = replace(server, transport=recorder)
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget)
    names = sorted(server.devices)
    order = simulation_rng(scenario.scenario.seed, "audit", "devices").permutation(len(names))
    # One group where a round has several: a unit is in one, and that is all it costs.
    cohort = [names[index] for index in order[: min(plan.cohort, plan.train.mechanism.summands)]]
    staying = tuple(sorted(cohort[: plan.train.min_survivors]))
    host.drops_out = lambda _, device: None if device in staying else Kind.MASKED
    real = trainer_of(host)
    canaries = _plant(scenario, server, plan, settings, staying, _quiet_axes(scenario, host, real, staying))
    trainer = CanaryTrainer(real, canaries, scenario.privacy.clipping_norm, scenario.training.learning_rate)
    host.joined().trainer = trainer
    return _Audit(
        server=server,
        plan=plan,
        recorder=recorder,
        settings=silenced(plan.train) if silent else plan.train,
        cohort=tuple(sorted(cohort)),
        staying=staying,
        trainer=trainer,
        evidence=AuditEvidence(canaries, _groups(scenario.privacy.trust, canaries)),
        progress=first_progress(server, plan),
    )


def _silent(noise: NoiseUnderAudit) -> bool:
    match noise:
        case NoiseUnderAudit.UNSAFE_NO_NOISE:
            return True
        case NoiseUnderAudit.PLANNED:
            return False
        case _:
            assert_never(noise)


def _host(scenario: Scenario, federation: Federation, folder: Path, clock: Clock) -> Host:
    """Simulated devices whose randomness says whose it is."""
    seed = scenario.scenario.seed
    host = simulated_host(scenario, federation, folder / "devices", clock, Processes.ONE)
    host.generator = lambda plan, device: NamedSource(
        plan.round_id, device, SimulatedEntropy(seed, "fit", plan.round_id, device)
    )
    return host


def _grid(scenario: Scenario, host: Host) -> LocalGrid:
    names, responder = sorted(host.members), DeviceResponder(host)
    app = CohortClientApp(lambda context: (names[int(context.node_config["partition-id"])], responder))
    return LocalGrid(app, len(names), to_flat(scenario))


def _unheard(_name: str, _fields: Json) -> None:
    """Nobody listens to an audit's events."""


def silenced(settings: SumSettings) -> SumSettings:
    """The same sums without noise. They are charged as not private; the claim is made from the real plan.

    Args:
        settings: of the sums of a plan.
    """
    mechanism = settings.mechanism
    if mechanism.kind is not NoiseKind.NONE:
        return replace(settings, mechanism=replace(mechanism, kind=NoiseKind.NONE, noise_multiplier=0.0))
    return replace(settings, noise_multiplier=SILENT)


def _quiet_axes(scenario: Scenario, host: Host, trainer: Trainer, staying: Sequence[DeviceId]) -> Floats:
    """(d, k) axes in which the real rows' gradients vary least: sampling of real rows hides canaries there least.

    Differential privacy holds for any data, so the auditor may choose the canaries that suit it. Half of all axes.
    """
    d = trainer.dimension
    sampled = scenario.privacy.unit is Unit.EXAMPLE and scenario.training.sampling_rate < 1
    if not sampled or not 2 <= d <= MOST_AXES:
        return np.zeros((d, 0))
    data = [host.rows.training(device, 0) for device in staying]
    x, y = (np.concatenate(part)[:MOST_ROWS] for part in zip(*data, strict=True))
    singles = [(x[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    rngs = [simulation_rng(0)] * len(singles)
    gradients = trainer.gradient_sums(
        trainer.initial(), singles, 1.0, scenario.privacy.clipping_norm, rngs, host.engine
    )
    axes: Floats = np.linalg.eigh(gradients.T.astype(np.float64) @ gradients)[1]  # ascending
    return axes[:, : d // 2]


def _plant(
    scenario: Scenario,
    server: Server,
    plan: RunPlan,
    settings: AuditSettings,
    staying: Sequence[DeviceId],
    axes: Floats,
) -> Canaries:
    """Choose homes and coins."""
    seed = scenario.scenario.seed
    k = axes.shape[1] or axes.shape[0]
    devices = scenario.privacy.unit is Unit.DEVICE
    fits = min(MOST_CANARIES, MOST_NUMBERS // server.trainer.dimension, len(staying) if devices else MOST_CANARIES)
    m = settings.canaries or min(_wanted(scenario, settings.method, k, plan.rounds), fits)
    if not LEAST_CANARIES <= m <= fits:
        raise ConfigError(
            f"{m} canaries: at least {LEAST_CANARIES} are needed, {fits} fit ({len(staying)} devices stay in a round)",
            hint="audit more devices, more rounds, or choose --canaries",
        )
    homes = tuple(staying[i % len(staying)] for i in range(m))
    coins = simulation_rng(seed, "audit", "coins").random(m) < 0.5
    match settings.method:
        case AuditMethod.CANARY:
            return Canaries(homes, np.ones(m, dtype=np.bool_), Directions.FIXED, axes, seed)
        case AuditMethod.ONE_RUN:
            return Canaries(homes, coins, Directions.FRESH, axes, seed)
        case _:
            assert_never(settings.method)


def _wanted(scenario: Scenario, method: AuditMethod, k: int, rounds: int) -> int:
    """As many canaries as could be found without noise: they cover one another, and sampling covers them."""
    match method:
        case AuditMethod.CANARY:
            return max(LEAST_CANARIES, min(50, k // 20))
        case AuditMethod.ONE_RUN:
            rate = scenario.privacy.unit.sampling_rate(scenario.training.sampling_rate)
            return max(LEAST_CANARIES, int(k * rounds / 5 * min(1.0, rate / max(1 - rate, 1e-9))))
        case _:
            assert_never(method)


def _groups(trust: Trust, canaries: Canaries) -> np.ndarray:
    """With trust `local` every device is seen alone, else only the sum."""
    match trust:
        case Trust.LOCAL:
            names = sorted(set(canaries.homes))
            return np.array([names.index(home) for home in canaries.homes], dtype=np.int64)
        case Trust.DISTRIBUTED | Trust.CENTRAL:
            return np.zeros(len(canaries.homes), dtype=np.int64)
        case _:
            assert_never(trust)


def _promise(audit: _Audit, settings: SumSettings, round_id: str, work: bytes) -> SumPlan:
    server, group = audit.server, Group(round_id, audit.cohort, ONE_GROUP)
    return sum_plan(server.scenario, server.run_id, server.entropy, settings, Purpose.TRAIN, group, work)


def _round(audit: _Audit, round_id: str) -> None:
    audit.trainer.norm = audit.progress.clipping_norm
    work = encode(FitWork(audit.progress.weights, 0, audit.progress.clipping_norm))
    promise = _promise(audit, audit.settings, round_id, work)
    released, result = release(audit.server, promise, work)
    if released is None:
        raise TooFewSurvivors(f"round {round_id} of the audit has only {len(result.survivors)} survivors")
    audit.evidence.add(round_id, _views(audit, promise, released.total), audit.trainer.effects)
    server = audit.server
    apply_release(server.scenario, server.trainer, server.rows, audit.plan, audit.progress, released)


def _views(audit: _Audit, promise: SumPlan, total: np.ndarray) -> Floats:
    """(groups, d) what is seen of this round, minus what is known."""
    expected = audit.trainer.expected
    clipping, norm = clipping_of(audit.server.scenario.privacy), audit.trainer.norm
    match promise.trust:
        case Trust.DISTRIBUTED | Trust.CENTRAL:
            known = np.sum([expected[device] for device in audit.staying], axis=0)
            return np.asarray(clipping.updates(total, norm) - known, np.float64)[None, :]
        case Trust.LOCAL:
            pass
        case _:
            assert_never(promise.trust)
    mechanism = mechanism_of(promise)
    views = []
    for device in sorted(set(audit.trainer.canaries.homes)):
        packed = decode(PlainReply, audit.recorder.bodies[device]).packed
        own = decode_sum(unpack(packed, mechanism.bits, mechanism.padded), mechanism, promise.rotation_seed)
        views.append(clipping.updates(own, norm) - expected[device])
    return np.stack(views)


def _report(audit: _Audit, settings: AuditSettings) -> AuditReport:
    scenario = audit.server.scenario
    privacy, canaries = scenario.privacy, audit.trainer.canaries
    # The claim comes from the plan as it was made, whatever noise was added.
    promise = _promise(audit, audit.plan.train, "claim", b"")
    events = [Repeated(event, audit.plan.rounds) for event in charge(promise)]
    claimed = account(events, privacy.delta, relation_of(privacy.unit))
    bound, ceiling = audit_bounds(audit.evidence, canaries, privacy.delta, settings)
    return AuditReport(
        scenario.scenario.name, privacy.unit, privacy.trust, audit.plan.rounds, settings.noise, claimed, bound, ceiling
    )  # fmt: skip
