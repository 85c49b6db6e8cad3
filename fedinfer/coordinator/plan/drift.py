"""What the reports of all windows cost, and with which noise: `[drift] epsilon` is what they share."""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort, Population, aggregation_cohort, aggregation_of
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of, report_settings
from fedinfer.drift import Channel, chosen_channels, report_channels, report_norm, width
from fedinfer.errors import ConfigError
from fedinfer.privacy import Event, Repeated, account, calibrate, relation_of
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
        channels: of every report.
    """

    settings: SumSettings | None = None
    events: tuple[Event, ...] = ()
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    channels: tuple[Channel, ...] = ()


def plan_drift(scenario: Scenario, population: Population) -> DriftPlan:
    """Plan all reports.

    Args:
        scenario: with [drift] epsilon.
        population: all enrolled devices report, also those that a round does not ask.

    Raises:
        ConfigError: `drift.epsilon` is all of the budget, or no noise fits it.
    """
    privacy, count = scenario.privacy, windows(scenario)
    if not count:
        return DriftPlan()
    aggregation = _reporters(scenario, population)
    channels = watched_channels(scenario, population)
    norm = report_norm(privacy.unit, channels)

    def settings(z: float) -> SumSettings:
        return report_settings(scenario, width(channels), norm, aggregation, z)

    if privacy.unit is Unit.NONE:
        return DriftPlan(settings(0.0), channels=channels)
    if scenario.drift.epsilon >= privacy.epsilon:
        raise ConfigError(
            f"[drift] epsilon {scenario.drift.epsilon} leaves nothing of [privacy] epsilon {privacy.epsilon}",
            hint="drift.epsilon is the part of the budget that all windows' reports share: set it to "
            f"{privacy.epsilon * EXAMPLE_SHARE:.2g} for instance, or drift.enabled = false",
        )
    relation = relation_of(privacy.unit)

    def events(z: float) -> tuple[Event, ...]:
        return (Repeated(noise_model_of(scenario).event(settings(z).mechanism, z), count),)

    try:
        z = calibrate(events, scenario.drift.epsilon, privacy.delta, relation, NOISE_BRACKET)
    except ConfigError as error:
        hint = "raise drift.epsilon, plan fewer windows (drift.windows), or set drift.enabled = false"
        raise ConfigError(f"[drift] epsilon {scenario.drift.epsilon:g}: {error}", hint=hint) from error
    return DriftPlan(settings(z), events(z), z, account(events(z), privacy.delta, relation).epsilon, channels)


def watched_channels(scenario: Scenario, population: Population) -> tuple[Channel, ...]:
    """The channels of every report of a run.

    Args:
        scenario: with [drift] channels.
        population: its schema, where anything but the answers is named.

    Raises:
        ConfigError: a channel that there is not, or that does not fit the schema or the unit of privacy.
    """
    names = scenario.drift.channels
    if population.schema is None:
        if names:
            raise ConfigError(
                f"[drift] channels = {list(names)}: the plan knows no columns", hint="leave channels empty"
            )
        return report_channels(population.classes)
    channels = chosen_channels(population.schema, names)
    if scenario.privacy.unit is Unit.EXAMPLE and any(channel.source.of_windows for channel in channels):
        raise ConfigError(
            "[drift] channels: 'flags' needs [privacy] unit = 'device': one row of many can raise a device's flag",
            hint="leave flags out",
        )
    return channels


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
