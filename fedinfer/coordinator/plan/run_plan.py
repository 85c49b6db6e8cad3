"""A whole run before anything is asked of a device: from top to bottom scenario -> cohort -> sum settings -> plan.

The budget covers every planned round, every window's report, and the rounds and windows of every allowed trigger.
First the drift reports get their own share (`drift.epsilon`, all windows together) and so do the canary evaluations of
new models (`rollout.canary_epsilon`), then the training noise is the least for which everything together stays within
`privacy.epsilon`. With unit `example` rows that are trained on and rows of windows are different ones: each of the two
has the whole budget, and `together` is the worse of both (`privacy.split_of`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.advice import noise_effort, too_little, warnings_of
from fedinfer.coordinator.plan.canary import plan_canaries
from fedinfer.coordinator.plan.cohort import (
    AggregationCohort,
    Population,
    aggregation_of,
    corruption_warnings,
    group_warnings,
    least_devices,
)
from fedinfer.coordinator.plan.drift import plan_drift
from fedinfer.coordinator.plan.robust import Rule, rule_of
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.coordinator.plan.threshold import plan_threshold
from fedinfer.coordinator.plan.training import (
    Rounds,
    events_of,
    least_cost,
    most_noise,
    noise_for_training,
    noise_over_signal,
    plan_rounds,
    training_settings,
)
from fedinfer.drift import Channel
from fedinfer.errors import ConfigError
from fedinfer.privacy import (
    Distributed,
    Event,
    Factorization,
    Spent,
    WindowRows,
    account,
    at_most,
    exactly,
    noise_model,
    relation_of,
)
from fedinfer.training import OptimizerSettings
from fedinfer.types import Relation, Unit

IN_ONE_PROCESS = "local"
"""The engine whose devices all live in one process."""
IN_THE_FIELD = "deployment"
"""The engine whose devices are real."""


@dataclass(frozen=True, slots=True)
class PlannedEvents:
    """What a whole run may do to one unit of privacy.

    Args:
        rounds: of training, those of every allowed alarm included.
        windows: drift reports.
        evaluations: canary evaluations.
        thresholds: private choices of a threshold.
    """

    rounds: tuple[Event, ...]
    windows: tuple[Event, ...]
    evaluations: tuple[Event, ...]
    thresholds: tuple[Event, ...] = ()

    @property
    def all(self) -> tuple[Event, ...]:
        """All of them."""
        return (*self.windows, *self.evaluations, *self.thresholds, *self.rounds)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run before it starts.

    Args:
        engine: name of the grid.
        cohort: devices asked in a round.
        group_size: devices of its largest group; the cohort when there is one group.
        rule: how groups' means become one update.
        train, drift, threshold: settings of the sums; drift is None when nothing is watched, threshold when none is
            chosen in private.
        channels: of every drift report; none when nothing is watched.
        gates: settings of the canary evaluation of each wave; empty when acknowledged installs alone decide.
        optimizer: the server's.
        rounds, retrain_rounds, windows, after_windows: how many.
        events: everything that the run may do to one unit, by what it is for.
        push: what the canary evaluations of one push cost together; empty without them or without privacy.
        planned: what everything together costs; None without privacy.
        thresholds: how many of them there are at most.
        drift_epsilon, gate_epsilon, threshold_epsilon: what all reports, canary evaluations, or choices of a threshold
            alone would cost.
        noise_multiplier, drift_noise_multiplier, gate_noise_multiplier, threshold_noise_multiplier: guaranteed
            standard deviation over norm.
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
    threshold: SumSettings | None
    channels: tuple[Channel, ...]
    gates: tuple[SumSettings, ...]
    optimizer: OptimizerSettings
    rounds: int
    retrain_rounds: int
    windows: int
    after_windows: int
    events: PlannedEvents
    push: tuple[Event, ...]
    planned: Spent | None
    thresholds: int
    drift_epsilon: float
    gate_epsilon: float
    threshold_epsilon: float
    noise_multiplier: float
    drift_noise_multiplier: float
    gate_noise_multiplier: float
    threshold_noise_multiplier: float
    factorization: Factorization | None
    relation: Relation
    sampling: str
    warnings: tuple[str, ...]


def make_plan(scenario: Scenario, population: Population, engine: str, warnings: tuple[str, ...]) -> RunPlan:
    """Plan a whole run.

    Args:
        scenario: what was asked for.
        population: public facts about who takes part.
        engine: name of the grid.
        warnings: already known; they come first in the plan's.

    Raises:
        ConfigError: when the cohort cannot be protected as asked, or the budget is too small for a useful round.
    """
    aggregation = _aggregation(scenario, population)
    _check_tolerated(scenario, engine, aggregation)
    windows = WindowRows.LIVE if engine == IN_THE_FIELD else WindowRows.HELD_OUT
    rounds = plan_rounds(scenario, population, aggregation, windows)
    drift = plan_drift(scenario, population, windows)
    evaluations = plan_canaries(scenario, population.devices, windows)
    choices = plan_threshold(scenario, population, windows)
    watching = (*drift.events, *evaluations.events, *choices.events)
    _check_watching(scenario, watching)
    _check_affordable(rounds, watching)
    noise = noise_for_training(rounds, watching)
    trained = events_of(rounds, noise, scenario.most_rounds) if scenario.most_rounds else ()
    events = PlannedEvents(trained, drift.events, evaluations.events, choices.events)
    train = training_settings(rounds, noise)
    section = scenario.training
    together = aggregation.cohort if engine == IN_ONE_PROCESS else 1
    advice = (*warnings_of(scenario, aggregation, given=population.given), *noise_effort(train.mechanism, together))
    return RunPlan(
        engine=engine,
        cohort=aggregation.cohort,
        group_size=aggregation.largest,
        rule=rule_of(scenario, aggregation.groups),
        train=train,
        drift=drift.settings,
        threshold=choices.settings,
        channels=drift.channels,
        gates=evaluations.settings,
        optimizer=OptimizerSettings(section.server_optimizer, section.server_learning_rate, section.server_momentum),
        rounds=section.rounds,
        retrain_rounds=scenario.drift.rounds,
        windows=scenario.drift.windows if scenario.drift.enabled else 0,
        after_windows=scenario.drift.after_windows,
        events=events,
        push=evaluations.push,
        planned=_planned(scenario, events.all),
        thresholds=choices.count,
        drift_epsilon=drift.epsilon,
        gate_epsilon=evaluations.epsilon,
        threshold_epsilon=choices.epsilon,
        noise_multiplier=noise,
        drift_noise_multiplier=drift.noise_multiplier,
        gate_noise_multiplier=evaluations.noise_multiplier,
        threshold_noise_multiplier=choices.noise_multiplier,
        factorization=rounds.factorization,
        relation=relation_of(scenario.privacy.unit),
        sampling="poisson" if train.sampling_rate < 1 else "none",
        warnings=(
            *warnings,
            *corruption_warnings(scenario.secure_aggregation, aggregation),
            *group_warnings(aggregation),
            *drift.warnings,
            *evaluations.warnings,
            *advice,
        ),
    )


def _aggregation(scenario: Scenario, population: Population) -> AggregationCohort:
    """Groups and graph of a training round.

    Raises:
        ConfigError: so few devices cannot be protected; with a number of devices that can, and that the budget reaches.
    """
    try:
        return aggregation_of(scenario, population)
    except ConfigError as error:
        if scenario.training.cohort or scenario.secure_aggregation.group_size:  # more devices would be asked no better
            raise
        found = least_devices(
            lambda devices: _affordable(scenario, replace(population, devices=devices)), population.devices
        )
        if found is None:
            raise
        raise ConfigError(str(error), hint=f"{found} devices would do; or {error.hint}") from error


def _check_tolerated(scenario: Scenario, engine: str, aggregation: AggregationCohort) -> None:
    """Refuse a deployment whose claim ends with the first device that works for the attacker.

    Raises:
        ConfigError: see there. In a simulation it is a warning.
    """
    shared = isinstance(noise_model(scenario.privacy.trust, scenario.privacy.unit), Distributed)
    if engine == IN_THE_FIELD and shared and not aggregation.corrupt:
        raise ConfigError(
            f"secure_aggregation.corruption_rate = {scenario.secure_aggregation.corruption_rate:g}: none of "
            f"{aggregation.cohort} devices may work for the attacker, so one that does takes its share of the noise "
            "out of every sum and epsilon no longer holds",
            hint=f"set secure_aggregation.corruption_rate to {math.ceil(100 / aggregation.cohort) / 100:g} or more: "
            "every rate above 0 counts on one device at least",
        )


def _check_watching(scenario: Scenario, watching: Sequence[Event]) -> None:
    """Refuse windows, canary evaluations and choices of a threshold that together cost more than there is.

    Raises:
        ConfigError: with all parts.
    """
    privacy = scenario.privacy
    if privacy.unit is Unit.NONE or not watching:
        return
    cost = account(watching, privacy.delta, relation_of(privacy.unit)).epsilon
    if cost > privacy.epsilon:
        raise ConfigError(
            f"[drift] epsilon {exactly(scenario.drift.epsilon)}, [rollout] canary_epsilon "
            f"{exactly(scenario.rollout.canary_epsilon)} and [training] threshold_epsilon "
            f"{exactly(scenario.training.threshold_epsilon)} together cost {at_most(cost)}, [privacy] epsilon is "
            f"{exactly(privacy.epsilon)}",
            hint="lower one of them, or raise privacy.epsilon",
        )


def _check_affordable(rounds: Rounds, watching: Sequence[Event]) -> None:
    """Refuse a budget that no useful noise keeps, with numbers that would do.

    Raises:
        ConfigError: see there.
    """
    scenario, count = rounds.scenario, rounds.scenario.most_rounds
    if scenario.privacy.unit is Unit.NONE or not count:
        return
    if least_cost(rounds, watching, count) <= scenario.privacy.epsilon:
        return
    # More devices with the same rows do not help rows, and a cohort does not grow with its population.
    helps = scenario.privacy.unit is Unit.DEVICE and not scenario.training.cohort
    raise too_little(
        scenario,
        lambda count: least_cost(rounds, watching, count),
        count,
        f"noise multiplier {most_noise(rounds):.3g} the noise is {noise_over_signal(rounds):.3g} times the largest "
        "possible signal",
        (lambda devices: _affordable(scenario, replace(rounds.population, devices=devices))) if helps else None,
        rounds.population.devices,
    )


def _affordable(scenario: Scenario, population: Population) -> bool:
    """Whether a fleet of another size could keep the budget."""
    try:
        windows = WindowRows.HELD_OUT
        rounds = plan_rounds(scenario, population, aggregation_of(scenario, population), windows)
        if scenario.privacy.unit is Unit.NONE or not scenario.most_rounds:
            return True
        watching = (
            *plan_drift(scenario, population).events,
            *plan_canaries(scenario, population.devices).events,
            *plan_threshold(scenario, population).events,
        )
        return least_cost(rounds, watching, scenario.most_rounds) <= scenario.privacy.epsilon
    except ConfigError:
        return False


def _planned(scenario: Scenario, events: Sequence[Event]) -> Spent | None:
    privacy = scenario.privacy
    if privacy.unit is Unit.NONE:
        return None
    return account(events, privacy.delta, relation_of(privacy.unit))
