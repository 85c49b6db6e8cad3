"""What private choices of a decision threshold cost: one sum over all devices for every version that can be published.

Each is a histogram of held-out rows (`fedinfer.metrics.private_threshold`). `[training] threshold_epsilon` is what all
of them share. With unit `example` held-out rows are not trained on, so that it comes out of the budget of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.canary import pushes
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.drift import NOISE_BRACKET, reporters
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of, report_settings
from fedinfer.errors import ConfigError
from fedinfer.messages import Purpose
from fedinfer.metrics import HISTOGRAM_NORM, HISTOGRAM_WIDTH, MOST_COUNTED
from fedinfer.privacy import Event, Repeated, WindowRows, account, calibrate, exactly, relation_of, split_of, touching
from fedinfer.types import Unit

PRIVATE = "private"
SHARE = 0.2
"""Part of the budget that an error proposes."""


@dataclass(frozen=True, slots=True)
class ThresholdPlan:
    """Choices of a threshold; all empty when none is chosen in private.

    Args:
        settings: of the sum of one choice.
        events: what all of them cost.
        noise_multiplier: guaranteed standard deviation over the norm of one histogram.
        epsilon: of all of them alone.
        count: how many there are at most.
    """

    settings: SumSettings | None = None
    events: tuple[Event, ...] = ()
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    count: int = 0


def plan_threshold(scenario: Scenario, population: Population, rows: WindowRows = WindowRows.HELD_OUT) -> ThresholdPlan:
    """Plan all choices.

    Args:
        scenario: with [training] threshold and threshold_epsilon.
        population: all enrolled devices are asked.
        rows: what windows are made of; it names how rows are divided.

    Raises:
        ConfigError: the label does not have two classes, no budget is set aside, or no noise fits it.
    """
    training, privacy = scenario.training, scenario.privacy
    if training.threshold != PRIVATE:
        return ThresholdPlan()
    if population.classes != 2:
        raise ConfigError(
            "[training] threshold = 'private': the label does not have two classes", hint="leave training.threshold out"
        )
    aggregation, count = reporters(scenario, population), pushes(scenario)

    def settings(z: float) -> SumSettings:
        return report_settings(scenario, HISTOGRAM_WIDTH, HISTOGRAM_NORM, aggregation, z, MOST_COUNTED)

    if privacy.unit is Unit.NONE:
        return ThresholdPlan(settings(0.0), count=count)
    split, relation = split_of(scenario, rows), relation_of(privacy.unit)
    _check_share(scenario, all_of_it=not split)

    def events(z: float) -> tuple[Event, ...]:
        one = noise_model_of(scenario).event(settings(z).mechanism, z)
        return (Repeated(touching(one, Purpose.THRESHOLD, split), count),)

    z = calibrate(events, training.threshold_epsilon, privacy.delta, relation, NOISE_BRACKET)
    epsilon = account(events(z), privacy.delta, relation).epsilon
    return ThresholdPlan(settings(z), events(z), z, epsilon, count)


def _check_share(scenario: Scenario, *, all_of_it: bool) -> None:
    asked, budget = scenario.training.threshold_epsilon, scenario.privacy.epsilon
    hint = f"it is the part of the budget that all choices share: {SHARE * budget:.2g} for instance"
    if not asked:
        raise ConfigError("[training] threshold = 'private': threshold_epsilon is not set", hint=hint)
    if asked > budget or (all_of_it and asked == budget):
        raise ConfigError(
            f"[training] threshold_epsilon {exactly(asked)} leaves nothing of [privacy] epsilon {exactly(budget)}",
            hint=hint,
        )
