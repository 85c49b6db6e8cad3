"""Who gets the model when: the same answer for the same device, without a list to keep.

Rules:
* A device has a fixed place in [0, 2^52) from SHA-256(salt, device); a wave is everybody up to a cutoff whose
  attributes match, so a wave is a random part of the fleet and larger waves contain smaller ones.
* The cutoff comes from the ranks of the enrolled devices, so 25 % of 4 devices is 1 device, not perhaps none.
* A device that enrolls later has a wave too. A device belongs to the first wave that includes it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fedinfer.errors import ConfigError
from fedinfer.types import DeviceId

Attributes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wave:
    """What an operator asks for.

    Args:
        fraction: of the matching devices, cumulative, in (0, 1].
        where: attributes a device must have, for instance {"region": "north"}; empty: all.
    """

    fraction: float
    where: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"wave fraction {self.fraction} must be in (0, 1]")


@dataclass(frozen=True, slots=True)
class PlannedWave:
    """A wave of a known fleet.

    Args:
        cutoff: largest place that is included.
        where: attributes a device must have.
        size: enrolled devices for which this is the first wave, >= 1.
    """

    cutoff: int
    where: dict[str, str]
    size: int


def place(device: DeviceId, salt: str) -> int:
    """Fixed place of a device in the order of a rollout, as good as random.

    Args:
        device: name.
        salt: of the rollout.

    Returns:
        In [0, 2^52).
    """
    digest = hashlib.sha256(f"{len(salt)}:{salt}{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 12


def plan_waves(fleet: Mapping[DeviceId, Attributes], waves: Sequence[Wave], salt: str) -> tuple[PlannedWave, ...]:
    """Turn fractions into cutoffs; a wave that would add nobody (25 % of 2 devices twice) is left out.

    Args:
        fleet: enrolled devices and their attributes.
        waves: in order.
        salt: differs between rollouts, so that not always the same devices go first.

    Returns:
        At most one wave per entry of `waves`, each with at least one device that no earlier one has.

    Raises:
        ConfigError: without devices or waves, or when no device matches a wave.
    """
    if not fleet or not waves:
        raise ConfigError(f"a rollout needs devices and waves, got {len(fleet)} and {len(waves)}")
    places = {device: place(device, salt) for device in fleet}
    planned: list[PlannedWave] = []
    taken: set[DeviceId] = set()
    for index, wave in enumerate(waves):
        matching = sorted((device for device in fleet if _matches(fleet[device], wave.where)), key=places.__getitem__)
        if not matching:
            raise ConfigError(f"wave {index + 1}: none of {len(fleet)} devices has {wave.where}")
        chosen = matching[: math.ceil(wave.fraction * len(matching))]
        added = set(chosen) - taken
        if added:
            planned.append(PlannedWave(places[chosen[-1]], dict(wave.where), len(added)))
            taken |= added
    return tuple(planned)


def wave_sizes(devices: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Sizes of the waves of a fleet without attributes, as `plan_waves` would plan them.

    Args:
        devices: in the fleet, >= 0.
        fractions: cumulative, in (0, 1], ascending.
    """
    ends = [0, *(math.ceil(fraction * devices) for fraction in fractions)]
    return tuple(after - before for before, after in pairwise(ends) if after > before)


def wave_of(device: DeviceId, attributes: Attributes, waves: Sequence[PlannedWave], salt: str) -> int | None:
    """First wave that includes a device.

    Args:
        device: enrolled when the waves were planned, or later.
        attributes: of that device.
        waves: from `plan_waves`.
        salt: the one given to `plan_waves`.

    Returns:
        Counted from 0; None when the rollout does not target the device.
    """
    at = place(device, salt)
    for index, wave in enumerate(waves):
        if at <= wave.cutoff and _matches(attributes, wave.where):
            return index
    return None


def members(
    fleet: Mapping[DeviceId, Attributes], waves: Sequence[PlannedWave], salt: str, wave: int
) -> tuple[DeviceId, ...]:
    """Devices for which `wave` is the first one, sorted.

    Args:
        fleet: enrolled devices and their attributes.
        waves: from `plan_waves`.
        salt: the one given to `plan_waves`.
        wave: counted from 0.
    """
    return tuple(sorted(device for device in fleet if wave_of(device, fleet[device], waves, salt) == wave))


def _matches(attributes: Attributes, where: Attributes) -> bool:
    return all(attributes.get(key) == value for key, value in where.items())
