"""One training round: charge the ledger, sum privately in groups, decode, combine, step the server's optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedinfer.config import Robust
from fedinfer.coordinator.correlation import Asked, Turns
from fedinfer.coordinator.groups import AnyFloats, GroupSum, RoundSum, deal
from fedinfer.coordinator.hiding import check_corrupt, graph_of
from fedinfer.coordinator.norms import open_release
from fedinfer.coordinator.planning import RunPlan, SumSettings
from fedinfer.coordinator.robust import PLAIN_MEAN, Rule
from fedinfer.coordinator.server import Progress, Server
from fedinfer.coordinator.sums import Aborted, Total, private_sum
from fedinfer.errors import BudgetExceeded, ConfigError, TooFewSurvivors
from fedinfer.messages import INDEPENDENT, ONE_GROUP, FitWork, Purpose, Split, SumPlan, Turn
from fedinfer.privacy.charges import mechanism_of, server_charge
from fedinfer.privacy.clipping import clipping_of
from fedinfer.privacy.encoding import decode as decode_sum
from fedinfer.privacy.factorization import Floats
from fedinfer.privacy.mechanism import decoded_sensitivity
from fedinfer.privacy.noise import gaussian
from fedinfer.secagg.hierarchy import FloatArray
from fedinfer.types import DeviceId, FloatVector, Json, Trust, Unit
from fedinfer.wire import encode

MOST_ABORTS_IN_A_ROW = 5
MOST_ERRORS_TOLD = 10
LEDGER_OWNER = "server"


@dataclass(frozen=True, slots=True)
class Release:
    """The first value anyone may look at: the noised sum over the survivors.

    Args:
        total: float32 (d,).
        survivors: whose vectors are in it.
        means: the groups' noised means for a robust rule, float32 (groups, d); None: the plain mean is wanted.
    """

    total: FloatVector
    survivors: tuple[DeviceId, ...]
    means: FloatArray | None = None


def sum_plan(
    server: Server,
    settings: SumSettings,
    purpose: Purpose,
    round_id: str,
    cohort: tuple[DeviceId, ...],
    work: bytes,
    split: Split = ONE_GROUP,
    turn: Turn = INDEPENDENT,
) -> SumPlan:
    """The promise for one private sum: of a whole cohort, or of one of its groups.

    Raises:
        TooFewSurvivors: when fewer devices are there than must survive, or no graph protects so few.
    """
    privacy, mechanism = server.scenario.privacy, settings.mechanism
    if len(cohort) < settings.min_survivors:
        raise TooFewSurvivors(f"{len(cohort)} devices can be asked, {settings.min_survivors} must survive")
    try:  # fewer devices than planned may be there
        graph = graph_of(
            server.scenario.secure_aggregation, len(cohort), settings.groups, settings.corrupt, settings.min_survivors
        )
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
        turn=turn,
    )


def sum_plans(
    server: Server,
    settings: SumSettings,
    purpose: Purpose,
    round_id: str,
    cohort: tuple[DeviceId, ...],
    work: bytes,
    turn: Turn = INDEPENDENT,
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
    asked = _drawn(server, cohort, count * most, round_id)
    check_corrupt(server.scenario.secure_aggregation, len(asked), count, settings.corrupt)
    groups = deal(round_id, asked, count, server.entropy)
    return tuple(
        sum_plan(server, settings, purpose, group.round_id, group.cohort, work, group.split, turn) for group in groups
    )


def release(server: Server, plan: SumPlan, work: bytes) -> tuple[Release | None, Total | Aborted]:
    """One sum on its own: charge the server's ledger, run it, decode it, add central noise. None when it aborted.

    Raises:
        BudgetExceeded: before any device is asked.
    """
    released, sums = release_groups(server, plan.round_id, (plan,), work, PLAIN_MEAN)
    return released, sums.groups[0].result


def release_groups(
    server: Server, round_id: str, plans: Sequence[SumPlan], work: bytes, rule: Rule, noise: Floats | None = None
) -> tuple[Release | None, RoundSum]:
    """Charge the server's ledger once, run the sum of every group, add them. None when too few groups have a sum.

    Why one charge covers all groups. Let two inputs differ in one unit of privacy (a device, or a row, which one device
    holds). Groups are disjoint and were dealt by names alone before any data was touched, so that unit is in exactly
    one group. Every other group's sum comes from equal data with noise of its own, so its law is the same under both
    inputs, whatever the other groups gave. Hence the divergence between the two laws of all sums together is that of
    one group's sum: the event of its plan (parallel composition). All plans of a round come from the same settings, so
    it is the same event whichever group it is. A server that puts a device into two groups all the same is stopped by
    the device's own ledger, where every group is an entry with its own reference.

    Args:
        server: wiring.
        round_id: the ledger's reference.
        plans: of the groups; equal but for names, graphs and seeds.
        work: what the plans promise.
        rule: how many groups are needed, and whether their means are wanted.
        noise: of a trusted server, correlated with that of other rounds, float64 (d,), for the plain mean only; None:
            drawn here, independent.

    Raises:
        BudgetExceeded: before any device is asked.
    """
    _charge(server, round_id, plans[0])
    sums = RoundSum(round_id, tuple(_group_sum(server, plan, work) for plan in plans))
    server.ledger.commit([LEDGER_OWNER], server.run_id, round_id, server.clock.now())
    if len(sums.summed) < rule.least_groups:
        return None, sums
    if rule.kind is Robust.MEAN:
        # A trusted server adds its noise once: one unit moves the sum of all groups as much as the sum of its own.
        if noise is not None:
            return Release((sums.total + noise).astype(np.float32), sums.survivors), sums
        return Release(_central_noise(server, plans[0], round_id, sums.total), sums.survivors), sums
    noised = [_central_noise(server, plan, plan.round_id, total) for plan, total, _ in sums.summed]
    means = [total / np.float32(count) for total, (_, _, count) in zip(noised, sums.summed, strict=True)]
    whole: AnyFloats = np.sum(noised, axis=0, dtype=np.float64)
    return Release(whole.astype(np.float32), sums.survivors, np.stack(means)), sums


def _charge(server: Server, round_id: str, plan: SumPlan) -> None:
    reason = f"{plan.purpose} {round_id}"
    now = server.clock.now()
    refusals = server.ledger.reserve([LEDGER_OWNER], server.run_id, round_id, server_charge(plan), reason, now)
    for error in refusals.values():
        if error is not None:
            raise error


def _group_sum(server: Server, plan: SumPlan, work: bytes) -> GroupSum:
    result = private_sum(plan, work, server.devices, server.transport, server.scenario.training.deadline_seconds)
    for device, reason in result.blamed:
        server.emit("blamed", {"round": plan.round_id, "device": device, "reason": reason})
    if result.errors:
        first = dict(result.errors[:MOST_ERRORS_TOLD])
        server.emit("errors", {"round": plan.round_id, "count": len(result.errors), "first": first})
    if isinstance(result, Total):
        return GroupSum(plan, result, decode_sum(result.ring, mechanism_of(plan), plan.rotation_seed))
    if plan.split.groups > 1:
        server.emit("group_left_out", {"round": plan.round_id, "stage": result.stage, "reason": result.reason})
    return GroupSum(plan, result, None)


def training_round(server: Server, plan: RunPlan, progress: Progress, reason: str) -> None:
    """Run one round and record it; an aborted round leaves the weights as they are.

    Raises:
        BudgetExceeded: when the server's ledger refuses; nothing was asked.
        TooFewSurvivors: after several aborted rounds in a row.
        BudgetExceeded: when so many devices refuse that no round can be released any more.
    """
    started = server.clock.seconds()
    progress.round += 1
    round_id = f"round-{progress.round:04d}"
    asked = ask_next(server, plan, progress, round_id)
    norm, unclipped = progress.clipping_norm, None
    work = encode(FitWork(progress.weights, progress.window, norm))
    promises = sum_plans(server, plan.train, Purpose.TRAIN, round_id, asked.cohort, work, asked.turn)
    released, sums = release_groups(server, round_id, promises, work, plan.rule, asked.noise)
    if released is not None:
        unclipped = apply_release(server, plan, progress, released)
    clipped: Json = {"clipping_norm": norm, "unclipped": unclipped}
    _record(server, progress, reason, sums, released, started, clipped)
    if released is not None:
        progress.aborted_in_a_row = 0
        return
    progress.aborted_in_a_row += 1
    least = plan.train.groups * plan.train.min_survivors
    if len(asked.cohort) - len(sums.refused) < least:
        raise BudgetExceeded(
            f"{len(sums.refused)} of {len(asked.cohort)} devices refuse by their own ledgers, {least} are needed: "
            f"{sums.error_of(sums.refused[0])}",
            hint="train less, or have the owners of the devices agree to a larger budget",
        )
    if progress.aborted_in_a_row >= MOST_ABORTS_IN_A_ROW:
        raise TooFewSurvivors(
            f"{progress.aborted_in_a_row} rounds in a row aborted, the last: {sums.left_out[-1]}",
            hint="lower fleet.dropout, enlarge the cohort, or raise secure_aggregation.dropout_rate (more noise)",
        )


def start_turns(server: Server, plan: RunPlan) -> Turns | None:
    """The server's memory of a run with correlated noise, before its first round; None for independent noise."""
    if plan.factorization is None:
        return None
    circle = server.generator("turns").permutation(sorted(server.devices)).tolist()
    mechanism = plan.train.mechanism
    std = plan.train.noise_multiplier * decoded_sensitivity(mechanism)
    return Turns(plan.factorization, circle, plan.cohort, std, mechanism.dimension)


def ask_next(server: Server, plan: RunPlan, progress: Progress, round_id: str) -> Asked:
    """Whose turn it is; with independent noise a uniformly drawn cohort. No amplification is claimed for it."""
    if progress.turns is not None:
        return progress.turns.take(server.noise(round_id))
    return Asked(_drawn(server, tuple(sorted(server.devices)), plan.cohort, round_id))


def _drawn(server: Server, devices: tuple[DeviceId, ...], count: int, round_id: str) -> tuple[DeviceId, ...]:
    if count >= len(devices):
        return devices
    chosen = server.generator(f"cohort {round_id}").choice(len(devices), count, replace=False)
    return tuple(devices[index] for index in sorted(chosen))


def apply_release(server: Server, plan: RunPlan, progress: Progress, released: Release) -> float | None:
    """Step the server's optimizer with the mean of a released sum, or with what a robust rule makes of the groups'.

    Returns:
        Noisy fraction of devices that were not clipped, where the norm is adaptive: it moves the next round's norm.
    """
    from fedinfer.training.optimizers import apply

    clipping, survivors = clipping_of(server.scenario.privacy), len(released.survivors)
    opened = open_release(clipping, plan.rule, progress.clipping_norm, released.total, released.means, survivors)
    progress.clipping_norm = opened.clipping_norm
    if opened.robust is not None:
        mean = opened.robust
    elif server.scenario.privacy.unit is Unit.EXAMPLE and server.scenario.privacy.trust is not Trust.LOCAL:
        # A gradient sum points uphill; its expected number of rows is public, so the step size does not depend on
        # how many rows were drawn.
        rows = plan.train.sampling_rate * sum(server.rows[device] for device in released.survivors)
        mean = -opened.total / np.float32(max(rows, 1.0))
    else:
        mean = opened.total / np.float32(survivors)
    tuned = server.trainer.tuned(progress.weights)
    progress.optimizer, tuned = apply(progress.optimizer, tuned, mean, plan.optimizer)
    progress.weights = server.trainer.replace(progress.weights, tuned)
    return opened.unclipped


def _central_noise(server: Server, plan: SumPlan, name: str, total: AnyFloats) -> FloatVector:
    """The total with the noise of a trusted server, float32; the noise stream is that of `name`."""
    if plan.trust is not Trust.CENTRAL or plan.unit is Unit.NONE:
        return total.astype(np.float32)
    std = plan.noise_multiplier * decoded_sensitivity(mechanism_of(plan))
    noised: FloatVector = (total + gaussian(std, total.shape, server.noise(name))).astype(np.float32)
    return noised


def _record(
    server: Server,
    progress: Progress,
    reason: str,
    sums: RoundSum,
    released: Release | None,
    started: float,
    clipped: Json,
) -> None:
    metrics = server.trainer.evaluate(progress.weights, *server.judged(progress.window))
    spent = server.ledger.spent(LEDGER_OWNER, server.run_id)
    progress.dropped += sums.dropped
    progress.refused += len(sums.refused)
    row: Json = {
        "round": progress.round,
        "reason": reason,
        "cohort": sums.asked,
        "survivors": len(sums.survivors),
        "refused": len(sums.refused),
        "groups": len(sums.groups),
        "groups_released": len(sums.summed),
        "status": "aborted" if released is None else "released",
        "detail": "; ".join(sums.left_out),
        "metric": metrics.get("accuracy"),  # unknown to a server that holds no labelled rows
        "metrics": metrics,
        "loss": metrics.get("loss"),
        **clipped,
        "epsilon": spent.epsilon,
        "seconds": server.clock.seconds() - started,
        "bytes_up_per_device": sums.traffic.up,
        "bytes_down_per_device": sums.traffic.down,
    }
    progress.rounds.append(row)
    server.emit("round", row)
