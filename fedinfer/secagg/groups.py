"""Many devices: cohorts of at most 500 are summed securely, the sums are added or combined robustly.

What this costs in privacy (the caller charges it; nothing here adds noise or accounts):
* Every group's sum is seen by the server, so every group is a release of its own: `min_survivors`, the noise shares and
  the event in the ledgers are those of ONE GROUP, not of the population. A device is in one group per round, so it is
  charged one event per round (parallel composition over disjoint groups); adding the groups costs nothing more.
* The median, the trimmed mean and the norm-bounded mean are functions of released sums: post-processing, no charge.
* The price is noise: with g groups, each noised as a release of its own, the mean of all has the noise of one group's
  mean divided by sqrt(g): sqrt(g) times more than one session over everybody would need.
What the robust rules give: a device can spoil only its own group. The median withstands fewer than half of the groups
being spoiled, the trimmed mean `trimmed` of them; the norm-bounded mean limits what one group can do, but not its sign.

Sources: Yin et al. 2018 (ICML), definitions 1 and 2 (median, trimmed mean); Sun et al. 2019 (arXiv 1911.07963),
section 3 (norm bounding).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.messages import Split
from fedinfer.secagg.hypergeometric import SECURITY_BITS, most_marked
from fedinfer.types import DeviceId

GROUND_BITS = SECURITY_BITS + 40
"""Security in bits of what a server may draw again by itself: room for 2^40 tries."""
MAX_GROUP = 500
"""Largest cohort of one session; a larger one is split into random groups."""

FloatArray = npt.NDArray[np.float32]


def random_groups(devices: Sequence[DeviceId], groups: int, seed: bytes) -> tuple[tuple[DeviceId, ...], ...]:
    """Split devices into groups at random: sizes differ by at most one, the order is that of a keyed hash.

    Args:
        devices: unique names.
        groups: 1..len(devices).
        seed: public; devices that were not known when it was fixed cannot choose their group.

    Returns:
        Groups, each sorted, as `Session.cohort` wants it.

    Raises:
        ConfigError: more groups than devices, none, or a name twice.
    """
    if not 1 <= groups <= len(devices) or len(set(devices)) != len(devices):
        raise ConfigError(f"{len(set(devices))} different devices of {len(devices)} cannot make {groups} groups")
    # Ordered by a hash and not by a shuffle: a device repeats it exactly, with any language and any numpy.
    shuffled = sorted(devices, key=lambda device: hashlib.sha256(seed + b"\0" + device.encode()).digest())
    return tuple(tuple(sorted(shuffled[start::groups])) for start in range(groups))


def check_group(cohort: tuple[DeviceId, ...], split: Split) -> None:
    """A device's check that its cohort follows from the published seed and was not picked.

    Args:
        cohort: the one that the plan names, sorted.
        split: how the plan says that everybody was grouped.

    Raises:
        Misbehaviour: the cohort is none of the groups that the seed gives, or the split contradicts itself.
    """
    if split.groups == 1 and not split.everyone:
        return  # one group: the cohort is everybody who is asked, and the seed decides nothing
    try:
        groups = _groups_of(split)
    except ConfigError as error:
        raise Misbehaviour(f"a split that cannot be: {error}") from error
    if cohort not in groups:
        raise Misbehaviour(
            f"the cohort of {len(cohort)} is none of the {split.groups} groups that the published seed makes of "
            f"{len(split.everyone)} devices"
        )


@lru_cache(maxsize=4)
def _groups_of(split: Split) -> frozenset[tuple[DeviceId, ...]]:
    """All groups of a split; a simulation checks the same one for every device."""
    return frozenset(random_groups(split.everyone, split.groups, split.seed))


def most_corrupt(devices: int, corrupt: int, size: int, groups: int) -> int:
    """Corrupt devices in one random group, at most, but for a chance of 2^-80 that any group of the round has more.

    A group drawn at random holds more than its share of the corrupt devices about every second time, so the number
    that noise and graph must withstand is a tail of the hypergeometric law, not the mean. The server draws the seed of
    the grouping and may try 2^40 of them by itself before it shows one: after that, 2^-40 is left.

    Args:
        devices: in all groups together.
        corrupt: how many of them are corrupt, 0..devices.
        size: devices of the group.
        groups: number of groups; each gets its part of the chance.
    """
    return most_marked(devices, corrupt, size, 2.0**-GROUND_BITS / groups)


def rate_of(corrupt: int, size: int) -> float:
    """The corruption rate with which exactly `corrupt` of `size` devices are counted by `corrupt_among`.

    Half a device less than the number itself, so that rounding up cannot add one.

    Args:
        corrupt: devices, 0..size.
        size: devices of the group, >= 1.

    Returns:
        In [0, 1).
    """
    return min((corrupt - 0.5) / size, 1.0) if corrupt else 0.0
