"""What looks at freshly installed models cost, and whether their noise leaves anything to see.

A look is one private sum over the devices of one wave. The plan holds a look at every wave of every push that can
happen: the first one and one per allowed trigger. `[rollout] gate_epsilon` is what all of them share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from fedinfer.config import Scenario
from fedinfer.coordinator.hiding import Hiding, hide
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting import account
from fedinfer.privacy.calibration import calibrate
from fedinfer.privacy.charges import relation_of
from fedinfer.privacy.events import Event, GaussianEvent, Repeated
from fedinfer.rollout.looks import NORM
from fedinfer.rollout.waves import wave_sizes
from fedinfer.types import Trust, Unit

if TYPE_CHECKING:
    from fedinfer.coordinator.planning import SumSettings

NOISE_BRACKET = (0.02, 1e4)
WRONG_PASS_RATE = WRONG_STOP_RATE = 0.05
"""Of one wave; see fedinfer.rollout.gates."""
PASS_DEVIATIONS = -NormalDist().inv_cdf(WRONG_PASS_RATE)
USUAL_LUCK = 2.0
"""A model without errors should pass although the noise is so many deviations on the bad side."""

MakeSettings = Callable[[Hiding, float], "SumSettings"]


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Looks of a run; all empty when nobody looks.

    Args:
        settings: of the sum of each wave.
        events: what all looks cost.
        noise_multiplier: guaranteed standard deviation over the norm of one answer.
        epsilon: of all looks alone.
        warnings: for the report.
    """

    settings: tuple[SumSettings, ...] = ()
    events: tuple[Event, ...] = ()
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    warnings: tuple[str, ...] = ()


def plan_gates(scenario: Scenario, devices: int, make: MakeSettings) -> GatePlan:
    """Plan all looks.

    Args:
        scenario: with [rollout] gate_epsilon.
        devices: of the fleet.
        make: settings of a sum over the devices of one wave at a noise multiplier.

    Raises:
        ConfigError: a wave is too small to hide anybody, or no noise fits `gate_epsilon`.
    """
    section, privacy = scenario.rollout, scenario.privacy
    if section.gate_epsilon == 0:
        return GatePlan()
    hidings = tuple(_hide(scenario, size, number) for number, size in enumerate(wave_sizes(devices, section.waves), 1))
    if privacy.unit is Unit.NONE:
        return GatePlan(settings=tuple(make(hiding, 0.0) for hiding in hidings))
    if section.gate_epsilon >= privacy.epsilon:
        raise ConfigError(
            f"[rollout] gate_epsilon {section.gate_epsilon} leaves nothing of [privacy] epsilon {privacy.epsilon}",
            hint="gate_epsilon is the part of the budget that all looks share",
        )
    relation = relation_of(privacy.unit)

    def events(z: float) -> tuple[Event, ...]:
        return tuple(Repeated(_event(scenario, make(hiding, z), z), pushes(scenario)) for hiding in hidings)

    z = calibrate(events, section.gate_epsilon, privacy.delta, relation, NOISE_BRACKET)
    settings = tuple(make(hiding, z) for hiding in hidings)
    epsilon = account(events(z), privacy.delta, relation).epsilon
    return GatePlan(settings, events(z), z, epsilon, _warnings(scenario, hidings, z))


def pushes(scenario: Scenario) -> int:
    """Most versions that a run can push."""
    return 1 + (scenario.drift.max_triggers if scenario.drift.enabled and scenario.drift.windows else 0)


def _hide(scenario: Scenario, size: int, number: int) -> Hiding:
    try:
        return hide(scenario.secure_aggregation, size)
    except ConfigError as error:
        raise ConfigError(
            f"[rollout] wave {number} has {size} devices, no look can hide them: {error}",
            hint="make the waves larger, or set rollout.gate_epsilon = 0: acknowledged installs alone decide",
        ) from error


def _event(scenario: Scenario, settings: SumSettings, z: float) -> Event:
    return settings.mechanism.event(1.0) if scenario.privacy.trust is Trust.DISTRIBUTED else GaussianEvent(z)


def _warnings(scenario: Scenario, hidings: tuple[Hiding, ...], z: float) -> tuple[str, ...]:
    """Waves in which the noise alone would hold a model without any error."""
    section = scenario.rollout
    needed, found = min(section.max_error_rate, section.max_slow_rate), []
    for number, hiding in enumerate(hidings, 1):
        std = _noise_of_mean(scenario, hiding, z)
        if needed < (PASS_DEVIATIONS + USUAL_LUCK) * std:
            found.append(
                f"the noise of the look at wave {number} has standard deviation {std:.3g} in the mean of "
                f"{hiding.cohort} devices: a limit of {needed:g} will often hold a good model. Raise "
                "rollout.gate_epsilon or the limits, or make the wave larger."
            )
    return tuple(found)


def _noise_of_mean(scenario: Scenario, hiding: Hiding, z: float) -> float:
    """Standard deviation of the noise in the mean figure of a wave when everybody answers."""
    trust = scenario.privacy.trust
    rows = scenario.drift.window if scenario.privacy.unit is Unit.EXAMPLE else 1
    shares = {
        Trust.DISTRIBUTED: hiding.cohort / hiding.contributors,
        Trust.LOCAL: float(hiding.cohort),
        Trust.CENTRAL: 1.0,
    }
    return z * NORM * math.sqrt(shares[trust]) / (hiding.cohort * rows)
