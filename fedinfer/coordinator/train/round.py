"""One training round: charge the ledger, sum privately in groups, decode, combine, step the server's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fedinfer.coordinator.aggregate.groups import RoundSum
from fedinfer.coordinator.aggregate.promise import drawn, sum_plans
from fedinfer.coordinator.aggregate.release import release_groups
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.participation import Asked, ParticipationSchedule
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.record import RoundRecord
from fedinfer.coordinator.train.server_step import apply_release
from fedinfer.errors import BudgetExceeded, TooFewSurvivors
from fedinfer.messages import FitWork, Purpose
from fedinfer.privacy import NoiseStream, decoded_sensitivity
from fedinfer.types import DeviceId
from fedinfer.wire import encode

MOST_ABORTS_IN_A_ROW = 5
"""More are no bad luck any more: every aborted round costs budget and teaches nothing."""


def training_round(server: Server, plan: RunPlan, progress: Progress, reason: str, left: int = 0) -> None:
    """Run one round and record it; an aborted round leaves the weights as they are.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; weights, optimizer, clipping norm and records move on.
        reason: why there is a round: "initial" or "drift".
        left: rounds that follow before a version is published, >= 0; the last one always has figures.

    Raises:
        BudgetExceeded: the server's budget does not cover the round (no device was asked), or so many devices refuse
            by their own ledgers that no round can be released any more.
        TooFewSurvivors: too few devices can be asked, or `MOST_ABORTS_IN_A_ROW` rounds aborted.
        Misbehaviour: the rounds of a run with correlated noise are over.
    """
    started = server.clock.seconds()
    progress.round += 1
    round_id = f"round-{progress.round:04d}"
    asked = ask_next(progress.schedule, server.devices, server.generator, server.noise, plan.cohort, round_id)
    norm = progress.clipping_norm
    work = encode(FitWork(progress.weights, progress.window, norm))
    promises = sum_plans(server, plan.train, Purpose.TRAIN, round_id, asked.cohort, work, asked.scheduled)
    released, sums = release_groups(server, round_id, promises, work, plan.rule, asked.noise)
    unclipped = (
        None
        if released is None
        else apply_release(server.scenario, server.trainer, server.rows, plan, progress, released)
    )
    clipping = _Clipping(released is not None, norm, unclipped)
    progress.dropped += sums.dropped
    progress.refused += len(sums.refused)
    metrics = _figures(server, progress, left)
    progress.rounds.append(_record(server, progress, reason, sums, started, clipping, metrics))
    server.emit("round", progress.rounds[-1].to_json())
    progress.aborted_in_a_row = 0 if clipping.released else progress.aborted_in_a_row + 1
    if not clipping.released:
        _check_hope(plan, progress.aborted_in_a_row, sums)


@dataclass(frozen=True, slots=True)
class _Clipping:
    """How a round ended: whether it was released, by which norm it clipped, and what it learned about that."""

    released: bool
    norm: float
    unclipped: float | None


def _check_hope(plan: RunPlan, aborted: int, sums: RoundSum) -> None:
    """Stop a run whose rounds abort and will go on to.

    Raises:
        BudgetExceeded: so many devices refuse that no round can be released.
        TooFewSurvivors: several rounds in a row were aborted.
    """
    least = plan.train.groups * plan.train.min_survivors
    if sums.asked - len(sums.refused) < least:
        raise BudgetExceeded(
            f"{len(sums.refused)} of {sums.asked} devices refuse by their own ledgers, {least} are needed: "
            f"{sums.error_of(sums.refused[0])}",
            hint="train less, or have the owners of the devices agree to a larger budget",
        )
    if aborted >= MOST_ABORTS_IN_A_ROW:
        raise TooFewSurvivors(
            f"{aborted} rounds in a row aborted, the last: {sums.left_out[-1]}",
            hint="lower fleet.dropout, enlarge the cohort, or raise secure_aggregation.dropout_rate (more noise)",
        )


def start_schedule(
    devices: Collection[DeviceId], generator: Callable[[str], np.random.Generator], plan: RunPlan
) -> ParticipationSchedule | None:
    """The participation schedule of a run with correlated noise, before its first round.

    Args:
        devices: all enrolled ones.
        generator: numpy generator by purpose; draws the order of the devices.
        plan: of the run.

    Returns:
        None when the noise of rounds is independent.
    """
    if plan.factorization is None:
        return None
    order = generator("turns").permutation(sorted(devices)).tolist()
    mechanism = plan.train.mechanism
    std = plan.train.noise_multiplier * decoded_sensitivity(mechanism)
    return ParticipationSchedule(plan.factorization, order, plan.cohort, std, mechanism.dimension)


def ask_next(
    schedule: ParticipationSchedule | None,
    devices: Collection[DeviceId],
    generator: Callable[[str], np.random.Generator],
    noise: Callable[[str], NoiseStream],
    count: int,
    round_id: str,
) -> Asked:
    """Whom the next round asks: the next devices of the schedule; with independent noise a uniformly drawn cohort.

    The server knows whom it asks and an attacker may see it, so no amplification is claimed for drawing the cohort.

    Args:
        schedule: of correlated noise, which takes its next step; None: independent noise.
        devices: all enrolled ones.
        generator: numpy generator by purpose; draws the cohort.
        noise: stream of fresh words by round, for correlated noise.
        count: devices of a round, >= 1.
        round_id: of the round.

    Raises:
        Misbehaviour: the schedule has no more rounds.
    """
    if schedule is not None:
        return schedule.take(noise(round_id))
    return Asked(drawn(generator, tuple(sorted(devices)), count, round_id))


def _figures(server: Server, progress: Progress, left: int) -> Mapping[str, float]:
    if left and progress.round % server.scenario.training.evaluate_every:
        return {}
    return server.trainer.evaluate(progress.weights, *server.judged(progress.window))


def _record(
    server: Server,
    progress: Progress,
    reason: str,
    sums: RoundSum,
    started: float,
    clipping: _Clipping,
    metrics: Mapping[str, float],
) -> RoundRecord:
    return RoundRecord(
        round=progress.round,
        reason=reason,
        cohort=sums.asked,
        survivors=len(sums.survivors),
        refused=len(sums.refused),
        groups=len(sums.groups),
        groups_released=len(sums.summed),
        released=clipping.released,
        detail="; ".join(sums.left_out),
        metric=str(server.judged_by.metric),
        metrics=metrics,
        clipping_norm=clipping.norm,
        unclipped=clipping.unclipped,
        epsilon=server.account.spent().epsilon,
        seconds=server.clock.seconds() - started,
        bytes_up=sums.traffic.up,
        bytes_down=sums.traffic.down,
    )
