"""What one private sum promises before anybody is asked, and which devices are asked."""

from __future__ import annotations

import hashlib

from fedinfer.coordinator.aggregate.groups import group_at_random
from fedinfer.coordinator.context import Server
from fedinfer.coordinator.plan.cohort import check_corrupt, graph_of
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.errors import ConfigError, TooFewSurvivors
from fedinfer.messages import INDEPENDENT, ONE_GROUP, Purpose, ScheduledRound, Split, SumPlan
from fedinfer.types import DeviceId
from fedinfer.wire import encode


def sum_plan(
    server: Server,
    settings: SumSettings,
    purpose: Purpose,
    round_id: str,
    cohort: tuple[DeviceId, ...],
    work: bytes,
    split: Split = ONE_GROUP,
    scheduled: ScheduledRound = INDEPENDENT,
) -> SumPlan:
    """The promise for one private sum: of a whole cohort, or of one of its groups.

    Raises:
        TooFewSurvivors: when fewer devices are there than must survive, or no graph protects so few.
    """
    privacy, mechanism = server.scenario.privacy, settings.mechanism
    if len(cohort) < settings.min_survivors:
        raise TooFewSurvivors(f"{len(cohort)} devices can be asked, {settings.min_survivors} must survive")
    try:  # fewer devices than planned may be there
        section = server.scenario.secure_aggregation
        graph = graph_of(section, len(cohort), settings.groups, settings.corrupt, settings.min_survivors)
    except ConfigError as error:
        raise TooFewSurvivors(str(error), hint=error.hint) from error
    return SumPlan(
        run_id=server.run_id,
        round_id=round_id,
        purpose=purpose,
        mode=server.scenario.secure_aggregation.mode,
        unit=privacy.unit,
        trust=privacy.trust,
        cohort=cohort,
        degree=graph.degree,
        threshold=graph.threshold,
        min_survivors=settings.min_survivors,
        bits=mechanism.bits,
        dimension=mechanism.padded,
        mechanism=encode(mechanism),
        noise_multiplier=settings.noise_multiplier,
        sampling_rate=settings.sampling_rate,
        local_steps=settings.local_steps,
        rotation_seed=server.entropy.take(32),
        work_hash=hashlib.sha256(work).digest(),
        split=split,
        scheduled=scheduled,
    )


def sum_plans(
    server: Server,
    settings: SumSettings,
    purpose: Purpose,
    round_id: str,
    cohort: tuple[DeviceId, ...],
    work: bytes,
    scheduled: ScheduledRound = INDEPENDENT,
) -> tuple[SumPlan, ...]:
    """The promises for one round: one for each of the groups that the cohort is dealt to.

    When fewer devices are there than planned, there are fewer groups of the planned size, and what is left over is not
    asked: the promise is per group.

    Raises:
        TooFewSurvivors: see `sum_plan`.
    """
    least, most = settings.min_survivors, settings.mechanism.summands
    count = min(settings.groups, len(cohort) // least)
    if not count:
        raise TooFewSurvivors(f"{len(cohort)} devices can be asked, {least} must survive")
    asked = drawn(server, cohort, count * most, round_id)
    check_corrupt(server.scenario.secure_aggregation, len(asked), count, settings.corrupt)
    groups = group_at_random(round_id, asked, count, server.entropy)
    return tuple(
        sum_plan(server, settings, purpose, group.round_id, group.cohort, work, group.split, scheduled)
        for group in groups
    )


def drawn(server: Server, devices: tuple[DeviceId, ...], count: int, round_id: str) -> tuple[DeviceId, ...]:
    """`count` of the devices, drawn uniformly without replacement, in the order of their names; at most all."""
    if count >= len(devices):
        return devices
    chosen = server.generator(f"cohort {round_id}").choice(len(devices), count, replace=False)
    return tuple(devices[index] for index in sorted(chosen))
