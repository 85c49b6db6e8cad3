"""Who adds the noise of a private sum, and all that follows from it: four small values that the rest of the code asks.

| value | who adds noise | where | what a device sends, unit `example` |
|---|---|---|---|
| `Local` | every device, all of it | before its vector enters the ring | what it trained in noisy steps |
| `Distributed` | enough honest devices, a share each | inside the ring, under the masks | sums of clipped gradients |
| `Central` | the server | on the decoded sum | sums of clipped gradients |
| `Noiseless` | nobody | nowhere | what it trained |

z is the noise multiplier: standard deviation of the guaranteed noise over the clipping norm C of one unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.privacy.accounting.events import Event, GaussianEvent, NonPrivate, PoissonSampled, Repeated
from fedinfer.privacy.mechanism.design import design, design_without_noise
from fedinfer.privacy.mechanism.mechanism import (
    IntegerMechanism,
    NoiseKind,
    Rounding,
    decoded_sensitivity,
    rounding_of,
)
from fedinfer.privacy.mechanism.noise import NoiseStream, gaussian
from fedinfer.types import FloatVector, Trust, Unit

AnyFloats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]


class Work(Enum):
    """What a device computes for a training round."""

    UPDATES = auto()
    """It trains, and sends the difference as one unit, or unprotected."""
    GRADIENT_SUMS = auto()
    """It sums its clipped per-example gradients; the server makes one step of all sums."""
    PRIVATE_STEPS = auto()
    """It trains in steps that are private one by one (DP-SGD on the device), and sends the difference."""


@dataclass(frozen=True, slots=True)
class Summands:
    """The vectors of one kind of sum.

    Args:
        dimension: length, >= 1.
        clipping_norm: C of one unit.
        noised_norm: L2 norm that a vector with local noise practically never exceeds; used by `Local` alone.
        devices: most devices in one sum.
        units: most clipped units in one sum.
        contributors: honest devices whose shares of noise are sure to be in it.
    """

    dimension: int
    clipping_norm: float
    noised_norm: float
    devices: int
    units: int
    contributors: int


@dataclass(frozen=True, slots=True)
class Local:
    """Every device adds all the noise itself (trust `local`)."""

    unit: Unit
    noise_in_ring = False
    sum_is_exact = False

    @property
    def work(self) -> Work:
        """What a device computes."""
        return _work(self.unit, Work.PRIVATE_STEPS)

    def event(self, mechanism: IntegerMechanism, z: float, rate: float = 1.0, steps: int = 1) -> Event:
        """Cost of one sum for one unit: `steps` Gaussian releases, each of a sample at `rate` in (0, 1]."""
        return _gaussian_event(z, rate, steps)

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """A ring for vectors that are already private: their norm is a matter of range, not of sensitivity."""
        return design_without_noise(
            rounding=Rounding.CONDITIONAL,
            unit=Unit.NONE,
            dimension=summands.dimension,
            clipping_norm=summands.noised_norm,
            summands=summands.devices,
            units=summands.devices,
            max_loss=max_loss,
        )

    def noise_outside(self, z: float) -> float:
        """Noise multiplier of what is added outside the ring."""
        return z

    def spread(self, survivors: int, contributors: int) -> float:
        """Noise of a sum over the guaranteed noise z C: each survivor brings its own."""
        return math.sqrt(survivors)

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """Standard deviation of the noise in a decoded sum, in units of one unit's value."""
        return z * norm * math.sqrt(survivors)

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """Largest sum over z C: what each device has at least adds up as n, the noise as sqrt(n)."""
        return least * math.sqrt(cohort)

    def device_noise(
        self, vectors: FloatVector, std: float, streams: Callable[[], Sequence[NoiseStream]]
    ) -> FloatVector:
        """Each row with noise of standard deviation `std` from its device's own stream, float32 (n, d)."""
        noise = [gaussian(std, (vectors.shape[1],), stream) for stream in streams()]
        return (vectors + np.stack(noise)).astype(np.float32)

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """The total as it is."""
        return total.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Distributed:
    """Each device adds a share of integer noise; the shares of the honest ones suffice (trust `distributed`)."""

    unit: Unit
    noise_in_ring = True
    sum_is_exact = False

    @property
    def work(self) -> Work:
        """What a device computes."""
        return _work(self.unit, Work.GRADIENT_SUMS)

    def event(self, mechanism: IntegerMechanism, z: float, rate: float = 1.0, steps: int = 1) -> Event:
        """Cost of one sum for one unit: that of the integer mechanism, sampled at `rate` in (0, 1]."""
        return mechanism.event(rate)

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """A ring with room for the shares of noise."""
        return design(
            kind=kind,
            rounding=rounding_of(self.unit),
            dimension=summands.dimension,
            clipping_norm=summands.clipping_norm,
            noise_multiplier=z,
            contributors=summands.contributors,
            summands=summands.devices,
            units=summands.units,
            max_loss=max_loss,
        )

    def noise_outside(self, z: float) -> float:
        """Nothing is added outside the ring."""
        return 0.0

    def spread(self, survivors: int, contributors: int) -> float:
        """Shares are sized for the guaranteed contributors; more survivors bring more noise."""
        return math.sqrt(survivors / contributors)

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """Standard deviation of the noise in a decoded sum, in units of one unit's value."""
        return mechanism.noise_multiplier * norm * math.sqrt(survivors / mechanism.contributors)

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """Largest sum over z C: every group has noise of its own."""
        return total / math.sqrt(groups)

    def device_noise(
        self, vectors: FloatVector, std: float, streams: Callable[[], Sequence[NoiseStream]]
    ) -> FloatVector:
        """The vectors as they are: a share is added to their integers."""
        return vectors

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """The total as it is: its noise is in it."""
        return total.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Central:
    """The server adds the noise (trust `central`)."""

    unit: Unit
    noise_in_ring = False
    sum_is_exact = True
    """A sum that wrapped around would have no bounded sensitivity, so no tail of it is cut off."""

    @property
    def work(self) -> Work:
        """What a device computes."""
        return _work(self.unit, Work.GRADIENT_SUMS)

    def event(self, mechanism: IntegerMechanism, z: float, rate: float = 1.0, steps: int = 1) -> Event:
        """Cost of one sum for one unit: `steps` Gaussian releases, each of a sample at `rate` in (0, 1]."""
        return _gaussian_event(z, rate, steps)

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """A ring that cannot wrap around."""
        return design_without_noise(
            rounding=rounding_of(self.unit),
            unit=self.unit,
            dimension=summands.dimension,
            clipping_norm=summands.clipping_norm,
            summands=summands.devices,
            units=summands.units,
            max_loss=max_loss,
        )

    def noise_outside(self, z: float) -> float:
        """Noise multiplier of what is added outside the ring."""
        return z

    def spread(self, survivors: int, contributors: int) -> float:
        """One noise for everybody."""
        return 1.0

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """Standard deviation of the noise in a decoded sum: z times what one unit can move it by."""
        return z * decoded_sensitivity(mechanism)

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """Largest sum over z C."""
        return total

    def device_noise(
        self, vectors: FloatVector, std: float, streams: Callable[[], Sequence[NoiseStream]]
    ) -> FloatVector:
        """The vectors as they are."""
        return vectors

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """The total, float32 (d,), with Gaussian noise from `stream`."""
        std = z * decoded_sensitivity(mechanism)
        noised: FloatVector = (total + gaussian(std, total.shape, stream())).astype(np.float32)
        return noised


@dataclass(frozen=True, slots=True)
class Noiseless:
    """Nobody adds noise and nothing is protected (unit `none`)."""

    unit: Unit = Unit.NONE
    noise_in_ring = False
    sum_is_exact = False

    @property
    def work(self) -> Work:
        """What a device computes."""
        return Work.UPDATES

    def event(self, mechanism: IntegerMechanism, z: float, rate: float = 1.0, steps: int = 1) -> Event:
        """No epsilon is finite."""
        return NonPrivate()

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """A ring for plain sums."""
        return design_without_noise(
            rounding=Rounding.CONDITIONAL,
            unit=Unit.NONE,
            dimension=summands.dimension,
            clipping_norm=summands.clipping_norm,
            summands=summands.devices,
            units=summands.units,
            max_loss=max_loss,
        )

    def noise_outside(self, z: float) -> float:
        """Nothing is added."""
        return 0.0

    def spread(self, survivors: int, contributors: int) -> float:
        """There is no noise."""
        return 0.0

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """There is no noise."""
        return 0.0

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """Largest sum over C."""
        return total

    def device_noise(
        self, vectors: FloatVector, std: float, streams: Callable[[], Sequence[NoiseStream]]
    ) -> FloatVector:
        """The vectors as they are."""
        return vectors

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """The total as it is."""
        return total.astype(np.float32)


NoiseModel: TypeAlias = Local | Distributed | Central | Noiseless


def noise_model(trust: Trust, unit: Unit) -> NoiseModel:
    """The model of a run: the one place where `Trust` decides anything about noise.

    Args:
        trust: who is trusted to add noise.
        unit: what is protected; for `none` it does not matter who is trusted.
    """
    if unit is Unit.NONE:
        return Noiseless()
    match trust:
        case Trust.LOCAL:
            return Local(unit)
        case Trust.DISTRIBUTED:
            return Distributed(unit)
        case Trust.CENTRAL:
            return Central(unit)
        case _:
            assert_never(trust)


def _work(unit: Unit, of_examples: Work) -> Work:
    """What a device computes: where examples are protected it depends on who adds the noise."""
    match unit:
        case Unit.EXAMPLE:
            return of_examples
        case Unit.DEVICE | Unit.NONE:
            return Work.UPDATES
        case _:
            assert_never(unit)


def _gaussian_event(z: float, rate: float, steps: int) -> Event:
    noise = GaussianEvent(z)
    return Repeated(noise if rate >= 1 else PoissonSampled(rate, noise), steps)
