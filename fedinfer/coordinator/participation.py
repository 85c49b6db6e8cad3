"""The participation schedule of rounds with correlated noise (trust central): whom to ask, which noise is next.

All rounds of a run, those of every allowed trigger included, are one Gaussian mechanism (`privacy.mechanism.
matrix_mechanism`), and its sensitivity depends on how often, and how far apart, one device is asked. So cohorts are not
drawn for every round: the order of the devices is drawn once and repeated without end, and every round asks the next
`cohort` of them. A device that was asked comes again `population` places later, so after floor(population / cohort)
rounds or one more: the minimum separation (Choquette-Choo et al. 2023, "(Amplified) banded matrix factorization").
When the cohort divides the population these are fixed blocks, one after the other; when it does not, nobody
is left out all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedinfer.messages import INDEPENDENT, ScheduledRound
from fedinfer.privacy import CorrelatedNoise, Factorization, Floats, NoiseStream, next_noise, start_noise
from fedinfer.types import DeviceId


@dataclass(frozen=True, slots=True)
class Asked:
    """What the next round is made of.

    Args:
        cohort: sorted.
        scheduled: bound by every plan of the round.
        noise: float64 (d,), secret; None: the round draws independent noise for itself.
    """

    cohort: tuple[DeviceId, ...]
    scheduled: ScheduledRound = INDEPENDENT
    noise: Floats | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What changes in a schedule from round to round; whoever reads it can take the noise off what was released.

    Args:
        order: all devices, in the order in which they are asked.
        taken: indices of the rounds of each device that was asked, oldest first.
        noise: of the last rounds, see `CorrelatedNoise`.
    """

    order: tuple[DeviceId, ...]
    taken: Mapping[DeviceId, tuple[int, ...]]
    noise: CorrelatedNoise = field(repr=False)


class ParticipationSchedule:
    """What the server remembers between rounds, in secret.

    Args:
        factorization: the strategy.
        order: all devices, in the order in which they are asked.
        cohort: devices that a round asks; fewer when a device would else be asked again too early.
        std: standard deviation of the fresh noise Z: noise multiplier times sensitivity of a decoded sum.
        dimension: number of coordinates of the noise.
    """

    def __init__(
        self, factorization: Factorization, order: Sequence[DeviceId], cohort: int, std: float, dimension: int
    ) -> None:
        self._factorization = factorization
        self._order = tuple(order)
        self._window = min(cohort, len(order) // factorization.participation.separation)
        self._std = std
        self._noise: CorrelatedNoise = start_noise(factorization, dimension)
        self._taken: dict[DeviceId, list[int]] = {}

    @property
    def state(self) -> ScheduleState:
        """For a process that goes on after this one."""
        return ScheduleState(self._order, {device: tuple(taken) for device, taken in self._taken.items()}, self._noise)

    def go_on(self, state: ScheduleState) -> None:
        """Take up where another process left.

        Args:
            state: of a schedule with the same strategy.
        """
        self._order, self._noise = state.order, state.noise
        self._taken = {device: list(taken) for device, taken in state.taken.items()}

    def take(self, stream: NoiseStream) -> Asked:
        """The next round. Its index, and its row of noise, are used up also when the round aborts afterwards.

        Args:
            stream: fresh words.

        Raises:
            Misbehaviour: all rounds are over, or a device would be asked too early or too often.
        """
        index, pattern = self._noise.round, self._factorization.participation
        places = (index * self._window + np.arange(self._window)) % len(self._order)
        cohort = tuple(sorted(self._order[place] for place in places))
        for device in cohort:
            taken = self._taken.setdefault(device, [])
            pattern.check(taken, index)
            taken.append(index)
        noise, self._noise = next_noise(self._noise, self._factorization, self._std, stream)
        scheduled = ScheduledRound(
            self._factorization.coefficients, pattern.rounds, pattern.limit, pattern.separation, index
        )
        return Asked(cohort, scheduled, noise)
