"""One training round: charge the ledger, sum privately, decode, step the server's optimizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from fedinfer.coordinator.planning import RunPlan, SumSettings
from fedinfer.coordinator.server import Progress, Server
from fedinfer.coordinator.sums import Aborted, Total, private_sum
from fedinfer.errors import TooFewSurvivors
from fedinfer.messages import FitWork, Purpose, SumPlan
from fedinfer.privacy.charges import charge, mechanism_of
from fedinfer.privacy.encoding import decode as decode_sum
from fedinfer.privacy.mechanism import decoded_sensitivity
from fedinfer.privacy.noise import gaussian
from fedinfer.types import DeviceId, FloatVector, Json, Trust, Unit
from fedinfer.wire import encode

MOST_ABORTS_IN_A_ROW = 5
MOST_ERRORS_TOLD = 10
LEDGER_OWNER = "server"


@dataclass(frozen=True, slots=True)
class Release:
    """The first value anyone may look at: the noised sum over the survivors."""

    total: FloatVector
    survivors: tuple[DeviceId, ...]


def sum_plan(
    server: Server, settings: SumSettings, purpose: Purpose, round_id: str, cohort: tuple[DeviceId, ...], work: bytes
) -> SumPlan:
    """The promise for one private sum."""
    privacy, mechanism = server.scenario.privacy, settings.mechanism
    return SumPlan(
        run_id=server.run_id,
        round_id=round_id,
        purpose=purpose,
        mode=server.scenario.secure_aggregation.mode,
        unit=privacy.unit,
        trust=privacy.trust,
        cohort=cohort,
        degree=settings.degree,
        threshold=settings.threshold,
        min_survivors=settings.min_survivors,
        bits=mechanism.bits,
        dimension=mechanism.padded,
        mechanism=encode(mechanism),
        noise_multiplier=settings.noise_multiplier,
        sampling_rate=settings.sampling_rate,
        local_steps=settings.local_steps,
        rotation_seed=server.entropy.take(32),
        work_hash=hashlib.sha256(work).digest(),
    )


def release(server: Server, plan: SumPlan, work: bytes) -> tuple[Release | None, Total | Aborted]:
    """Charge the server's ledger, run the sum, decode it and add central noise. None when the sum aborted.

    Raises:
        BudgetExceeded: before any device is asked.
    """
    refusals = server.ledger.reserve(
        [LEDGER_OWNER], plan.run_id, plan.round_id, charge(plan), f"{plan.purpose} {plan.round_id}", server.clock.now()
    )
    for error in refusals.values():
        if error is not None:
            raise error
    result = private_sum(plan, work, server.devices, server.transport, server.scenario.training.deadline_seconds)
    server.ledger.commit([LEDGER_OWNER], plan.run_id, plan.round_id, server.clock.now())
    for device, reason in result.blamed:
        server.emit("blamed", {"round": plan.round_id, "device": device, "reason": reason})
    if result.errors:
        first = dict(result.errors[:MOST_ERRORS_TOLD])
        server.emit("errors", {"round": plan.round_id, "count": len(result.errors), "first": first})
    if isinstance(result, Aborted):
        return None, result
    total = decode_sum(result.ring, mechanism_of(plan), plan.rotation_seed)
    return Release(_central_noise(server, plan, total), result.survivors), result


def training_round(server: Server, plan: RunPlan, progress: Progress, reason: str) -> None:
    """Run one round and record it; an aborted round leaves the weights as they are.

    Raises:
        BudgetExceeded: when the server's ledger refuses; nothing was asked.
        TooFewSurvivors: after several aborted rounds in a row.
    """
    started = server.clock.seconds()
    progress.round += 1
    round_id = f"round-{progress.round:04d}"
    cohort = choose_cohort(server, plan, round_id)
    work = encode(FitWork(progress.weights, progress.window))
    promise = sum_plan(server, plan.train, Purpose.TRAIN, round_id, cohort, work)
    released, result = release(server, promise, work)
    if released is not None:
        apply_release(server, plan, progress, released)
    _record(server, progress, reason, promise, result, started)
    if isinstance(result, Total):
        progress.aborted_in_a_row = 0
        return
    progress.aborted_in_a_row += 1
    if progress.aborted_in_a_row >= MOST_ABORTS_IN_A_ROW:
        raise TooFewSurvivors(
            f"{progress.aborted_in_a_row} rounds in a row aborted, the last at stage {result.stage}: {result.reason}",
            hint="lower fleet.dropout, enlarge the cohort, or raise secure_aggregation.dropout_rate (more noise)",
        )


def choose_cohort(server: Server, plan: RunPlan, round_id: str) -> tuple[DeviceId, ...]:
    """A uniformly drawn cohort, sorted. No amplification is claimed for it."""
    devices = sorted(server.devices)
    if plan.cohort >= len(devices):
        return tuple(devices)
    chosen = server.generator(f"cohort {round_id}").choice(len(devices), plan.cohort, replace=False)
    return tuple(devices[index] for index in sorted(chosen))


def apply_release(server: Server, plan: RunPlan, progress: Progress, released: Release) -> None:
    """Step the server's optimizer with the mean of a released sum."""
    from fedinfer.training.optimizers import apply

    if server.scenario.privacy.unit is Unit.EXAMPLE and server.scenario.privacy.trust is not Trust.LOCAL:
        # A gradient sum points uphill; its expected number of rows is public, so the step size does not depend on
        # how many rows were drawn.
        rows = plan.train.sampling_rate * sum(server.rows[device] for device in released.survivors)
        mean = -released.total / np.float32(max(rows, 1.0))
    else:
        mean = released.total / np.float32(len(released.survivors))
    tuned = server.trainer.tuned(progress.weights)
    progress.optimizer, tuned = apply(progress.optimizer, tuned, mean, plan.optimizer)
    progress.weights = server.trainer.replace(progress.weights, tuned)


def _central_noise(server: Server, plan: SumPlan, total: FloatVector) -> FloatVector:
    if plan.trust is not Trust.CENTRAL or plan.unit is Unit.NONE:
        return total
    std = plan.noise_multiplier * decoded_sensitivity(mechanism_of(plan))
    noised: FloatVector = (total + gaussian(std, total.shape, server.noise(plan.round_id))).astype(np.float32)
    return noised


def _record(
    server: Server, progress: Progress, reason: str, plan: SumPlan, result: Total | Aborted, started: float
) -> None:
    metrics = server.trainer.evaluate(progress.weights, *server.judged(progress.window))
    spent = server.ledger.spent(LEDGER_OWNER, server.run_id)
    progress.dropped += len(plan.cohort) - len(result.survivors) - len(result.refused)
    progress.refused += len(result.refused)
    row: Json = {
        "round": progress.round,
        "reason": reason,
        "cohort": len(plan.cohort),
        "survivors": len(result.survivors),
        "refused": len(result.refused),
        "status": "released" if isinstance(result, Total) else "aborted",
        "detail": "" if isinstance(result, Total) else result.reason,
        "metric": metrics["accuracy"],
        "metrics": metrics,
        "loss": metrics["loss"],
        "epsilon": spent.epsilon,
        "seconds": server.clock.seconds() - started,
        "bytes_up_per_device": result.traffic.up,
        "bytes_down_per_device": result.traffic.down,
    }
    progress.rounds.append(row)
    server.emit("round", row)
