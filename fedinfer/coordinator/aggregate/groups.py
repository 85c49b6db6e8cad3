"""The groups of one round: how a cohort is split at random, and what came of each group.

The seed of the random grouping is drawn by the server for each round and is part of every plan, beside the names of
everybody who is asked. So a device can check that its group was drawn and not picked, devices cannot arrange to meet in
one group (their names were fixed at enrolment, before the seed), and groups change from round to round. What it does
not do: the server chooses seed and cohort, and may draw seeds until it likes a grouping. Trying 2^a of them multiplies
the chance of 2^-40 that a group has more corrupt devices than planned by 2^a; and as in a round without groups it
chooses whom it asks. The limit to both is the owner's own: the corruption rate in the device's policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.coordinator.aggregate.secure_sum import AbortedSum, Total, Traffic
from fedinfer.messages import ONE_GROUP, Split, SumPlan
from fedinfer.ports import Entropy
from fedinfer.secagg.groups import random_groups
from fedinfer.types import DeviceId, FloatVector

SEED_BYTES = 32

AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Group:
    """One group of a round: its name in every device's ledger, its devices, and the random grouping it comes from."""

    round_id: str
    cohort: tuple[DeviceId, ...]
    split: Split


def group_at_random(round_id: str, everyone: tuple[DeviceId, ...], groups: int, entropy: Entropy) -> tuple[Group, ...]:
    """Split a cohort into groups by a fresh seed; a single group keeps the name of the round.

    Args:
        round_id: of the round.
        everyone: devices of the cohort, sorted and unique.
        groups: how many, 1..len(everyone); their sizes differ by at most one.
        entropy: for the 32 bytes of the seed, which every plan makes public; none are taken for a single group.

    Returns:
        Groups named `<round_id>/group-<number from 1>`.
    """
    if groups == 1:
        return (Group(round_id, everyone, ONE_GROUP),)
    split = Split(groups, entropy.take(SEED_BYTES), everyone)
    cohorts = random_groups(everyone, groups, split.seed)
    return tuple(Group(f"{round_id}/group-{number}", cohort, split) for number, cohort in enumerate(cohorts, 1))


@dataclass(frozen=True, slots=True)
class GroupSum:
    """What came of one group.

    Args:
        plan: its promise.
        result: the total or the abort.
        decoded: the float sum of a total, None for an abort. With trust `central` the server's noise is still to come:
            nobody but `release_groups` may read it.
    """

    plan: SumPlan
    result: Total | AbortedSum
    decoded: FloatVector | None


@dataclass(frozen=True, slots=True)
class RoundSum:
    """What came of all groups of a round; groups that aborted are left out of the sum.

    Args:
        round_id: of the round.
        groups: all that were asked, at least one.
    """

    round_id: str
    groups: tuple[GroupSum, ...]

    @property
    def summed(self) -> tuple[tuple[SumPlan, FloatVector, int], ...]:
        """Plan, decoded sum and number of survivors of the groups that have a sum."""
        return tuple(
            (group.plan, group.decoded, len(group.result.survivors))
            for group in self.groups
            if group.decoded is not None
        )

    @property
    def total(self) -> AnyFloats:
        """Sum over the groups that have one, float64 (d,), still without the noise of a trusted server."""
        whole: AnyFloats = np.sum([total for _, total, _ in self.summed], axis=0, dtype=np.float64)
        return whole

    @property
    def survivors(self) -> tuple[DeviceId, ...]:
        """Devices whose vectors are in the sum, sorted; when no group has one, those that were left at the end."""
        groups = [group for group in self.groups if group.decoded is not None] or self.groups
        return tuple(sorted(device for group in groups for device in group.result.survivors))

    @property
    def asked(self) -> int:
        """Devices of all groups."""
        return sum(len(group.plan.cohort) for group in self.groups)

    @property
    def refused(self) -> tuple[DeviceId, ...]:
        """Devices whose ledger said no."""
        return tuple(device for group in self.groups for device in group.result.refused)

    @property
    def dropped(self) -> int:
        """Devices that did not refuse and were not there at the end of their group's sum."""
        return self.asked - len(self.refused) - sum(len(group.result.survivors) for group in self.groups)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why groups have no sum, with their names where there are several."""
        names = [f"{group.plan.round_id}: " if len(self.groups) > 1 else "" for group in self.groups]
        return tuple(
            name + group.result.reason
            for name, group in zip(names, self.groups, strict=True)
            if isinstance(group.result, AbortedSum)
        )

    @property
    def traffic(self) -> Traffic:
        """Mean bytes per device over all groups."""
        up = sum(group.result.traffic.up * len(group.plan.cohort) for group in self.groups)
        down = sum(group.result.traffic.down * len(group.plan.cohort) for group in self.groups)
        return Traffic(up // self.asked, down // self.asked)

    def error_of(self, device: DeviceId) -> str:
        """What a device answered instead of taking part.

        Args:
            device: of this round's cohort.

        Returns:
            Class and message of its error; empty when it took part.
        """
        return next(dict(group.result.errors).get(device, "") for group in self.groups if device in group.plan.cohort)
