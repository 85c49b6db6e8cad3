"""Aggregation cohorts: groups of a cohort, graph of a group, survivors and shares of noise that are sure.

A cohort above `secure_aggregation.group_size` (0: 500) is split at random into groups. Each group has a private sum of
its own, and the server sees that sum. So everything here is about ONE group: its least survivors (the minimum
aggregation size), its graph, and the shares of noise that are sure to be in its sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedinfer.config import Scenario, SecureAggregationSection
from fedinfer.errors import ConfigError, TooFewSurvivors
from fedinfer.schema import Schema
from fedinfer.secagg import MAX_GROUP, GraphParameters, choose_graph, corrupt_among, most_corrupt, rate_of, share_of

MOST_DEVICES = 1_000_000
"""Larger fleets are not proposed."""
ADVISED_GROUP = 100
"""Smaller groups work, with a warning."""


@dataclass(frozen=True, slots=True)
class AggregationCohort:
    """What every group of a round can count on.

    Args:
        cohort: devices asked in a round.
        groups: into how many groups they are split at random; 1: no groups.
        largest: devices in the largest group; the others have at most one less.
        corrupt: devices of one group that may work for the attacker.
        degree, threshold: graph of the largest group.
        min_survivors: fewest summands of any group.
        contributors: honest shares of noise that are sure to be in every group's sum.
    """

    cohort: int
    groups: int
    largest: int
    corrupt: int
    degree: int
    threshold: int
    min_survivors: int
    contributors: int


def aggregation_cohort(section: SecureAggregationSection, cohort: int) -> AggregationCohort:
    """Plan the groups of a cohort.

    Args:
        section: group size, and rates of dropout and corruption that are planned for.
        cohort: devices asked in a round.

    Raises:
        ConfigError: a sum would be over too few devices, no graph is safe, or no honest share of noise is sure.
    """
    if cohort < 2:
        raise ConfigError(
            f"a cohort of {cohort} is below the minimum aggregation size", hint="at least 2 devices are needed"
        )
    groups = -(-cohort // (section.group_size or MAX_GROUP))
    smallest, largest = cohort // groups, -(-cohort // groups)
    if smallest < 2:
        raise ConfigError(f"{cohort} devices in {groups} groups", hint="raise secure_aggregation.group_size")
    corrupt = _corrupt(section, cohort, groups)
    # One mechanism serves all groups: it counts on the survivors of the smallest and the corrupt of the largest.
    stay = smallest - share_of(smallest, section.dropout_rate)
    survivors = min(_survivors(section, size, groups, corrupt, stay) for size in {smallest, largest})
    graph = graph_of(section, largest, groups, corrupt, survivors)
    if survivors - corrupt < min(corrupt, 1) + 1:
        raise ConfigError(
            f"{survivors} survivors of which {corrupt} may be corrupt: the minimum aggregation size is 2 honest "
            "devices",
            hint="lower secure_aggregation.corruption_rate or dropout_rate, or ask more devices",
        )
    return AggregationCohort(
        cohort, groups, largest, corrupt, graph.degree, graph.threshold, survivors, survivors - corrupt
    )


def least_devices(enough: Callable[[int], bool], above: int) -> int | None:
    """A number of devices that is enough where one less is not: what an error proposes.

    Args:
        enough: tries a number; more devices should not be worse.
        above: a number that is not enough.

    Returns:
        None when `MOST_DEVICES` are not enough either.
    """
    low, high = above, above + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST_DEVICES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def check_corrupt(section: SecureAggregationSection, asked: int, groups: int, planned: int) -> None:
    """Refuse a grouping in which a group may hold more corrupt devices than its noise and graph were planned for.

    Args:
        section: rate of corruption that is planned for.
        asked: devices of the round.
        groups: into how many groups they are split.
        planned: corrupt devices of one group that the plan counts on.

    Raises:
        TooFewSurvivors: so few are asked that chance may gather too many corrupt ones.
    """
    corrupt = _corrupt(section, asked, groups)
    if corrupt > planned:
        raise TooFewSurvivors(
            f"of {asked} devices in {groups} groups {corrupt} of one group may be corrupt, planned for {planned}"
        )


def graph_of(
    section: SecureAggregationSection, size: int, groups: int, corrupt: int, survivors: int
) -> GraphParameters:
    """Graph of one group of `size` devices; a cohort of one group goes by its rate.

    Args:
        section: rates of dropout and corruption that are planned for.
        size: devices of the group.
        groups: how many there are.
        corrupt: devices of the group that may be corrupt.
        survivors: fewest summands that are promised.

    Raises:
        ConfigError: no safe graph.
    """
    rate = section.corruption_rate if groups == 1 else rate_of(corrupt, size)
    return choose_graph(size, section.dropout_rate, rate, min(survivors, size))


def corruption_warnings(section: SecureAggregationSection, aggregation: AggregationCohort) -> tuple[str, ...]:
    """What somebody who counts on no corrupt device should know.

    Args:
        section: rate of corruption that is planned for.
        aggregation: planned with it.
    """
    if aggregation.corrupt:
        return ()
    return (
        f"secure_aggregation.corruption_rate is {section.corruption_rate:g}: of {aggregation.cohort} devices none is "
        "counted as working for the attacker. That is for simulations: a real device goes by its owner's rate.",
    )


def group_warnings(aggregation: AggregationCohort) -> tuple[str, ...]:
    """What somebody who chose small groups should know.

    Args:
        aggregation: of a training round.
    """
    if aggregation.groups == 1 or aggregation.largest >= ADVISED_GROUP:
        return ()
    return (
        f"{aggregation.groups} groups of {aggregation.largest} devices: the server sees each group's sum, so the "
        f"minimum aggregation size is {aggregation.min_survivors}, and the mean of all is "
        f"{math.sqrt(aggregation.groups):.1f} times noisier than one sum over everybody would be. Groups of "
        f"{ADVISED_GROUP} or more are advised.",
    )


def _corrupt(section: SecureAggregationSection, cohort: int, groups: int) -> int:
    corrupt = corrupt_among(cohort, section.corruption_rate)
    return corrupt if groups == 1 else most_corrupt(cohort, corrupt, -(-cohort // groups), groups)


def _survivors(section: SecureAggregationSection, size: int, groups: int, corrupt: int, stay: int) -> int:
    graph = graph_of(section, size, groups, corrupt, stay)
    return max(stay, graph.threshold if graph.degree == size - 1 else 2)


@dataclass(frozen=True, slots=True)
class Population:
    """Public facts about who takes part.

    Args:
        devices: number of enrolled devices.
        rows: training rows of all devices together.
        least_rows: training rows of the device that has the fewest, >= 1.
        dimension: number of tuned parameters.
        classes: number of classes of the label, >= 2.
        given: the model was trained elsewhere.
        schema: of the task; None where only the answers can be watched for drift.
    """

    devices: int
    rows: int
    least_rows: int
    dimension: int
    classes: int
    given: bool = False
    schema: Schema | None = None


def aggregation_of(scenario: Scenario, population: Population) -> AggregationCohort:
    """Groups and graph of a training round.

    Args:
        scenario: `training.cohort` devices are asked; 0, or more than there are: all.
        population: who takes part.

    Raises:
        ConfigError: see `aggregation_cohort`.
    """
    return aggregation_cohort(
        scenario.secure_aggregation, min(scenario.training.cohort or population.devices, population.devices)
    )
