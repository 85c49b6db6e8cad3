"""What the reports of all windows cost, and with which noise: `[drift] epsilon` is what they share."""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort, Population, aggregation_cohort, aggregation_of
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of, report_settings
from fedinfer.drift import report_channels, report_norm, width
from fedinfer.errors import ConfigError
from fedinfer.messages import Purpose
from fedinfer.privacy import (
    Event,
    NonPrivate,
    Repeated,
    WindowRows,
    account,
    calibrate,
    relation_of,
    split_of,
    touching,
)
from fedinfer.types import Unit

NOISE_BRACKET = (0.02, 1e4)
EXAMPLE_SHARE = 0.2
"""Part of the budget that an error proposes for drift."""


@dataclass(frozen=True, slots=True)
class DriftPlan:
    """Reports of a run; all empty when nothing is watched.

    Args:
        settings: of the sum of one window.
        events: what all windows cost.
        noise_multiplier: guaranteed standard deviation over the norm of one report.
        epsilon: of all windows alone.
        warnings: for the report.
    """

    settings: SumSettings | None = None
    events: tuple[Event, ...] = ()
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    warnings: tuple[str, ...] = ()


def plan_drift(scenario: Scenario, population: Population, rows: WindowRows = WindowRows.HELD_OUT) -> DriftPlan:
    """Plan all reports.

    Args:
        scenario: with [drift] epsilon.
        population: all enrolled devices report, also those that a round does not ask.
        rows: what windows are made of.

    Raises:
        ConfigError: `drift.epsilon` is all of the budget, or no noise fits it.
    """
    privacy, count = scenario.privacy, windows(scenario)
    if not count:
        return DriftPlan()
    aggregation = _reporters(scenario, population)
    channels = report_channels(population.classes)
    norm = report_norm(privacy.unit, channels)

    def settings(z: float) -> SumSettings:
        return report_settings(scenario, width(channels), norm, aggregation, z)

    if privacy.unit is Unit.NONE:
        return DriftPlan(settings(0.0))
    split, limit = split_of(scenario, rows), scenario.drift.epsilon
    # Rows of windows that are not trained on have the whole budget to themselves.
    if split and limit > privacy.epsilon:
        raise ConfigError(
            f"[drift] epsilon {scenario.drift.epsilon} is more than [privacy] epsilon {privacy.epsilon}",
            hint=f"set drift.epsilon to {privacy.epsilon:g} at most, or drift.enabled = false",
        )
    if not split and scenario.drift.epsilon >= privacy.epsilon:
        raise ConfigError(
            f"[drift] epsilon {scenario.drift.epsilon} leaves nothing of [privacy] epsilon {privacy.epsilon}",
            hint="drift.epsilon is the part of the budget that all windows' reports share: set it to "
            f"{privacy.epsilon * EXAMPLE_SHARE:.2g} for instance, or drift.enabled = false",
        )
    relation, warnings = relation_of(privacy.unit), tuple[str, ...]()
    if split and limit == privacy.epsilon and touching(NonPrivate(), Purpose.DRIFT, split) == NonPrivate():
        limit = EXAMPLE_SHARE * privacy.epsilon
        warnings = (_shared(scenario, limit),)

    def events(z: float) -> tuple[Event, ...]:
        one = noise_model_of(scenario).event(settings(z).mechanism, z)
        return (Repeated(touching(one, Purpose.DRIFT, split), count),)

    try:
        z = calibrate(events, limit, privacy.delta, relation, NOISE_BRACKET)
    except ConfigError as error:
        hint = "raise drift.epsilon, plan fewer windows (drift.windows), or set drift.enabled = false"
        raise ConfigError(f"[drift] epsilon {scenario.drift.epsilon:g}: {error}", hint=hint) from error
    return DriftPlan(settings(z), events(z), z, account(events(z), privacy.delta, relation).epsilon, warnings)


def _shared(scenario: Scenario, limit: float) -> str:
    return (
        f"drift.epsilon = {scenario.drift.epsilon:g} is the whole budget, which windows have to themselves in a "
        "simulation only: a deployment's windows are made of live predictions, which may be of training rows. They "
        f"have {limit:g} of it here, and training pays for them too"
    )


def windows(scenario: Scenario) -> int:
    """Most windows that a run can report, those after every allowed trigger included.

    Args:
        scenario: with its [drift] section.
    """
    drift = scenario.drift
    return drift.windows + drift.max_triggers * drift.after_windows if drift.enabled and drift.windows else 0


def _reporters(scenario: Scenario, population: Population) -> AggregationCohort:
    asked = aggregation_of(scenario, population)
    return (
        asked
        if asked.cohort == population.devices
        else aggregation_cohort(scenario.secure_aggregation, population.devices)
    )
