"""Training rounds whose noise is correlated (trust central): when it is allowed, whose turn it is, which noise is next.

All rounds of a run, those of every allowed trigger included, are one Gaussian mechanism (fedinfer.privacy.
factorization), and its sensitivity depends on how often, and how far apart, one device is asked. So cohorts are not
drawn for every round: devices stand in a circle, in an order drawn once, and every round asks the next `cohort` of
them. A device whose turn it was stands `population` places behind the next window, so it is asked again after
floor(population / cohort) rounds or one more: that is the separation. When the cohort divides the population these are
fixed blocks that take turns; when it does not, nobody is left out all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedinfer.config import Correlation, Robust, Scenario
from fedinfer.errors import ConfigError
from fedinfer.messages import INDEPENDENT, Turn
from fedinfer.privacy.mechanism.matrix_mechanism import (
    CorrelatedNoise,
    Factorization,
    Floats,
    Participation,
    factorize,
    next_noise,
    start_noise,
)
from fedinfer.privacy.mechanism.noise import NoiseStream
from fedinfer.types import DeviceId, Json, Trust, Unit


def correlate(scenario: Scenario, devices: int, cohort: int, rounds: int) -> Factorization | None:
    """The strategy of a run; None for independent noise.

    Args:
        scenario: says whether.
        devices: enrolled.
        cohort: asked in a round, 1..devices.
        rounds: of the whole run, those of every allowed trigger included.

    Raises:
        ConfigError: correlated noise is wanted where one server cannot add it, or where it would not be one Gaussian
            mechanism.
    """
    if scenario.privacy.correlation is Correlation.NONE:
        return None
    _check(scenario)
    if not rounds:
        return None
    separation = devices // cohort
    return factorize(Participation(rounds, -(-rounds // separation), separation))


def _check(scenario: Scenario) -> None:
    privacy, training = scenario.privacy, scenario.training
    wanted = f"[privacy] correlation = {str(privacy.correlation)!r}"
    if privacy.unit is Unit.NONE:
        raise ConfigError(f"{wanted}: with unit = 'none' there is no noise", hint="set correlation = 'none'")
    if privacy.trust is not Trust.CENTRAL:
        raise ConfigError(
            f"{wanted} with trust = {str(privacy.trust)!r}: one party has to remember the noise of all rounds",
            hint="set trust = 'central', if devices may trust the server, or correlation = 'none'",
        )
    if training.robust is not Robust.MEAN:
        raise ConfigError(
            f"{wanted} with [training] robust = {str(training.robust)!r}: every group would have noise of its own, and "
            "groups change from round to round",
            hint="set robust = 'mean', or correlation = 'none'",
        )
    if privacy.unit is Unit.EXAMPLE and training.sampling_rate < 1:
        raise ConfigError(
            f"{wanted} with [training] sampling_rate = {training.sampling_rate:g}: no amplification by sampling is "
            "proved for correlated noise",
            hint="set sampling_rate = 1, or correlation = 'none'",
        )


def describe(factorization: Factorization | None) -> Json:
    """What a run record says about the strategy; the noise itself is nowhere."""
    if factorization is None:
        return {"kind": str(Correlation.NONE)}
    pattern = factorization.participation
    return {
        "kind": str(Correlation.BANDED),
        "bands": len(factorization.coefficients),
        "rounds": pattern.rounds,
        "limit": pattern.most,
        "separation": pattern.separation,
        "sensitivity": factorization.sensitivity,
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """What the next round is made of.

    Args:
        cohort: sorted.
        turn: bound by every plan of the round.
        noise: float64 (d,), secret; None: the round draws independent noise for itself.
    """

    cohort: tuple[DeviceId, ...]
    turn: Turn = INDEPENDENT
    noise: Floats | None = field(default=None, repr=False)


class Turns:
    """What the server remembers between rounds, in secret and in memory only: a run that dies is not continued.

    Args:
        factorization: the strategy.
        circle: all devices, in the order of their turns.
        cohort: devices that a round asks; fewer when so few devices are there that turns would come too early.
        std: standard deviation of the fresh noise Z: noise multiplier times sensitivity of a decoded sum.
        dimension: of the noise.
    """

    def __init__(
        self, factorization: Factorization, circle: Sequence[DeviceId], cohort: int, std: float, dimension: int
    ) -> None:
        self._factorization = factorization
        self._circle = tuple(circle)
        self._window = min(cohort, len(circle) // factorization.participation.separation)
        self._std = std
        self._noise: CorrelatedNoise = start_noise(factorization, dimension)
        self._taken: dict[DeviceId, list[int]] = {}

    def take(self, stream: NoiseStream) -> Asked:
        """The next round. Its index, and its row of noise, are used up also when the round aborts afterwards.

        Args:
            stream: fresh words.

        Raises:
            Misbehaviour: all rounds are over, or a device would be asked too early or too often.
        """
        index, pattern = self._noise.round, self._factorization.participation
        places = (index * self._window + np.arange(self._window)) % len(self._circle)
        cohort = tuple(sorted(self._circle[place] for place in places))
        for device in cohort:
            taken = self._taken.setdefault(device, [])
            pattern.check(taken, index)
            taken.append(index)
        noise, self._noise = next_noise(self._noise, self._factorization, self._std, stream)
        turn = Turn(self._factorization.coefficients, pattern.rounds, pattern.limit, pattern.separation, index)
        return Asked(cohort, turn, noise)
