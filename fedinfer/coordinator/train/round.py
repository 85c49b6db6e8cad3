"""One training round: charge the ledger, sum privately in groups, decode, combine, step the server's optimizer."""

from __future__ import annotations

from fedinfer.coordinator.aggregate.groups import RoundSum
from fedinfer.coordinator.aggregate.promise import drawn, sum_plans
from fedinfer.coordinator.aggregate.release import LEDGER_OWNER, Release, release_groups
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.train.participation import Asked, Turns
from fedinfer.coordinator.train.server_step import apply_release
from fedinfer.errors import BudgetExceeded, TooFewSurvivors
from fedinfer.messages import FitWork, Purpose
from fedinfer.privacy.mechanism.mechanism import decoded_sensitivity
from fedinfer.types import Json
from fedinfer.wire import encode

MOST_ABORTS_IN_A_ROW = 5


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
    return Asked(drawn(server, tuple(sorted(server.devices)), plan.cohort, round_id))


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
