"""What canary evaluations of freshly installed models cost, and whether their noise leaves anything to see.

A canary evaluation is one private sum over the devices of one wave. The plan holds one for every wave of every push
that can happen: the first one and one per allowed trigger. `[rollout] canary_epsilon` is what all of them share.

Waves of one push are disjoint: a device is in the first wave that reaches it, and its rows with it (`rollout.members`).
So whatever one unit holds goes into one evaluation of a push at most, and a push costs what the dearest of its waves
costs (`privacy.either`), whoever is in which. Waves of different pushes are drawn anew: they add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from fedinfer.config import RolloutSection, Scenario
from fedinfer.coordinator.plan.cohort import AggregationCohort, aggregation_cohort, least_devices
from fedinfer.coordinator.plan.drift import NOISE_BRACKET
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of, report_settings
from fedinfer.errors import ConfigError
from fedinfer.messages import Purpose
from fedinfer.privacy import Event, Repeated, WindowRows, account, calibrate, either, relation_of, split_of, touching
from fedinfer.rollout import NORM, WIDTH, gates_of, wave_sizes
from fedinfer.types import Unit

WRONG_PASS_RATE = WRONG_STOP_RATE = 0.05
"""Of one wave; see fedinfer.rollout.gates."""
PASS_DEVIATIONS = -NormalDist().inv_cdf(WRONG_PASS_RATE)
USUAL_LUCK = 2.0
"""A model without errors should pass although the noise is so many deviations on the bad side."""
_ROOM = PASS_DEVIATIONS + USUAL_LUCK
"""Standard deviations of noise that must fit between the best possible figure and its limit."""
MOST_SHARE = 0.5
"""A larger part of the budget for canary evaluations is not proposed: training would have too little."""


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """Canary evaluations of a run; all empty when there are none.

    Args:
        settings: of the sum of each wave.
        events: what all of them cost.
        push: what those of one push cost together; empty where nothing is protected.
        noise_multiplier: guaranteed standard deviation over the norm of one answer.
        epsilon: of all of them alone.
        warnings: for the report.
    """

    settings: tuple[SumSettings, ...] = ()
    events: tuple[Event, ...] = ()
    push: tuple[Event, ...] = ()
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    warnings: tuple[str, ...] = ()


def plan_canaries(scenario: Scenario, devices: int, windows: WindowRows = WindowRows.HELD_OUT) -> CanaryPlan:
    """Plan all canary evaluations, or do what `rollout.unjudgeable` says when no verdict could come of them.

    Args:
        scenario: with [rollout] canary_epsilon.
        devices: of the fleet.
        windows: what windows are made of; it names how rows are divided.

    Raises:
        ConfigError: waves are too small for a private sum, or no verdict could come of one, and the scenario does not
            say what then.
    """
    section = scenario.rollout
    _check_min_judged(section, devices)
    if section.canary_epsilon == 0:
        return CanaryPlan()
    _check_share(scenario)
    evaluations = _CanaryEvaluations(scenario, devices, windows)
    trouble = evaluations.trouble()
    if not trouble:
        return evaluations.plan(())
    if section.unjudgeable == "acknowledge":
        return CanaryPlan(warnings=(_unwatched(trouble, evaluations.remedies()),))
    if section.unjudgeable == "hold" and evaluations.aggregations:
        held = "the noise will often hold a good model (rollout.unjudgeable = hold)"
        return evaluations.plan((f"{trouble}; {held}. It would do with {evaluations.remedies()}.",))
    raise ConfigError(
        f"{trouble}: canary evaluations could neither pass a good model nor stop a bad one",
        hint=f"it would do with {evaluations.remedies()}; or set rollout.unjudgeable = acknowledge (or "
        "rollout.canary_epsilon = 0), then acknowledged installs alone decide",
    )


class _CanaryEvaluations:
    """The canary evaluations of one scenario and fleet size, before it is known whether they can decide anything.

    Args:
        scenario, devices, windows: see `plan_canaries`.
    """

    def __init__(self, scenario: Scenario, devices: int, windows: WindowRows = WindowRows.HELD_OUT) -> None:
        self._scenario, self._devices, self._windows = scenario, devices, windows
        self._sizes = wave_sizes(devices, scenario.rollout.waves)
        self._too_small = ""
        try:
            self.aggregations = tuple(_aggregation_cohort(scenario, size, at) for at, size in enumerate(self._sizes, 1))
        except ConfigError as error:
            self.aggregations, self._too_small = (), str(error)

    def trouble(self) -> str:
        """Why no verdict would come, with numbers; empty when a model without any fault would pass."""
        if self._too_small or self._scenario.privacy.unit is Unit.NONE or self.least_epsilon() <= self._budget:
            return self._too_small
        worst = max(
            range(len(self.aggregations)), key=lambda at: _noise_of_mean(self._scenario, self.aggregations[at], 1.0)
        )
        figure, margin = _narrowest(self._scenario)
        std = _noise_of_mean(self._scenario, self.aggregations[worst], self._noise())
        return (
            f"[rollout] wave {worst + 1}: the noise of a canary evaluation has standard deviation {std:.3g} in the "
            f"mean of {self._sizes[worst]} devices, and the limit of {figure} leaves {margin / _ROOM:.3g}"
        )

    def least_epsilon(self) -> float:
        """Epsilon of all evaluations with which a faultless model passes; infinite when no noise is small enough."""
        if not self.aggregations:
            return math.inf
        if self._scenario.privacy.unit is Unit.NONE:
            return 0.0
        _, margin = _narrowest(self._scenario)
        z = min(
            margin / (_ROOM * _noise_of_mean(self._scenario, aggregation, 1.0)) for aggregation in self.aggregations
        )
        if z < NOISE_BRACKET[0]:
            return math.inf
        privacy = self._scenario.privacy
        events = self._events(min(z, NOISE_BRACKET[1]))
        return account(events, privacy.delta, relation_of(privacy.unit)).epsilon

    def plan(self, warnings: tuple[str, ...]) -> CanaryPlan:
        """The canary evaluations with the noise that `canary_epsilon` buys."""
        privacy = self._scenario.privacy
        if privacy.unit is Unit.NONE:
            return CanaryPlan(
                settings=tuple(_settings(self._scenario, aggregation, 0.0) for aggregation in self.aggregations),
                warnings=warnings,
            )
        z = self._noise()
        settings = tuple(_settings(self._scenario, aggregation, z) for aggregation in self.aggregations)
        events = self._events(z)
        epsilon = account(events, privacy.delta, relation_of(privacy.unit)).epsilon
        return CanaryPlan(settings, events, (self._push(z),), z, epsilon, warnings)

    def remedies(self) -> str:
        """Numbers with which there is no trouble, each by itself."""
        scenario, found = self._scenario, []
        if (enough := self._enough_devices()) is not None:
            found.append(f"{enough} devices")
        one_wave = scenario.model_copy(update={"rollout": scenario.rollout.model_copy(update={"waves": (1.0,)})})
        if len(self._sizes) > 1 and not _CanaryEvaluations(one_wave, self._devices).trouble():
            found.append("rollout.waves = [1.0]")
        if (epsilon := self.least_epsilon()) <= MOST_SHARE * scenario.privacy.epsilon:
            found.append(f"rollout.canary_epsilon = {math.ceil(epsilon * 100) / 100:g}")
        return " or ".join(found) or "wider limits, fewer possible pushes and a larger budget"

    @property
    def _budget(self) -> float:
        return self._scenario.rollout.canary_epsilon

    def _noise(self) -> float:
        privacy = self._scenario.privacy
        return calibrate(self._events, self._budget, privacy.delta, relation_of(privacy.unit), NOISE_BRACKET)

    def _events(self, z: float) -> tuple[Event, ...]:
        return (Repeated(self._push(z), pushes(self._scenario)),)

    def _push(self, z: float) -> Event:
        """What all waves of one push cost together."""
        model, scenario = noise_model_of(self._scenario), self._scenario
        settings = (_settings(scenario, aggregation, z) for aggregation in self.aggregations)
        dearest = either([model.event(each.mechanism, z) for each in settings])
        return touching(dearest, Purpose.GATE, split_of(scenario, self._windows))

    def _enough_devices(self) -> int | None:
        """The least larger fleet without trouble; more devices mean less noise in the mean."""

        def enough(devices: int) -> bool:
            return _CanaryEvaluations(self._scenario, devices).least_epsilon() <= self._budget

        return least_devices(enough, self._devices)


def _check_min_judged(section: RolloutSection, devices: int) -> None:
    sizes = wave_sizes(devices, section.waves)
    if section.min_judged > min(sizes):
        wave = sizes.index(min(sizes)) + 1
        raise ConfigError(
            f"[rollout] min_judged = {section.min_judged}: wave {wave} has {min(sizes)} of {devices} devices, it could "
            "never pass",
            hint=f"at most {min(sizes)} with these waves, or larger waves",
        )


def _check_share(scenario: Scenario) -> None:
    section, privacy = scenario.rollout, scenario.privacy
    too_much = section.canary_epsilon > privacy.epsilon
    all_of_it = section.canary_epsilon == privacy.epsilon and not split_of(scenario, WindowRows.HELD_OUT)
    if privacy.unit is not Unit.NONE and (too_much or all_of_it):
        raise ConfigError(
            f"[rollout] canary_epsilon {section.canary_epsilon} leaves nothing of [privacy] epsilon {privacy.epsilon}",
            hint="it is the part of the budget that all canary evaluations share; set it lower, or 0: none",
        )


def _unwatched(trouble: str, remedies: str) -> str:
    return (
        f"no canary evaluation of new models (rollout.unjudgeable = acknowledge): {trouble}. Acknowledged installs and "
        f"each device's own self-check alone decide; what they do not catch reaches everybody. Canary evaluations "
        f"would do with {remedies}."
    )


def pushes(scenario: Scenario) -> int:
    """Most versions that a run can push: the first one, and one per allowed trigger.

    Args:
        scenario: with its [drift] section.
    """
    return 1 + (scenario.drift.max_triggers if scenario.drift.enabled and scenario.drift.windows else 0)


def _aggregation_cohort(scenario: Scenario, size: int, number: int) -> AggregationCohort:
    try:
        return aggregation_cohort(scenario.secure_aggregation, size)
    except ConfigError as error:
        raise ConfigError(f"[rollout] wave {number} has {size} devices, too few for a private sum: {error}") from error


def _settings(scenario: Scenario, aggregation: AggregationCohort, z: float) -> SumSettings:
    return report_settings(scenario, WIDTH, NORM, aggregation, z)


def _narrowest(scenario: Scenario) -> tuple[str, float]:
    """The figure whose limit is nearest to the best possible value, and how near."""
    gates = gates_of(scenario.rollout, compared=True)
    rooms = [gate.room for gate in gates]
    at = rooms.index(min(rooms))
    return gates[at].figure, rooms[at]


def _noise_of_mean(scenario: Scenario, aggregation: AggregationCohort, z: float) -> float:
    """Standard deviation of the noise in the mean figure of a wave when everybody answers."""
    rows = scenario.privacy.unit.counted(scenario.drift.window)
    spread = noise_model_of(scenario).spread(aggregation.cohort, aggregation.contributors)
    return z * NORM * spread / (aggregation.cohort * rows)
