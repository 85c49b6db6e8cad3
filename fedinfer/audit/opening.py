"""Setting an audit up: a server, simulated devices of which only the promised number stays, and the canaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

import numpy as np

from fedinfer.audit.canaries import AuditEvidence, Canaries, CanaryTrainer, Directions, Floats, NamedSource
from fedinfer.audit.report import AuditSettings, NoiseUnderAudit
from fedinfer.config import Scenario, to_flat
from fedinfer.coordinator import LEDGER_OWNER, Progress, RunPlan, Server, SumSettings, first_progress
from fedinfer.data import Federation
from fedinfer.device import DeviceResponder, Host, trainer_of
from fedinfer.errors import ConfigError
from fedinfer.flower import CohortClientApp
from fedinfer.messages import Kind
from fedinfer.ports import Answer, Ask, Clock, Transport
from fedinfer.privacy import AuditMethod, Budget, NoiseKind
from fedinfer.simulation import LocalGrid, Prepared, Processes, open_server, simulated_host
from fedinfer.system import simulation_rng
from fedinfer.training import RandomSource, Trainer
from fedinfer.types import AggregationMode, DeviceId, Json, Trust, Unit

LEAST_CANARIES, MOST_CANARIES = 10, 1000
MOST_NUMBERS = 20_000_000
"""Canaries times dimension that are held at once."""
MOST_AXES = 2_000
"""Largest dimension in which quiet directions are searched: their basis is a dense matrix."""
MOST_ROWS = 2_000
"""Real rows that are read for that."""
SILENT = 1e-6
"""Noise multiplier that stands for none where an event must be positive."""


@dataclass(slots=True)
class Audited:
    """Wiring of one audit.

    Args:
        server, plan: of the run.
        host: all devices; those that are not in `staying` under the id of a round drop out of it.
        order: all devices, in a drawn order.
        recorder: what devices sent last.
        train: settings of the rounds, without noise where that is what is tested.
        trainer: plants the canaries.
        evidence: of the canaries.
        progress: of the run.
        staying: by round id, the devices that stay.
        silent: no noise is added anywhere.
    """

    server: Server
    plan: RunPlan
    host: Host
    order: tuple[DeviceId, ...]
    recorder: BodyRecorder
    train: SumSettings
    trainer: CanaryTrainer
    evidence: AuditEvidence
    progress: Progress
    staying: dict[str, frozenset[DeviceId]]
    silent: bool

    def settings(self, planned: SumSettings) -> SumSettings:
        """Of other sums of the plan, without noise where that is what is tested.

        Args:
            planned: as the plan has them.
        """
        return silenced(planned) if self.silent else planned

    def cohort(self, settings: SumSettings, most: int) -> tuple[tuple[DeviceId, ...], tuple[DeviceId, ...]]:
        """Who is asked for a sum of one group, and who stays; both sorted.

        Args:
            settings: of the sum.
            most: devices that the plan asks.
        """
        # One group where a round has several: a unit is in one, and that is all it costs.
        asked = self.order[: min(most, settings.mechanism.summands)]
        return tuple(sorted(asked)), tuple(sorted(asked[: settings.min_survivors]))


@dataclass(slots=True)
class BodyRecorder:
    """A transport that keeps the last vectors that devices sent."""

    inner: Transport
    bodies: dict[DeviceId, bytes] = field(default_factory=dict)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """Carry the asks and keep the answers.

        Args:
            asks: to any devices.
            timeout_seconds: passed on.
        """
        answers = self.inner.ask(asks, timeout_seconds)
        if asks and asks[0].kind == Kind.PLAIN:
            self.bodies = {answer.device: answer.body for answer in answers if not answer.error}
        return answers


def open_audit(prepared: Prepared, settings: AuditSettings, folder: Path, clock: Clock) -> Audited:
    """Enrol simulated devices, plan the run and plant the canaries; nothing is asked of anybody's data yet.

    Every account has room for all that an audit does beside the rounds: what a ledger refuses has tests of its own.

    Args:
        prepared: scenario and data.
        settings: of the audit.
        folder: empty; for what devices and server keep.
        clock: time.

    Raises:
        ConfigError: nothing is protected, nothing is trained, or too few canaries fit.
    """
    scenario = _scenario_of(prepared.scenario)
    silent = _silent(settings.noise)
    budget = Budget(math.inf, scenario.privacy.delta)
    host = _host(scenario, prepared.federation, folder, clock)
    host.policy = replace(host.policy, budget=budget)
    server, plan = open_server(_grid(scenario, host), scenario, prepared.federation, folder, "local", clock, _unheard)
    recorder = BodyRecorder(server.transport)
    server = replace(server, transport=recorder)
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget)
    names = sorted(server.devices)
    order = simulation_rng(scenario.scenario.seed, "audit", "devices").permutation(len(names))
    staying: dict[str, frozenset[DeviceId]] = {}
    host.drops_out = lambda name, device: None if device in staying[name] else Kind.MASKED
    progress = first_progress(server, plan)
    shuffled = tuple(names[index] for index in order)
    homes = tuple(sorted(shuffled[: plan.train.min_survivors]))
    real = trainer_of(host)
    canaries = _plant(scenario, server, plan, settings, homes, _quiet_axes(scenario, host, real, homes))
    trainer = CanaryTrainer(real, canaries, scenario.privacy.clipping_norm, scenario.training.learning_rate)
    host.joined().trainer = trainer
    strategy = plan.factorization.coefficients if plan.factorization else (1.0,)
    return Audited(
        server=server,
        plan=plan,
        host=host,
        order=shuffled,
        recorder=recorder,
        train=silenced(plan.train) if silent else plan.train,
        trainer=trainer,
        evidence=AuditEvidence(canaries, _groups(scenario.privacy.trust, canaries), strategy),
        progress=progress,
        staying=staying,
        silent=silent,
    )


def _scenario_of(scenario: Scenario) -> Scenario:
    if scenario.privacy.unit is Unit.NONE:
        raise ConfigError("privacy.unit is none: nothing is claimed, there is nothing to audit")
    if not scenario.training.rounds:
        raise ConfigError("no rounds are planned: there is nothing to audit", hint="--rounds 10")
    if scenario.privacy.trust is Trust.LOCAL and scenario.training.momentum:
        raise ConfigError("canaries in DP-SGD on the device are planted for plain SGD; training.momentum must be 0")
    section = scenario.secure_aggregation.model_copy(update={"mode": AggregationMode.IDEAL})
    return scenario.model_copy(update={"secure_aggregation": section})


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
    host = simulated_host(scenario, federation, folder / "devices", clock, Processes.ONE)
    drawn = host.generator
    host.generator = lambda plan, device: NamedSource(seeded(drawn(plan, device)), plan.round_id, device)
    return host


def seeded(source: RandomSource) -> np.random.Generator:
    """The generator of a simulated device.

    Args:
        source: as a host makes it.

    Raises:
        ConfigError: it is the entropy of a real device.
    """
    if not isinstance(source, np.random.Generator):
        raise ConfigError("an audit plays its devices itself: their randomness has a seed")
    return source


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
