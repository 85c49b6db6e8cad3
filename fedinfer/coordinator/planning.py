"""Before anything is asked of a device: how many survivors, which noise, which ring, what the whole run will cost.

The budget covers every planned round, every window's report, and the rounds and windows of every allowed trigger.
First the drift reports get their own share (`drift.epsilon`, all windows together) and so do the looks at new models
(`rollout.gate_epsilon`), then the training noise is the
least for which everything together stays within `privacy.epsilon`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from fedinfer.config import Scenario
from fedinfer.coordinator.advice import noise_effort, too_little, warnings_of
from fedinfer.coordinator.correlation import correlate
from fedinfer.coordinator.drift_planning import DriftPlan, plan_drift, windows
from fedinfer.coordinator.gate_planning import GatePlan, plan_gates
from fedinfer.coordinator.hiding import Hiding, corruption_warnings, group_warnings, hide
from fedinfer.coordinator.robust import Rule, rule_of
from fedinfer.drift.channels import report_channels, width
from fedinfer.drift.sketch import report_norm
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting import Spent, account
from fedinfer.privacy.calibration import calibrate
from fedinfer.privacy.charges import relation_of
from fedinfer.privacy.clipping import clipping_of
from fedinfer.privacy.design import design, design_without_noise
from fedinfer.privacy.events import Event, GaussianEvent, PoissonSampled, Repeated
from fedinfer.privacy.factorization import Factorization
from fedinfer.privacy.mechanism import IntegerMechanism, NoiseKind, Rounding
from fedinfer.rollout.looks import NORM, WIDTH
from fedinfer.training.optimizers import OptimizerSettings
from fedinfer.types import Relation, Trust, Unit

LEAST_NOISE, MOST_NOISE = 0.02, 1e4
"""Noise multipliers outside this range are not considered."""
MOST_NOISE_OVER_SIGNAL = 10.0
"""A plan whose noise is this many times the largest possible signal cannot train anything and is refused."""
UNUSED_NOISE = 1.0
"""Noise multiplier of a plan without any round: nothing is released with it."""
IN_ONE_PROCESS = "local"
"""The engine whose devices all live in one process."""
MAX_LOSS = 0.01
"""Part of epsilon that rounding and the finite ring may cost."""
TAIL_DEVIATIONS = 6.0
"""How far beyond its mean a Gaussian norm is allowed for when a range is chosen; beyond it, clipping."""


@dataclass(frozen=True, slots=True)
class SumSettings:
    """Everything a private sum's plan needs besides its names.

    Args:
        mechanism: of the ring.
        noise_multiplier: of noise outside the ring (trust local and central), 0 otherwise.
        sampling_rate: of examples inside a device.
        local_steps: noisy steps inside one round (trust local, unit example), else 1.
        norm: clipping norm of one unit; noise multipliers are relative to it.
        degree, threshold, min_survivors: of secure aggregation; the graph is that of the largest group.
        groups: of a round, each with a private sum of its own.
        corrupt: devices of one group that may work for the attacker.
    """

    mechanism: IntegerMechanism
    noise_multiplier: float
    sampling_rate: float
    local_steps: int
    norm: float
    degree: int
    threshold: int
    min_survivors: int
    groups: int = 1
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run before it starts.

    Args:
        engine: name of the grid.
        cohort: devices asked in a round.
        group_size: devices of its largest group; the cohort when there is one group.
        rule: how groups' means become one update.
        train, drift: settings of the sums; drift is None when nothing is watched.
        gates: settings of the look at each wave of a rollout; empty when acknowledged installs alone decide.
        optimizer: the server's.
        rounds, retrain_rounds, windows, after_windows: how many.
        planned: what everything together costs; None without privacy.
        drift_epsilon, gate_epsilon: what all reports, or all looks, alone would cost.
        noise_multiplier, drift_noise_multiplier, gate_noise_multiplier: guaranteed standard deviation over norm.
        factorization: how the noise of training rounds is correlated; `noise_multiplier` is then that of the fresh
            noise. None: independent.
        relation, sampling: what epsilon means.
        warnings: repeated in the report.
    """

    engine: str
    cohort: int
    group_size: int
    rule: Rule
    train: SumSettings
    drift: SumSettings | None
    gates: tuple[SumSettings, ...]
    optimizer: OptimizerSettings
    rounds: int
    retrain_rounds: int
    windows: int
    after_windows: int
    planned: Spent | None
    drift_epsilon: float
    gate_epsilon: float
    noise_multiplier: float
    drift_noise_multiplier: float
    gate_noise_multiplier: float
    factorization: Factorization | None
    relation: Relation
    sampling: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Population:
    """Public facts about who takes part.

    Args:
        devices: number of enrolled devices.
        rows: training rows of all devices together; least_rows: of the smallest device.
        dimension: tuned parameters; classes: of the label.
    """

    devices: int
    rows: int
    least_rows: int
    dimension: int
    classes: int


def make_plan(scenario: Scenario, population: Population, engine: str, warnings: tuple[str, ...]) -> RunPlan:
    """Plan a whole run.

    Raises:
        ConfigError: when the cohort cannot be protected as asked, or the budget is too small for a useful round.
    """
    hiding = _hiding(scenario, population)
    factorization = _factorization(scenario, population, hiding, scenario.most_rounds)
    drift, looks = _watching(scenario, population, hiding)
    watching = (*drift.events, *looks.events)
    noise = _train_noise(scenario, population, hiding, watching)
    train = _train_settings(scenario, population, hiding, noise)
    section = scenario.training
    together = hiding.cohort if engine == IN_ONE_PROCESS else 1
    advice = (*warnings_of(scenario, hiding), *noise_effort(train.mechanism, together))
    return RunPlan(
        engine=engine,
        cohort=hiding.cohort,
        group_size=hiding.largest,
        rule=rule_of(scenario, hiding.groups),
        train=train,
        drift=drift.settings,
        gates=looks.settings,
        optimizer=OptimizerSettings(section.server_optimizer, section.server_learning_rate, section.server_momentum),
        rounds=section.rounds,
        retrain_rounds=scenario.drift.rounds,
        windows=scenario.drift.windows if scenario.drift.enabled else 0,
        after_windows=scenario.drift.after_windows,
        planned=_planned(scenario, population, hiding, noise, watching),
        drift_epsilon=drift.epsilon,
        gate_epsilon=looks.epsilon,
        noise_multiplier=noise,
        drift_noise_multiplier=drift.noise_multiplier,
        gate_noise_multiplier=looks.noise_multiplier,
        factorization=factorization,
        relation=relation_of(scenario.privacy.unit),
        sampling="poisson" if train.sampling_rate < 1 else "none",
        warnings=(
            *warnings,
            *corruption_warnings(scenario.secure_aggregation, hiding),
            *group_warnings(hiding),
            *looks.warnings,
            *advice,
        ),
    )


def _hiding(scenario: Scenario, population: Population) -> Hiding:
    return hide(scenario.secure_aggregation, min(scenario.training.cohort or population.devices, population.devices))


def _watching(scenario: Scenario, population: Population, hiding: Hiding) -> tuple[DriftPlan, GatePlan]:
    """Everything but training: drift reports and looks."""
    channels = report_channels(population.classes)
    norm = report_norm(scenario.privacy.unit, channels)
    reports = partial(_report_settings, scenario, width(channels), norm)
    everybody = hiding.cohort == population.devices or not windows(scenario)
    reporters = hiding if everybody else hide(scenario.secure_aggregation, population.devices)
    looks = plan_gates(scenario, population.devices, partial(_report_settings, scenario, WIDTH, NORM))
    return plan_drift(scenario, reporters, reports), looks


def _factorization(scenario: Scenario, population: Population, hiding: Hiding, rounds: int) -> Factorization | None:
    return correlate(scenario, population.devices, hiding.cohort, rounds)


def _train_noise(scenario: Scenario, population: Population, hiding: Hiding, watching: tuple[Event, ...]) -> float:
    privacy, rounds = scenario.privacy, scenario.most_rounds
    if privacy.unit is Unit.NONE:
        return 0.0
    if not rounds:
        return UNUSED_NOISE

    def events(z: float) -> tuple[Event, ...]:
        return (*watching, *_train_events(scenario, population, hiding, z, rounds))

    if _least_cost(scenario, population, hiding, watching, rounds) > privacy.epsilon:
        raise _too_little(scenario, population, hiding, watching)
    most = _most_noise(scenario, population, hiding)
    return calibrate(events, privacy.epsilon, privacy.delta, relation_of(privacy.unit), (LEAST_NOISE, most))


def _most_noise(scenario: Scenario, population: Population, hiding: Hiding) -> float:
    """The largest noise multiplier with which something is learned and the sum fits into the ring."""
    useful = MOST_NOISE_OVER_SIGNAL * _signal(scenario, population, hiding) / math.sqrt(population.dimension)
    strategy = _factorization(scenario, population, hiding, scenario.most_rounds)
    if strategy is not None:  # its noise is larger in one round and smaller in the sum of many
        useful /= strategy.spread()
    most = min(max(useful, 2 * LEAST_NOISE), MOST_NOISE)
    while most > 2 * LEAST_NOISE:
        try:
            _train_settings(scenario, population, hiding, most)
        except ConfigError:  # the ring has no room for so much noise; for less it may have
            most /= 2
        else:
            break
    return most


def _least_cost(
    scenario: Scenario, population: Population, hiding: Hiding, watching: tuple[Event, ...], rounds: int
) -> float:
    """Epsilon of so many rounds, and of everything else, at the largest useful noise."""
    most = _most_noise(scenario, population, hiding)
    events = (*watching, *_train_events(scenario, population, hiding, most, rounds))
    return account(events, scenario.privacy.delta, relation_of(scenario.privacy.unit)).epsilon


def _too_little(scenario: Scenario, population: Population, hiding: Hiding, watching: tuple[Event, ...]) -> ConfigError:
    def enough(devices: int) -> bool:
        larger = replace(population, devices=devices)
        try:
            hiding = _hiding(scenario, larger)
            drift, looks = _watching(scenario, larger, hiding)
            events = (*drift.events, *looks.events)
            return _least_cost(scenario, larger, hiding, events, scenario.most_rounds) <= scenario.privacy.epsilon
        except ConfigError:
            return False

    # More devices with the same rows do not help rows, and a cohort does not grow with its population.
    helps = scenario.privacy.unit is Unit.DEVICE and not scenario.training.cohort
    most = _most_noise(scenario, population, hiding)
    times = most * math.sqrt(population.dimension) / _signal(scenario, population, hiding)
    return too_little(
        scenario,
        lambda rounds: _least_cost(scenario, population, hiding, watching, rounds),
        scenario.most_rounds,
        f"noise multiplier {most:.3g} the noise is {times:.3g} times the largest possible signal",
        enough if helps else None,
        population.devices,
    )


def _signal(scenario: Scenario, population: Population, hiding: Hiding) -> float:
    """Largest norm of the sum, in clipping norms, that all units together could give, per noise of one release.

    Signals add up; noise of n groups, or with trust `local` of n devices, only as sqrt(n).
    """
    privacy, rate = scenario.privacy, scenario.training.sampling_rate
    if privacy.trust is Trust.LOCAL:
        own = max(rate * population.least_rows, 1.0) if privacy.unit is Unit.EXAMPLE else 1.0
        return own * math.sqrt(hiding.cohort)
    noisy = hiding.groups if privacy.trust is Trust.DISTRIBUTED else 1
    return (rate * population.rows if privacy.unit is Unit.EXAMPLE else hiding.cohort) / math.sqrt(noisy)


def _train_events(
    scenario: Scenario, population: Population, hiding: Hiding, z: float, rounds: int
) -> tuple[Event, ...]:
    privacy = scenario.privacy
    rate = scenario.training.sampling_rate if privacy.unit is Unit.EXAMPLE else 1.0
    if privacy.trust is Trust.DISTRIBUTED:
        return (Repeated(_train_settings(scenario, population, hiding, z).mechanism.event(rate), rounds),)
    strategy = _factorization(scenario, population, hiding, rounds)
    if strategy is not None:
        return (strategy.event(z),)
    noise = GaussianEvent(z)
    return (Repeated(noise if rate >= 1 else PoissonSampled(rate, noise), rounds * _local_steps(scenario)),)


def _local_steps(scenario: Scenario) -> int:
    """Noisy steps of one device in one round: one, except for DP-SGD on the device."""
    if scenario.privacy.trust is not Trust.LOCAL or scenario.privacy.unit is not Unit.EXAMPLE:
        return 1
    return scenario.privacy.local_steps or max(1, round(1 / scenario.training.sampling_rate))


def _train_settings(scenario: Scenario, population: Population, hiding: Hiding, z: float) -> SumSettings:
    privacy, example = scenario.privacy, scenario.privacy.unit is Unit.EXAMPLE
    rate = scenario.training.sampling_rate if example else 1.0
    units = _sampled(population.rows, rate, privacy.trust) if example else hiding.largest
    local_range = _local_range(scenario, population, z)
    clipping = clipping_of(privacy)
    sent = population.dimension + clipping.extra
    mechanism = _mechanism(scenario, hiding, sent, clipping.bound, local_range, units, z)
    outside = 0.0 if privacy.trust is Trust.DISTRIBUTED or privacy.unit is Unit.NONE else z
    return _settings(mechanism, outside, rate, _local_steps(scenario), clipping.bound, hiding)


def _sampled(rows: int, rate: float, trust: Trust) -> int:
    """Most rows in a round. With central noise the sum must never wrap around, so no tail is cut off."""
    if trust is Trust.CENTRAL:
        return max(rows, 1)
    return max(1, min(rows, math.ceil(rate * rows + TAIL_DEVIATIONS * math.sqrt(rate * rows))))


def _local_range(scenario: Scenario, population: Population, z: float) -> float:
    """A norm that an already noised vector practically never exceeds; what does is clipped, after the noise."""
    privacy, training = scenario.privacy, scenario.training
    clipping = clipping_of(privacy)
    noise = z * (math.sqrt(population.dimension + clipping.extra) + TAIL_DEVIATIONS)
    if privacy.unit is not Unit.EXAMPLE:
        return clipping.bound * (1 + noise)
    # Signals of all steps may point one way, independent noise adds up as the root; momentum repeats every step.
    steps, expected = _local_steps(scenario), max(training.sampling_rate * population.least_rows, 1.0)
    reach = 2.0 * steps + noise * math.sqrt(steps) / expected
    return training.learning_rate / (1 - training.momentum) * clipping.bound * reach


def _report_settings(scenario: Scenario, bins: int, norm: float, hiding: Hiding, z: float) -> SumSettings:
    """Of a sum of small reports: nothing is sampled, and a device has one window of rows."""
    privacy = scenario.privacy
    rows = scenario.drift.window if privacy.unit is Unit.EXAMPLE else 1
    local_range = norm * (rows + z * (math.sqrt(bins) + TAIL_DEVIATIONS))
    mechanism = _mechanism(scenario, hiding, bins, norm, local_range, rows * hiding.largest, z)
    outside = 0.0 if privacy.trust is Trust.DISTRIBUTED or privacy.unit is Unit.NONE else z
    return _settings(mechanism, outside, 1.0, 1, norm, hiding)


def _settings(
    mechanism: IntegerMechanism, outside: float, rate: float, steps: int, norm: float, hiding: Hiding
) -> SumSettings:
    return SumSettings(
        mechanism, outside, rate, steps, norm,
        hiding.degree, hiding.threshold, hiding.min_survivors, hiding.groups, hiding.corrupt,
    )  # fmt: skip


def _mechanism(
    scenario: Scenario, hiding: Hiding, dimension: int, norm: float, local_range: float, units: int, z: float
) -> IntegerMechanism:
    """The ring: with noise shares for trust `distributed`, without for the others."""
    privacy = scenario.privacy
    rounding = Rounding.DITHERED if privacy.unit is Unit.EXAMPLE else Rounding.CONDITIONAL
    if privacy.unit is not Unit.NONE and privacy.trust is Trust.DISTRIBUTED:
        return design(
            kind=NoiseKind(privacy.mechanism),
            rounding=rounding,
            dimension=dimension,
            clipping_norm=norm,
            noise_multiplier=z,
            contributors=hiding.contributors,
            summands=hiding.largest,
            units=units,
            max_loss=MAX_LOSS,
        )
    local = privacy.trust is Trust.LOCAL
    return design_without_noise(
        rounding=Rounding.CONDITIONAL if local else rounding,
        unit=Unit.NONE if local else privacy.unit,
        dimension=dimension,
        clipping_norm=local_range if local else norm,
        summands=hiding.largest,
        units=hiding.largest if local else units,
        max_loss=MAX_LOSS,
    )


def _planned(
    scenario: Scenario, population: Population, hiding: Hiding, noise: float, watching: tuple[Event, ...]
) -> Spent | None:
    privacy = scenario.privacy
    if privacy.unit is Unit.NONE:
        return None
    rounds = scenario.most_rounds
    events = (*watching, *_train_events(scenario, population, hiding, noise, rounds)) if rounds else watching
    return account(events, privacy.delta, relation_of(privacy.unit))
