"""Noise and cost of the training rounds: the least noise that the budget allows, refused when nothing could be learned.

From top to bottom: `noise_for_training` asks for the events of all rounds (`events_of`), those for the settings of one
round's sum (`training_settings`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort, Population
from fedinfer.coordinator.plan.correlation import correlate
from fedinfer.coordinator.plan.sum_settings import TAIL_DEVIATIONS, SumSettings, noise_model_of, sum_settings
from fedinfer.errors import ConfigError
from fedinfer.messages import Purpose
from fedinfer.privacy import (
    Event,
    Factorization,
    Repeated,
    Summands,
    WindowRows,
    Work,
    account,
    calibrate,
    clipping_of,
    relation_of,
    split_of,
    touching,
)
from fedinfer.types import Unit

LEAST_NOISE, MOST_NOISE = 0.02, 1e4
"""Noise multipliers outside this range are not considered."""
MOST_NOISE_OVER_SIGNAL = 10.0
"""A plan whose noise is this many times the largest possible signal cannot train anything and is refused."""
UNUSED_NOISE = 1.0
"""Noise multiplier of a plan without any round: nothing is released with it."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Everything that the cost of training rounds depends on but the noise.

    Args:
        scenario: what was asked for.
        population: who takes part.
        aggregation: groups and graph of a round.
        factorization: how their noise is correlated; None: independent.
        windows: what windows are made of.
    """

    scenario: Scenario
    population: Population
    aggregation: AggregationCohort
    factorization: Factorization | None
    windows: WindowRows = WindowRows.HELD_OUT


def plan_rounds(
    scenario: Scenario, population: Population, aggregation: AggregationCohort, windows: WindowRows
) -> Rounds:
    """The rounds of a run.

    Args:
        scenario: what was asked for.
        population: who takes part.
        aggregation: groups and graph of a round.
        windows: what windows are made of.

    Raises:
        ConfigError: correlated noise is wanted where it cannot be.
    """
    strategy = correlate(scenario, population.devices, aggregation.cohort, scenario.most_rounds)
    return Rounds(scenario, population, aggregation, strategy, windows)


def noise_for_training(rounds: Rounds, watching: Sequence[Event]) -> float:
    """The least noise multiplier with which all rounds, and everything else, stay within the budget.

    Args:
        rounds: of the run.
        watching: what drift reports and canary evaluations cost.

    Raises:
        ConfigError: no useful noise is enough; see `least_cost`.
    """
    privacy, count = rounds.scenario.privacy, rounds.scenario.most_rounds
    if privacy.unit is Unit.NONE:
        return 0.0
    if not count:
        return UNUSED_NOISE

    def events(z: float) -> tuple[Event, ...]:
        return (*watching, *events_of(rounds, z, count))

    most = most_noise(rounds)
    return calibrate(events, privacy.epsilon, privacy.delta, relation_of(privacy.unit), (LEAST_NOISE, most))


def events_of(rounds: Rounds, z: float, count: int) -> tuple[Event, ...]:
    """What rounds cost one unit of privacy.

    Args:
        rounds: of the run.
        z: noise multiplier, >= 0.
        count: how many rounds, >= 1; another number than that of the run where an error looks for one that fits.
    """
    if rounds.factorization is not None:
        strategy = correlate(rounds.scenario, rounds.population.devices, rounds.aggregation.cohort, count)
        split = split_of(rounds.scenario, rounds.windows)
        return () if strategy is None else (touching(strategy.event(z), Purpose.TRAIN, split),)
    settings = training_settings(rounds, z)
    model = noise_model_of(rounds.scenario)
    one = model.event(settings.mechanism, z, settings.sampling_rate, settings.local_steps)
    return (Repeated(touching(one, Purpose.TRAIN, split_of(rounds.scenario, rounds.windows)), count),)


def training_settings(rounds: Rounds, z: float) -> SumSettings:
    """Settings of the sum of one training round.

    Args:
        rounds: of the run.
        z: noise multiplier, >= 0.

    Raises:
        ConfigError: no ring is large enough for so much noise.
    """
    scenario, population, aggregation = rounds.scenario, rounds.population, rounds.aggregation
    rate = scenario.privacy.unit.sampling_rate(scenario.training.sampling_rate)
    clipping = clipping_of(scenario.privacy)
    summands = Summands(
        dimension=population.dimension + clipping.extra,
        clipping_norm=clipping.bound,
        noised_norm=_noised_norm(rounds, z),
        devices=aggregation.largest,
        units=_most_units(rounds, rate),
        contributors=aggregation.contributors,
    )
    return sum_settings(scenario, aggregation, summands, z, rate, local_steps(scenario))


def local_steps(scenario: Scenario) -> int:
    """Noisy steps of one device in one round: one, except for DP-SGD on the device (about one pass over its rows).

    Args:
        scenario: says who adds the noise, and the sampling rate.
    """
    work = noise_model_of(scenario).work
    match work:
        case Work.PRIVATE_STEPS:
            return scenario.privacy.local_steps or max(1, round(1 / scenario.training.sampling_rate))
        case Work.UPDATES | Work.GRADIENT_SUMS:
            return 1
        case _:
            assert_never(work)


def most_noise(rounds: Rounds) -> float:
    """The largest noise multiplier with which something is learned and the sum fits into the ring.

    Something is learned when the expected norm of the noise, z * sqrt(dimension), is at most `MOST_NOISE_OVER_SIGNAL`
    times the largest possible norm of the signal: both in clipping norms.

    Args:
        rounds: of the run.
    """
    useful = MOST_NOISE_OVER_SIGNAL * _signal(rounds) / math.sqrt(rounds.population.dimension)
    if rounds.factorization is not None:  # its noise is larger in one round and smaller in the sum of many
        useful /= rounds.factorization.spread()
    most = min(max(useful, 2 * LEAST_NOISE), MOST_NOISE)
    while most > 2 * LEAST_NOISE:
        try:
            training_settings(rounds, most)
        except ConfigError:  # the ring is too small for so much noise; for less it may do
            most /= 2
        else:
            break
    return most


def least_cost(rounds: Rounds, watching: Sequence[Event], count: int) -> float:
    """Epsilon of rounds, and of everything else, at the largest useful noise.

    Args:
        rounds: of the run.
        watching: what drift reports and canary evaluations cost.
        count: how many rounds, >= 1.
    """
    events = (*watching, *events_of(rounds, most_noise(rounds), count))
    privacy = rounds.scenario.privacy
    return account(events, privacy.delta, relation_of(privacy.unit)).epsilon


def noise_over_signal(rounds: Rounds) -> float:
    """How many times longer the noise of a round is, at `most_noise`, than the largest possible signal.

    Args:
        rounds: of the run.
    """
    return most_noise(rounds) * math.sqrt(rounds.population.dimension) / _signal(rounds)


def _signal(rounds: Rounds) -> float:
    """Largest norm of the sum, in clipping norms, that all units together could give, per noise of one release."""
    population, aggregation, unit = rounds.population, rounds.aggregation, rounds.scenario.privacy.unit
    match unit:
        case Unit.EXAMPLE:
            rate = rounds.scenario.training.sampling_rate
            total, least = rate * population.rows, max(rate * population.least_rows, 1.0)
        case Unit.DEVICE | Unit.NONE:
            total, least = float(aggregation.cohort), 1.0
        case _:
            assert_never(unit)
    return noise_model_of(rounds.scenario).signal(total, least, aggregation.cohort, aggregation.groups)


def _most_units(rounds: Rounds, rate: float) -> int:
    """Most clipped units in one sum."""
    unit = rounds.scenario.privacy.unit
    match unit:
        case Unit.EXAMPLE:
            return _most_sampled(rounds, rate)
        case Unit.DEVICE | Unit.NONE:
            return rounds.aggregation.largest
        case _:
            assert_never(unit)


def _most_sampled(rounds: Rounds, rate: float) -> int:
    """Most rows in a round, but for a tail; where the sum must never wrap around, all of them."""
    rows = rounds.population.rows
    if noise_model_of(rounds.scenario).sum_is_exact:
        return max(rows, 1)
    return max(1, min(rows, math.ceil(rate * rows + TAIL_DEVIATIONS * math.sqrt(rate * rows))))


def _noised_norm(rounds: Rounds, z: float) -> float:
    """A norm that an already noised vector practically never exceeds; what does is clipped, after the noise."""
    training, clipping = rounds.scenario.training, clipping_of(rounds.scenario.privacy)
    noise = z * (math.sqrt(rounds.population.dimension + clipping.extra) + TAIL_DEVIATIONS)
    work = noise_model_of(rounds.scenario).work
    match work:
        case Work.UPDATES:
            return clipping.bound * (1 + noise)
        case Work.GRADIENT_SUMS | Work.PRIVATE_STEPS:
            pass
        case _:
            assert_never(work)
    # Signals of all steps may point one way, independent noise adds up as the root; momentum repeats every step.
    steps = local_steps(rounds.scenario)
    expected = max(training.sampling_rate * rounds.population.least_rows, 1.0)
    reach = 2.0 * steps + noise * math.sqrt(steps) / expected
    return training.learning_rate / (1 - training.momentum) * clipping.bound * reach
