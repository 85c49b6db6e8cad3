"""What a plan says to its reader: numbers that would work where it does not, and warnings about what will go badly.

Everything here is known before the first device is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort, least_devices
from fedinfer.errors import ConfigError
from fedinfer.metrics import RARE, Metric
from fedinfer.privacy import IntegerMechanism, NoiseKind, at_most, exactly, pieces
from fedinfer.types import AggregationMode

SAMPLES_PER_SECOND = 5e6
"""Integer noise that one core draws at least (docs/benchmarks.md)."""
LONG_SECONDS, MOST_SECONDS = 10.0, 120.0
"""Drawing the noise of one round takes so long: a warning, or no run at all."""
USUAL_RELEASE = 0.9
"""Rounds that are released less often than this are a warning."""


def too_little(
    scenario: Scenario,
    cost: Callable[[int], float],
    rounds: int,
    noise: str,
    enough: Callable[[int], bool] | None,
    devices: int,
) -> ConfigError:
    """The budget does not reach, with the numbers with which it would.

    Args:
        scenario: with [privacy] epsilon.
        cost: epsilon of everything with so many rounds, at the largest useful noise.
        rounds: planned, those after alarms included.
        noise: what the largest useful noise is, in words.
        enough: whether so many devices would do; None where more devices do not help.
        devices: of the fleet.
    """
    budget, one, whole = scenario.privacy.epsilon, cost(1), cost(rounds)
    what = "to train even one useful round" if one > budget else f"for {rounds} useful rounds"
    found = [f"privacy.epsilon = {math.ceil(whole * 100) / 100:g}"] if math.isfinite(whole) else []
    if fitting := most_rounds(cost, rounds, budget):
        found.append(f"{fitting} rounds in all (training.rounds + drift.max_triggers x drift.rounds)")
    if enough is not None and (larger := least_devices(enough, devices)) is not None:
        found.append(f"{larger} devices")
    return ConfigError(
        f"epsilon {exactly(budget)} is too small {what}: with {noise}, and even then {rounds} rounds cost epsilon "
        f"{at_most(whole)}, one round {at_most(one)}",
        hint=f"it would do, barely, with {' or '.join(found) or 'a larger privacy.epsilon and fewer rounds'}; more "
        "rows help too and, per example, another training.sampling_rate",
    )


def most_rounds(cost: Callable[[int], float], rounds: int, budget: float) -> int:
    """The largest number of rounds below `rounds` that costs at most `budget`; 0 when not even one does.

    Args:
        cost: epsilon of everything with so many rounds; grows with their number.
        rounds: too many.
        budget: epsilon, > 0.
    """
    low, high = 0, rounds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def warnings_of(scenario: Scenario, aggregation: AggregationCohort, *, given: bool) -> tuple[str, ...]:
    """What somebody who chose an extreme setting should read before the result.

    Args:
        scenario: what was asked for.
        aggregation: of a training round.
        given: the model was trained elsewhere.
    """
    untrained = () if given else _untrained(scenario)
    common = (*_unmasked(scenario), *_often_aborted(scenario, aggregation))
    return (*scenario.notices, *untrained, *_of_the_usual_class(scenario), *common)


def noise_effort(mechanism: IntegerMechanism, devices: int) -> tuple[str, ...]:
    """Warn when drawing the integer noise alone makes rounds long.

    Args:
        mechanism: of a sum; large variance is a sum of many samples (fedinfer.privacy.mechanism.noise.pieces).
        devices: that share one process: all in a simulation, one in a deployment.

    Raises:
        ConfigError: when it would take more than `MOST_SECONDS` a round.
    """
    seconds = noise_seconds(mechanism, devices)
    if not seconds:
        return ()
    parts = pieces(mechanism.share_variance)
    reported = (
        f"the integer noise of a round needs about {seconds:.3g} s of one core: {mechanism.padded} coordinates with "
        f"variance {mechanism.share_variance:.3g}, {parts} samples each, on {devices} device(s) in a process"
    )
    way_out = "a larger privacy.epsilon, a smaller model, more devices in a sum, or privacy.unit = device lower it"
    if seconds > MOST_SECONDS:
        raise ConfigError(f"{reported}; at most {MOST_SECONDS:g} s are accepted", hint=way_out)
    return (f"{reported}; {way_out}",) if seconds > LONG_SECONDS else ()


def noise_seconds(mechanism: IntegerMechanism, devices: int) -> float:
    """How long one core draws the integer noise of a round, about; 0 without such noise.

    Args:
        mechanism: of a sum.
        devices: that share one process.
    """
    if mechanism.kind is NoiseKind.NONE:
        return 0.0
    return devices * mechanism.padded * pieces(mechanism.share_variance) / SAMPLES_PER_SECOND


def _untrained(scenario: Scenario) -> tuple[str, ...]:
    if scenario.training.rounds:
        return ()
    start = "the model trained on public rows" if scenario.training.pretrain else "a model that nobody trained"
    return (f"training.rounds = 0: version 1 is {start}",)


def _of_the_usual_class(scenario: Scenario) -> tuple[str, ...]:
    """Average precision of a class that most rows have is near 1 whatever a model does."""
    labels, prior, asked = scenario.data.labels, scenario.training.prior, scenario.training.metric
    follows = not asked or asked in (Metric.AVERAGE_PRECISION, Metric.F1)
    if len(labels) != 2 or set(prior) != set(labels) or not follows or prior[labels[0]] >= RARE:
        return ()
    return (
        f"average precision, precision and F1 are those of {labels[1]!r}, the last of [data] labels, which "
        f"{prior[labels[1]]:.0%} of the rows have: list the rare {labels[0]!r} last",
    )


def _unmasked(scenario: Scenario) -> tuple[str, ...]:
    if scenario.secure_aggregation.mode is not AggregationMode.OFF:
        return ()
    return (
        "secure_aggregation.mode = off: the server sees what each device sends. Noise of trust `distributed` covers "
        "the sum of all devices, not one of them, so epsilon says nothing against this server",
    )


def _often_aborted(scenario: Scenario, aggregation: AggregationCohort) -> tuple[str, ...]:
    fleet = scenario.fleet
    stay = (1 - fleet.dropout) * (1 - fleet.late_dropout)
    released = _at_least(aggregation.min_survivors, aggregation.cohort // aggregation.groups, stay)
    if released >= USUAL_RELEASE:
        return ()
    return (
        f"fleet.dropout = {fleet.dropout:g} and late_dropout = {fleet.late_dropout:g}: {aggregation.min_survivors} of "
        f"{aggregation.cohort // aggregation.groups} devices must stay, so about {released:.0%} of the sums are "
        "released. "
        "secure_aggregation.dropout_rate plans for more dropouts, with more noise",
    )


def _at_least(count: int, of: int, rate: float) -> float:
    """Probability of `count` or more successes of `of` at `rate`: the upper tail of the binomial law."""
    if rate >= 1:
        return 1.0
    logs = (
        math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        + k * math.log(rate) + (of - k) * math.log1p(-rate)
        for k in range(count, of + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, logs)) if rate > 0 else 0.0
