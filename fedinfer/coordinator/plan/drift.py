"""What the reports of all windows cost, and with which noise: `[drift] epsilon` is what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort, Population, aggregation_cohort, aggregation_of
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of, report_settings
from fedinfer.drift import (
    SHIFT,
    Channel,
    MonitorPlan,
    chance,
    chosen_channels,
    possible_names,
    report_channels,
    report_norm,
    stated_change,
    width,
)
from fedinfer.errors import ConfigError
from fedinfer.messages import Purpose
from fedinfer.privacy import (
    Event,
    GaussianEvent,
    NonPrivate,
    Repeated,
    WindowRows,
    account,
    at_most,
    calibrate,
    exactly,
    relation_of,
    split_of,
    touching,
)
from fedinfer.types import Unit

NOISE_BRACKET = (0.02, 1e4)
AUTO = ("auto",)
CANDIDATES = ("faults", "flags")
"""What `auto` may add to the answers, in this order."""
WEIGHT = 0.6
"""MEWMA weight: runs here have about ten windows (research on longer runs: 0.2)."""
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
        channels: of every report.
    """

    settings: SumSettings | None = None
    events: tuple[Event, ...] = ()
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    warnings: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()


def plan_drift(scenario: Scenario, population: Population, rows: WindowRows = WindowRows.HELD_OUT) -> DriftPlan:
    """Plan all reports.

    Args:
        scenario: with [drift] epsilon.
        population: all enrolled devices report, also those that a round does not ask.
        rows: what windows are made of.

    Raises:
        ConfigError: `drift.epsilon` is all of a budget that training shares, or no noise fits it.
    """
    privacy, count = scenario.privacy, windows(scenario)
    if not count:
        return DriftPlan()
    aggregation = reporters(scenario, population)
    channels = watched_channels(scenario, population)
    norm = report_norm(privacy.unit, channels)

    def settings(z: float) -> SumSettings:
        return report_settings(scenario, width(channels), norm, aggregation, z)

    if privacy.unit is Unit.NONE:
        return DriftPlan(settings(0.0), channels=channels)
    split = split_of(scenario, rows)
    # Rows of windows that are not trained on have the whole budget to themselves, and no more than that.
    limit = min(scenario.drift.epsilon, privacy.epsilon) if split else scenario.drift.epsilon
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
        raise ConfigError(f"[drift] epsilon {exactly(scenario.drift.epsilon)}: {error}", hint=hint) from error
    return DriftPlan(settings(z), events(z), z, account(events(z), privacy.delta, relation).epsilon, warnings, channels)


def _shared(scenario: Scenario, limit: float) -> str:
    return (
        f"drift.epsilon = {exactly(scenario.drift.epsilon)} is the whole budget, which windows have to themselves in a "
        "simulation only: a deployment's windows are made of live predictions, which may be of training rows. They "
        f"have {at_most(limit, 6)} of it here, and training pays for them too"
    )


def watched_channels(scenario: Scenario, population: Population) -> tuple[Channel, ...]:
    """The channels of every report of a run.

    Args:
        scenario: with [drift] channels.
        population: its schema, where anything but the answers is named.

    Raises:
        ConfigError: a channel that there is not, or that does not fit the schema or the unit of privacy.
    """
    names = scenario.drift.channels
    if names == AUTO:
        names = automatic_names(scenario, population)
    if population.schema is None:
        if names:
            raise ConfigError(
                f"[drift] channels = {list(names)}: the plan knows no columns", hint="leave channels empty"
            )
        return report_channels(population.classes)
    channels = chosen_channels(population.schema, names)
    report_norm(scenario.privacy.unit, channels)  # refuses channels that have none for the unit
    return channels


def _fits(channels: Sequence[Channel], unit: Unit) -> bool:
    match unit:
        case Unit.EXAMPLE:
            return not any(channel.source.of_windows for channel in channels)
        case Unit.DEVICE | Unit.NONE:
            return True
        case _:
            assert_never(unit)


def automatic_names(scenario: Scenario, population: Population) -> tuple[str, ...]:
    """The answers, and each of faults and flags that raises the mean power over all stated changes.

    A channel costs the others: its part of the norm is noise for all of them. A change that no channel looks at counts
    as never seen, so an addition pays where what it finds outweighs what the others lose.

    Args:
        scenario: with its [drift] section; its noise is that of independent Gaussian reports.
        population: with the schema of the task.

    Raises:
        ConfigError: no column is known.
    """
    if population.schema is None:
        raise ConfigError("[drift] channels = 'auto': no column is known here", hint="leave channels empty")
    schema, unit = population.schema, scenario.privacy.unit
    known = [name for name in CANDIDATES if name in possible_names(schema)]
    possible = [name for name in known if _fits(chosen_channels(schema, [name]), unit)]
    count = windows(scenario)
    if not possible or not count:
        return ()
    z = 0.0
    if unit is not Unit.NONE:
        make = lambda noise: (Repeated(GaussianEvent(noise), count),)  # noqa: E731
        z = calibrate(make, scenario.drift.epsilon, scenario.privacy.delta, relation_of(unit), NOISE_BRACKET)
    chosen: tuple[str, ...] = tuple(channel.name for channel in chosen_channels(schema, ()))
    best = _mean_power(scenario, population, chosen, possible, z)
    for name in possible:
        power = _mean_power(scenario, population, (*chosen, name), possible, z)
        if power > best:
            chosen, best = (*chosen, name), power
    return chosen


def _mean_power(
    scenario: Scenario, population: Population, names: Sequence[str], possible: Sequence[str], z: float
) -> float:
    """Over the answers and all possible additions; one that is not watched is never seen."""
    assert population.schema is not None  # noqa: S101  # automatic_names has checked it
    plan = monitor_plan(scenario, chosen_channels(population.schema, names))
    size = population.devices * plan.unit.counted(scenario.drift.window)
    noise_std = z * report_norm(plan.unit, plan.channels)
    seen = [
        chance(plan, place, stated_change(channel, plan.unit, SHIFT), size, noise_std)
        for place, channel in enumerate(plan.channels)
    ]
    unseen = len([name for name in possible if name not in names])
    return sum(seen) / (len(seen) + unseen)


def monitor_plan(scenario: Scenario, channels: tuple[Channel, ...]) -> MonitorPlan:
    """What the monitor of a run watches and promises.

    Args:
        scenario: with its [drift] section.
        channels: of every report.
    """
    drift = scenario.drift
    planned = drift.windows if drift.enabled else 0
    return MonitorPlan(
        channels=channels,
        unit=_watched(scenario.privacy.unit),
        reference_windows=drift.reference_windows,
        windows=max(planned - drift.reference_windows, 1),
        false_alarm_rate=drift.false_alarm_rate,
        warning_rate=min(4 * drift.false_alarm_rate, 0.5),
        weight=WEIGHT,
    )


def _watched(unit: Unit) -> Unit:
    """What the reports are made of: without protection a device reports as if it were the unit."""
    match unit:
        case Unit.EXAMPLE | Unit.DEVICE:
            return unit
        case Unit.NONE:
            return Unit.DEVICE
        case _:
            assert_never(unit)


def windows(scenario: Scenario) -> int:
    """Most windows that a run can report, those after every allowed trigger included.

    Args:
        scenario: with its [drift] section.
    """
    drift = scenario.drift
    return drift.windows + drift.max_triggers * drift.after_windows if drift.enabled and drift.windows else 0


def reporters(scenario: Scenario, population: Population) -> AggregationCohort:
    """Groups and graph of a sum that asks all devices.

    Args:
        scenario: with its [secure_aggregation] section.
        population: who is enrolled.
    """
    asked = aggregation_of(scenario, population)
    return (
        asked
        if asked.cohort == population.devices
        else aggregation_cohort(scenario.secure_aggregation, population.devices)
    )
