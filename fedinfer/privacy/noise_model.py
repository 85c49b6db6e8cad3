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
from typing import TypeAlias, assert_never

import numpy as np

from fedinfer.lattice_noise import lattice_gaussian
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
from fedinfer.privacy.summands import Summands, Work
from fedinfer.types import AnyFloats, FloatVector, Trust, Unit

__all__ = [
    "AnyFloats",
    "Central",
    "Distributed",
    "Local",
    "NoiseModel",
    "Noiseless",
    "Summands",
    "Work",
    "noise_model",
]

FRACTION_BITS = 40  # noise of one device has units of about 2^-40 of its deviation


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
        """Cost of one sum for one unit: `steps` Gaussian releases, each of a sample at `rate` in (0, 1].

        Args:
            mechanism: of the ring; the cost does not depend on it here.
            z: noise multiplier of one release, > 0.
            rate: at which a unit takes part in each release, secretly and independently; 1 charges no sampling.
            steps: releases (DP-SGD steps on the device), >= 1.

        Raises:
            ConfigError: z or rate out of range.
        """
        return _gaussian_event(z, rate, steps)

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """A ring for vectors that are already private: their norm is a matter of range, not of sensitivity.

        Args:
            summands: what is summed.
            z: not used: the noise is in the vectors already.
            kind: not used: no share of noise is added in the ring.
            max_loss: largest accepted growth of the squared sensitivity by rounding, > 0, for instance 0.01.

        Raises:
            ConfigError: 32 bits are not enough.
        """
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
        """Noise multiplier of what is added outside the ring.

        Args:
            z: noise multiplier of the run.
        """
        return z

    def spread(self, survivors: int, contributors: int) -> float:
        """Noise of a sum over the guaranteed noise z C: each survivor brings its own.

        Args:
            survivors: devices in the sum.
            contributors: not used: no share of noise is counted on.

        Returns:
            Standard deviation of the noise over z C.
        """
        return math.sqrt(survivors)

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """Standard deviation of the noise in a decoded sum, per coordinate, in the unit of the vectors.

        Args:
            mechanism: of the ring.
            z: noise multiplier.
            norm: C of one unit.
            survivors: devices in the sum.
        """
        return z * norm * math.sqrt(survivors)

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """Largest norm of the sum over its noise, for z = 1: the least of each device adds up as n, noise as sqrt(n).

        Args:
            total: largest norm of the sum over C when every unit is in it.
            least: the same for the device with the fewest units.
            cohort: devices in the sum.
            groups: groups with a sum of their own.

        Returns:
            A ratio; divided by z it is the largest signal-to-noise ratio that the release can have.
        """
        return least * math.sqrt(cohort)

    def device_noise(self, vectors: AnyFloats, std: float, streams: Callable[[], Sequence[NoiseStream]]) -> AnyFloats:
        """Each row with noise of standard deviation `std` from its device's own stream.

        Both are whole multiples of one unit, the row cut to them towards zero: see `fedinfer.lattice_noise`.

        Args:
            vectors: float32 or float64 (n, d), one row per device.
            std: per coordinate, in the unit of the vectors.
            streams: gives one stream per row; called only where noise is needed.

        Returns:
            float32 (n, d).
        """
        unit = math.ldexp(1.0, math.frexp(std)[1] - FRACTION_BITS)
        noise = [lattice_gaussian(std, unit, vectors.shape[1], stream.words) for stream in streams()]
        return (np.trunc(vectors / np.float64(unit)) * unit + np.stack(noise)).astype(np.float32)

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """The total without further noise: it holds that of every device.

        Args:
            total: decoded sum, (d,).
            mechanism: of the ring.
            z: noise multiplier.
            stream: gives the server's stream; called only where noise is needed.

        Returns:
            float32 (d,).
        """
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
        """As `Local.event`: the cost of the integer mechanism for one sum; `z` and `steps` do not count."""
        return mechanism.event(rate)

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """As `Local.ring`: with room for the shares of noise, of law `kind`, that add up to at least z C."""
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
        """As `Local.noise_outside`: nothing is added outside the ring."""
        return 0.0

    def spread(self, survivors: int, contributors: int) -> float:
        """As `Local.spread`: shares are sized for the guaranteed contributors; more survivors bring more noise."""
        return math.sqrt(survivors / contributors)

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """As `Local.std`: that of `survivors` shares; the noise multiplier of the mechanism counts, not `z`."""
        return mechanism.noise_multiplier * norm * math.sqrt(survivors / mechanism.contributors)

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """As `Local.signal`: every group has noise of its own."""
        return total / math.sqrt(groups)

    def device_noise(self, vectors: AnyFloats, std: float, streams: Callable[[], Sequence[NoiseStream]]) -> AnyFloats:
        """As `Local.device_noise`: the vectors are unchanged, because a share is added to their integers later."""
        return vectors

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """As `Local.server_noise`: the total holds its noise already."""
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
        """As `Local.event`: one Gaussian release per step."""
        return _gaussian_event(z, rate, steps)

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """As `Local.ring`: it cannot wrap around, so the sum has a bounded sensitivity."""
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
        """As `Local.noise_outside`: all of it."""
        return z

    def spread(self, survivors: int, contributors: int) -> float:
        """As `Local.spread`: 1, because the server adds one noise for everybody."""
        return 1.0

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """As `Local.std`: z times what one unit can move the decoded sum by, rounding included."""
        return z * decoded_sensitivity(mechanism)

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """As `Local.signal`: all groups are added up before the one noise."""
        return total

    def device_noise(self, vectors: AnyFloats, std: float, streams: Callable[[], Sequence[NoiseStream]]) -> AnyFloats:
        """As `Local.device_noise`: the vectors are unchanged."""
        return vectors

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """As `Local.server_noise`: with Gaussian noise of z times the decoded sensitivity from `stream`."""
        # Relative to what the rounded sum can really move by, not to C: only so the cost is that of GaussianEvent(z).
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
        """As `Local.event`: no epsilon is finite."""
        return NonPrivate()

    def ring(self, summands: Summands, z: float, kind: NoiseKind, max_loss: float) -> IntegerMechanism:
        """As `Local.ring`: for plain sums."""
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
        """As `Local.noise_outside`: nothing is added."""
        return 0.0

    def spread(self, survivors: int, contributors: int) -> float:
        """As `Local.spread`: 0."""
        return 0.0

    def std(self, mechanism: IntegerMechanism, z: float, norm: float, survivors: int) -> float:
        """As `Local.std`: 0."""
        return 0.0

    def signal(self, total: float, least: float, cohort: int, groups: int) -> float:
        """As `Local.signal`: over C, because there is no noise."""
        return total

    def device_noise(self, vectors: AnyFloats, std: float, streams: Callable[[], Sequence[NoiseStream]]) -> AnyFloats:
        """As `Local.device_noise`: the vectors are unchanged."""
        return vectors

    def server_noise(
        self, total: AnyFloats, mechanism: IntegerMechanism, z: float, stream: Callable[[], NoiseStream]
    ) -> FloatVector:
        """As `Local.server_noise`: the total has no noise."""
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
    # What is sampled at rate 1 is not hidden among others: no amplification, and a simpler, tighter account.
    return Repeated(noise if rate >= 1 else PoissonSampled(rate, noise), steps)
