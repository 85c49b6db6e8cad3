"""Settings of one kind of private sum: the ring with its share of noise, the noise outside of it, the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort
from fedinfer.privacy import IntegerMechanism, NoiseKind, NoiseModel, Summands, noise_model

MAX_LOSS = 0.01
"""Part of epsilon that rounding and the ring may cost."""
TAIL_DEVIATIONS = 6.0
"""How far beyond its mean a count or a Gaussian norm is allowed for when a range is chosen."""


@dataclass(frozen=True, slots=True)
class SumSettings:
    """What all sums of one purpose share.

    Args:
        mechanism: integers, ring, and the noise shares of trust `distributed`.
        noise_multiplier: of the noise outside the ring (trusts `local` and `central`), else 0.
        sampling_rate, local_steps: of training on examples, else 1.
        norm: what one unit contributes at most; noise multipliers are relative to it.
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


def noise_model_of(scenario: Scenario) -> NoiseModel:
    """Who adds the noise in this scenario, and how.

    Args:
        scenario: with `privacy.trust` and `privacy.unit`.
    """
    return noise_model(scenario.privacy.trust, scenario.privacy.unit)


def sum_settings(
    scenario: Scenario, aggregation: AggregationCohort, summands: Summands, z: float, rate: float = 1.0, steps: int = 1
) -> SumSettings:
    """Settings of one kind of private sum.

    Args:
        scenario: says who adds the noise, and of which kind.
        aggregation: groups and graph.
        summands: what is summed.
        z: noise multiplier, >= 0.
        rate: sampling rate of examples, in (0, 1].
        steps: noisy steps of one device.

    Raises:
        ConfigError: no ring is large enough for so much noise.
    """
    model = noise_model_of(scenario)
    mechanism = model.ring(summands, z, NoiseKind(scenario.privacy.mechanism), MAX_LOSS)
    return SumSettings(
        mechanism, model.noise_outside(z), rate, steps, summands.clipping_norm,
        aggregation.degree, aggregation.threshold, aggregation.min_survivors, aggregation.groups, aggregation.corrupt,
    )  # fmt: skip


def report_settings(
    scenario: Scenario, bins: int, norm: float, aggregation: AggregationCohort, z: float, most_rows: int = 0
) -> SumSettings:
    """Settings of a sum of small reports: nothing is sampled, and a device has one window of rows.

    Args:
        scenario: says who adds the noise, and how many rows a window has.
        bins: number of coordinates of a report.
        norm: largest L2 norm of one unit's report.
        aggregation: groups and graph.
        z: noise multiplier, >= 0.
        most_rows: of a device in one report; 0: those of a window.

    Raises:
        ConfigError: no ring is large enough for so much noise.
    """
    rows = scenario.privacy.unit.counted(most_rows or scenario.drift.window)
    noised = norm * (rows + z * (math.sqrt(bins) + TAIL_DEVIATIONS))
    summands = Summands(bins, norm, noised, aggregation.largest, rows * aggregation.largest, aggregation.contributors)
    return sum_settings(scenario, aggregation, summands, z)
