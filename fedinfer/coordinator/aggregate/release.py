"""What is released of a private sum: charged first, noised by whom the run trusts, then read for the first time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedinfer.config import Scenario
from fedinfer.coordinator.aggregate.groups import AnyFloats, GroupSum, RoundSum
from fedinfer.coordinator.aggregate.secure_sum import AbortedSum, Total, private_sums
from fedinfer.coordinator.context import Server
from fedinfer.coordinator.plan.robust import PLAIN_MEAN, Rule
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of
from fedinfer.messages import SumPlan
from fedinfer.ports import Listener
from fedinfer.privacy import Event, Floats, NoiseStream, mechanism_of, noise_model, server_charge, split_of
from fedinfer.privacy import decode as decode_sum
from fedinfer.secagg import FloatArray
from fedinfer.types import DeviceId, FloatVector

MOST_ERRORS_REPORTED = 10
"""Of one group: devices often fail alike, and the event names how many there were."""


@dataclass(frozen=True, slots=True)
class Release:
    """The first value anybody may read: the noised sum over the survivors.

    Args:
        total: float32 (d,).
        survivors: whose vectors are in it.
        means: the groups' noised means for a robust rule, float32 (groups, d); None: the plain mean is wanted.
    """

    total: FloatVector
    survivors: tuple[DeviceId, ...]
    means: FloatArray | None = None


def release(
    server: Server, plan: SumPlan, work: bytes, noise: Floats | None = None
) -> tuple[Release | None, Total | AbortedSum]:
    """One sum on its own: charge the server's ledger, run it, decode it, add central noise.

    Args:
        server: wiring of the run.
        plan: what is promised; its round id is the reference in the ledger.
        work: encoded, with the SHA-256 that the plan carries.
        noise: as in `release_groups`.

    Returns:
        The release, None when the sum aborted; and what the sum itself gave, without the noise of a trusted server.

    Raises:
        BudgetExceeded: the server's budget does not cover the sum; no device was asked.
        Misbehaviour: the round id was charged before.
    """
    released, sums = release_groups(server, plan.round_id, (plan,), work, PLAIN_MEAN, noise)
    return released, sums.groups[0].result


def release_groups(
    server: Server,
    round_id: str,
    plans: Sequence[SumPlan],
    work: bytes,
    rule: Rule,
    noise: Floats | None = None,
    charged: Sequence[Event] | None = None,
) -> tuple[Release | None, RoundSum]:
    """Charge the server's ledger once, run the sum of every group, add them. None when too few groups have a sum.

    Why one charge covers all groups. Let two inputs differ in one unit of privacy (a device, or a row, which one device
    holds). Groups are disjoint and were drawn by names alone before any data was touched, so that unit is in exactly
    one group. Every other group's sum comes from equal data with noise of its own, so its law is the same under both
    inputs, whatever the other groups gave. Hence the divergence between the two laws of all sums together is that of
    one group's sum: the event of its plan (parallel composition, McSherry 2009, theorem 4). All plans of a round come
    from the same settings, so it is the same event whichever group it is. A server that puts a device into two groups
    all the same is stopped by the device's own ledger, where every group is an entry with its own reference.

    Args:
        server: wiring of the run.
        round_id: reference of the one charge in the server's ledger.
        plans: of the groups; equal but for names, graphs and seeds.
        work: encoded, with the SHA-256 that the plans carry.
        rule: how many groups are needed, and whether their means are wanted.
        noise: of a trusted server, correlated with that of other rounds, float64 (d,), for the plain mean only; None:
            drawn here, independent.
        charged: what the ledger is charged under this reference where something else was charged before, see
            `evaluate_canaries`; None: what the plans say.

    Returns:
        The release, None when too few groups have a sum; and what the groups gave, without the noise of a trusted
        server.

    Raises:
        BudgetExceeded: the server's budget does not cover the sums; no device was asked.
        Misbehaviour: the round id was charged before.
    """
    account, fleet = server.account, server.fleet
    events = server_charge(plans[0], split_of(server.scenario, server.windows)) if charged is None else charged
    account.reserve(round_id, events, f"{plans[0].purpose} {round_id}")
    results = private_sums(plans, work, fleet.devices, fleet.transport, fleet.deadline_seconds)
    sums = RoundSum(round_id, tuple(_group_sum(server.emit, *pair) for pair in zip(plans, results, strict=True)))
    account.commit(round_id)
    if len(sums.summed) < rule.least_groups:
        return None, sums
    if not rule.wants_means:
        # A trusted server adds its noise once: one unit moves the sum of all groups as much as the sum of its own.
        if noise is not None:
            return Release((sums.total + noise).astype(np.float32), sums.survivors), sums
        return Release(_server_noise(server.noise, plans[0], round_id, sums.total), sums.survivors), sums
    noised = [_server_noise(server.noise, plan, plan.round_id, total) for plan, total, _ in sums.summed]
    means = [total / np.float32(count) for total, (_, _, count) in zip(noised, sums.summed, strict=True)]
    whole: AnyFloats = np.sum(noised, axis=0, dtype=np.float64)
    return Release(whole.astype(np.float32), sums.survivors, np.stack(means)), sums


def _group_sum(emit: Listener, plan: SumPlan, result: Total | AbortedSum) -> GroupSum:
    for device, reason in result.blamed:
        emit("blamed", {"round": plan.round_id, "device": device, "reason": reason})
    if result.errors:
        first = dict(result.errors[:MOST_ERRORS_REPORTED])
        emit("errors", {"round": plan.round_id, "count": len(result.errors), "first": first})
    if isinstance(result, Total):
        return GroupSum(plan, result, decode_sum(result.ring, mechanism_of(plan), plan.rotation_seed))
    if plan.split.groups > 1:
        emit("group_left_out", {"round": plan.round_id, "stage": result.stage, "reason": result.reason})
    return GroupSum(plan, result, None)


def _server_noise(noise: Callable[[str], NoiseStream], plan: SumPlan, name: str, total: AnyFloats) -> FloatVector:
    """The total with the noise of a trusted server, float32; the noise stream is that of `name`."""
    model = noise_model(plan.trust, plan.unit)
    return model.server_noise(total, mechanism_of(plan), plan.noise_multiplier, lambda: noise(name))


def noise_std(scenario: Scenario, settings: SumSettings, survivors: int) -> float:
    """Standard deviation of the noise in one coordinate of a decoded sum of reports.

    Args:
        scenario: says who adds the noise.
        settings: of the sum.
        survivors: devices whose vectors are in the sum, >= 1; with local noise each adds its own.

    Returns:
        In the unit of the reports themselves (a share of one device, or of one row), >= 0.
    """
    model = noise_model_of(scenario)
    return model.std(settings.mechanism, settings.noise_multiplier, settings.norm, survivors)
