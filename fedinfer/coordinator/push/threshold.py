"""The private choice of a decision threshold: devices count their held-out rows, the server reads the noisy sum.

The server's ledger is charged once for each push that was planned, before its version is built: whoever goes on with a
run that was killed builds the version anew, under another number, and does not ask again. What the choice decides is
one number of the published file; without a sum, or without an edge that is better beyond doubt, the likeliest class is
answered.
"""

from __future__ import annotations

import numpy as np

from fedinfer.artifact import synthetic_rows
from fedinfer.coordinator.aggregate.promise import sum_plans
from fedinfer.coordinator.aggregate.release import noise_std, release_groups
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.robust import PLAIN_MEAN
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.errors import BudgetExceeded, Misbehaviour, TooFewSurvivors
from fedinfer.messages import Purpose, ThresholdWork
from fedinfer.metrics import chosen_log_odds, edges_of, log_odds
from fedinfer.schema import Schema
from fedinfer.types import FloatVector
from fedinfer.wire import encode

EDGE_ROWS = 512
"""Rows that edges are made from, public or drawn."""


def choose_log_odds(server: Server, plan: RunPlan, progress: Progress) -> float | None:
    """From which log odds of the present weights on class 1 should be answered.

    Args:
        server: wiring of the run.
        plan: of the run; without a private choice in it nothing is asked.
        progress: of the run; why nothing came of the choice is noted in it.

    Returns:
        None where nothing is chosen in private; 0 where the choice found nothing better.
    """
    if plan.threshold is None or server.given is not None:
        return None
    server.emit("phase", {"phase": f"private choice of a threshold for version {progress.version}"})
    # By the push, not by the version: a version that was signed and not recorded leaves its number used up.
    rng, round_id = server.generator(f"threshold {progress.version}"), f"threshold-{progress.triggered + 1:04d}"
    edges = edges_of(log_odds(server.trainer.predict(progress.weights, _rows(server.public[0], server.schema, rng))))
    work = encode(ThresholdWork(progress.weights, edges, progress.window))
    try:
        promises = sum_plans(server, plan.threshold, Purpose.THRESHOLD, round_id, tuple(sorted(server.devices)), work)
        released, sums = release_groups(server, round_id, promises, work, PLAIN_MEAN)
    except (TooFewSurvivors, Misbehaviour, BudgetExceeded) as error:  # Misbehaviour: charged before, not finished
        return _nothing(progress, str(error))
    if released is None:
        return _nothing(progress, "; ".join(sums.left_out))
    std = noise_std(server.scenario, plan.threshold, len(released.survivors))
    found = chosen_log_odds(server.judged_by.metric, released.total, edges, std, rng)
    return found or _nothing(progress, "its noise hides whether another one is better")


def _rows(public: FloatVector, schema: Schema, rng: np.random.Generator) -> FloatVector:
    return public[:EDGE_ROWS] if len(public) >= EDGE_ROWS // 4 else synthetic_rows(schema, EDGE_ROWS, rng)


def _nothing(progress: Progress, why: str) -> float:
    progress.notices.append(f"version {progress.version} answers the likeliest class: no private threshold, {why}")
    return 0.0
