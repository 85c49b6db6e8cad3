"""What the weights of canary levels say in the record of a run: they are noise, and the plan says how much.

Everything follows from released weights and from public figures, so it costs no privacy. `fedinfer audit RUN` reads it.
"""

from __future__ import annotations

import importlib
from typing import assert_never

from fedinfer.config import Robust, Scenario, class_gain
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import noise_model_of
from fedinfer.coordinator.record import RoundRecord
from fedinfer.privacy import Work
from fedinfer.schema import CANARY, Categorical
from fedinfer.types import Json


def canaries_of(server: Server, plan: RunPlan, progress: Progress) -> Json:
    """The weights of canary levels, and the standard deviation that noise alone gives each of them.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: what the run has reached.

    Returns:
        `weights`; `guaranteed` and `usual`: their deviation by the noise that the plan guarantees, and by the shares of
        all devices that were in the sums, 0.0 where no formula is known. Empty where the schema has no canary level, or
        the model no weights of its own for one.
    """
    declared = any(
        name.startswith(CANARY)
        for column in server.schema.columns
        if isinstance(column, Categorical)
        for name in column.categories
    )
    if not declared or not progress.rounds:
        return {}
    training = importlib.import_module("fedinfer.training")
    model = server.trainer.module(progress.weights, native=False)
    weights = training.canary_weights(model, server.schema)
    if not weights.size:
        return {}
    plain = server.scenario.training.robust is Robust.MEAN and plan.factorization is None
    released = [record for record in progress.rounds if record.released] if plain else []
    rows = sum(server.rows.values())
    least = [_least(server.scenario, rows, plan, record) for record in released]
    model_of_noise, contributors = noise_model_of(server.scenario), plan.train.mechanism.contributors
    usual = [
        std * model_of_noise.spread(record.survivors, contributors * record.groups_released)
        for std, record in zip(least, released, strict=True)
    ]
    found = {
        name: training.weight_deviation(plan.optimizer, stds, server.generator("canary levels")) if stds else 0.0
        for name, stds in (("guaranteed", least), ("usual", usual))
    }
    return {"weights": weights.tolist(), **found}


def _least(scenario: Scenario, rows: int, plan: RunPlan, record: RoundRecord) -> float:
    """Of the guaranteed noise in one coordinate of the mean: it is divided by the rows of all devices at most."""
    noise, work = plan.noise_multiplier * record.clipping_norm, noise_model_of(scenario).work
    match work:
        case Work.GRADIENT_SUMS:
            return noise * class_gain(scenario.training) / max(plan.train.sampling_rate * rows, 1.0)
        case Work.UPDATES:
            return noise / record.survivors
        case Work.PRIVATE_STEPS:  # its noise is in each device's steps
            return 0.0
        case _:
            assert_never(work)
