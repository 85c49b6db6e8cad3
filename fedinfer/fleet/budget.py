"""What the sums of a virtual fleet cost one device, synchronous or buffered.

Rules:
* A sum holds at most one vector of a device, of norm at most C: a device that is asked is not asked again before the
  sum that takes its answer is released, and the weight of a stale answer is at most 1, applied after clipping.
* A device's answers go into at most `participations` sums, M. Who has reached it is not asked any more.
* Nothing is amplified: who works when is seen by the server.

Theorem. Sums t = 1, 2, ... are released, each with fresh noise; sum t is an (epsilon, delta)-mechanism of the vectors
in it, for neighbours that differ in one device's vector or a zero in its place (zero-out-one). Who is in sum t, with
which weight and which version of the model, may depend on all earlier sums and on anything but the devices' rows. Then
what a device with m answers in all sums together gives away is at most the composition of m such mechanisms.

Proof. Fix a device and everything that its rows do not decide: speeds, links, hours, coins. Given the earlier releases,
a sum without the device is the same for both neighbours, so it is post-processing of them; a sum with it is one
mechanism that they chose: adaptive composition (Dwork, Rothblum and Vadhan 2010, section III, for the model; Dong, Roth
and Su 2022, Theorem 3.2, for the Gaussian profile; Mironov 2017, Proposition 1, for Rényi bounds). The mechanisms are
all alike, so a cap M on their number makes the composition of M valid whatever order they come in. In buffered rounds
an answer is made with an old model: that too is a function of earlier releases alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedinfer.config import Scenario
from fedinfer.errors import ConfigError
from fedinfer.privacy import (
    Event,
    IntegerMechanism,
    NoiseKind,
    NoiseModel,
    Repeated,
    Summands,
    account,
    calibrate,
    noise_model,
    relation_of,
)
from fedinfer.secagg import corrupt_among
from fedinfer.types import Trust, Unit

MAX_LOSS = 0.01
"""Part of epsilon that rounding and the ring may cost."""
BRACKET = (1e-2, 1e4)
LARGEST_SUM = 500
"""Devices in one secure sum without a trusted server, unless `group_size` says another number."""


@dataclass(frozen=True, slots=True)
class SumBudget:
    """The noise of every sum, and what it costs.

    Args:
        model: who adds the noise.
        mechanism: ring of the sums.
        noise_multiplier: z, 0 for unit `none`.
        answers: most answers in one sum.
        least: fewest answers with which a sum is released.
        participations: M, most sums that hold an answer of one device.
        delta: of the scenario.
    """

    model: NoiseModel
    mechanism: IntegerMechanism
    noise_multiplier: float
    answers: int
    least: int
    participations: int
    delta: float

    @property
    def event(self) -> Event:
        """What one sum costs a device whose answer it holds."""
        return self.model.event(self.mechanism, self.model.noise_outside(self.noise_multiplier))

    def epsilon(self, sums: int) -> float:
        """What a device has spent whose answers went into so many sums; infinite for unit `none`.

        Args:
            sums: 0 to `participations`.
        """
        if not sums:
            return 0.0
        return account([Repeated(self.event, sums)], self.delta, relation_of(self.model.unit)).epsilon


def plan_budget(scenario: Scenario, dimension: int, answers: int) -> SumBudget:
    """Choose ring and noise for a number of participations.

    Args:
        scenario: with its [privacy] section.
        dimension: parameters that rounds change, >= 1.
        answers: most answers in one sum, >= 1.

    Raises:
        ConfigError: a setting that a virtual fleet does not have, or no noise in the ring fits the budget.
    """
    _check(scenario, answers)
    privacy, section = scenario.privacy, scenario.secure_aggregation
    least = answers - math.floor(section.dropout_rate * answers)
    contributors = max(1, least - corrupt_among(answers, section.corruption_rate))
    norm = privacy.clipping_norm
    model = noise_model(privacy.trust, privacy.unit)
    summands = Summands(dimension, norm, norm, answers, answers, contributors)

    def ring(z: float) -> IntegerMechanism:
        return model.ring(summands, z, NoiseKind(privacy.mechanism), MAX_LOSS)

    most = min(scenario.fleet.clock.participations or scenario.training.rounds, max(scenario.training.rounds, 1))
    if privacy.unit is Unit.NONE:
        return SumBudget(model, ring(0.0), 0.0, answers, least, most, privacy.delta)

    def events(z: float) -> list[Event]:
        return [Repeated(model.event(ring(z), model.noise_outside(z)), most)]

    relation = relation_of(privacy.unit)
    z = calibrate(events, privacy.epsilon, privacy.delta, relation, BRACKET)
    return SumBudget(model, ring(z), z, answers, least, most, privacy.delta)


def _check(scenario: Scenario, answers: int) -> None:
    privacy, training = scenario.privacy, scenario.training
    refused = {
        f"[privacy] unit = '{privacy.unit}'": privacy.unit is Unit.EXAMPLE,
        f"[privacy] trust = '{privacy.trust}'": privacy.trust is Trust.LOCAL and privacy.unit is not Unit.NONE,
        f"[privacy] clipping = '{privacy.clipping}'": privacy.clipping != "fixed",
        f"[privacy] correlation = '{privacy.correlation}'": privacy.correlation != "none",
        f"[training] robust = '{training.robust}'": training.robust != "mean",
    }
    found = [setting for setting, wrong in refused.items() if wrong]
    if found:
        raise ConfigError(
            f"{found[0]}: a virtual fleet does not have that",
            hint="it has unit device or none, trust central or distributed, fixed clipping, the plain mean; else "
            "`fedinfer run`",
        )
    largest = scenario.secure_aggregation.group_size or LARGEST_SUM
    if privacy.trust is Trust.DISTRIBUTED and privacy.unit is Unit.DEVICE and answers > largest:
        raise ConfigError(
            f"{answers} answers in one secure sum: without a trusted server at most {largest} are summed at once",
            hint="fewer (training.cohort, fleet.clock.buffer), or trust = 'central'",
        )
