"""What one private sum promises before anybody is asked, and which devices are asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from fedinfer.config import Scenario
from fedinfer.coordinator.aggregate.groups import Group, group_at_random
from fedinfer.coordinator.context import Server
from fedinfer.coordinator.plan.cohort import check_corrupt, graph_of
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.errors import ConfigError, TooFewSurvivors
from fedinfer.messages import INDEPENDENT, Purpose, ScheduledRound, SumPlan
from fedinfer.ports import Entropy
from fedinfer.types import DeviceId
from fedinfer.wire import encode


def sum_plan(
    scenario: Scenario,
    run_id: str,
    entropy: Entropy,
    settings: SumSettings,
    purpose: Purpose,
    group: Group,
    work: bytes,
    scheduled: ScheduledRound = INDEPENDENT,
    promise: bytes = b"",
) -> SumPlan:
    """The promise for one private sum: of a whole cohort, or of one of its groups.

    Args:
        scenario: says who adds noise, what one unit of privacy is, and how sums are protected.
        run_id: of the run; it is the task in every ledger.
        entropy: for the 32 bytes of the rotation seed, which are public.
        settings: of all sums of this purpose.
        purpose: what the sum is for.
        group: who is asked, and under which name every ledger knows it.
        work: encoded work; the plan carries its SHA-256.
        scheduled: place of the round in a participation schedule.
        promise: what the whole run will ask for.

    Raises:
        TooFewSurvivors: fewer devices are there than must survive, or no graph protects so few.
    """
    privacy, mechanism, cohort = scenario.privacy, settings.mechanism, group.cohort
    if len(cohort) < settings.min_survivors:
        raise TooFewSurvivors(f"{len(cohort)} devices can be asked, {settings.min_survivors} must survive")
    try:  # fewer devices than planned may be there
        section = scenario.secure_aggregation
        graph = graph_of(section, len(cohort), settings.groups, settings.corrupt, settings.min_survivors)
    except ConfigError as error:
        raise TooFewSurvivors(str(error), hint=error.hint) from error
    return SumPlan(
        run_id=run_id,
        round_id=group.round_id,
        purpose=purpose,
        mode=scenario.secure_aggregation.mode,
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
        rotation_seed=entropy.take(32),
        work_hash=hashlib.sha256(work).digest(),
        split=group.split,
        scheduled=scheduled,
        promise=promise,
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
    """The promises for one round: one for each of the groups into which the cohort is split at random.

    When fewer devices are there than planned, there are fewer groups of the planned size, and what is left over is not
    asked: the promise is per group.

    Args:
        server: wiring of the run.
        settings: of all sums of this purpose.
        purpose: what the sums are for.
        round_id: of the round; with several groups the name of each is made from it.
        cohort: devices that can be asked, sorted and unique.
        work: encoded work; every plan carries its SHA-256.
        scheduled: place of the round in a participation schedule.

    Raises:
        TooFewSurvivors: no group has as many devices as must survive, no graph protects so few, or chance may gather
            more corrupt devices in one group than planned.
    """
    least, most = settings.min_survivors, settings.mechanism.summands
    count = min(settings.groups, len(cohort) // least)
    if not count:
        raise TooFewSurvivors(f"{len(cohort)} devices can be asked, {least} must survive")
    asked = drawn(server.generator, cohort, count * most, round_id)
    check_corrupt(server.scenario.secure_aggregation, len(asked), count, settings.corrupt)
    groups = group_at_random(round_id, asked, count, server.entropy)
    return tuple(
        sum_plan(
            server.scenario, server.run_id, server.entropy, settings, purpose, group, work, scheduled, server.promise
        )
        for group in groups
    )


def drawn(
    generator: Callable[[str], np.random.Generator], devices: tuple[DeviceId, ...], count: int, round_id: str
) -> tuple[DeviceId, ...]:
    """Some of the devices, drawn uniformly without replacement, in their given order.

    Args:
        generator: numpy generator by purpose.
        devices: to draw from.
        count: how many; all of them where there are fewer.
        round_id: names the draw, so that every round has its own.
    """
    if count >= len(devices):
        return devices
    chosen = generator(f"cohort {round_id}").choice(len(devices), count, replace=False)
    return tuple(devices[index] for index in sorted(chosen))
