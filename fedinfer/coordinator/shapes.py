"""The functions of an additive model in the record of a run, with the noise that training gave them.

Everything follows from released weights and from public figures, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedinfer.config import Robust, Scenario
from fedinfer.coordinator.context import Progress
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import noise_model_of
from fedinfer.coordinator.record import RoundRecord
from fedinfer.privacy import Work
from fedinfer.types import DeviceId, Json

if TYPE_CHECKING:
    from fedinfer.training import Trainer


def shapes_of(
    trainer: Trainer,
    scenario: Scenario,
    rows: Mapping[DeviceId, int],
    plan: RunPlan,
    progress: Progress,
    generator: Callable[[str], np.random.Generator],
) -> list[Json]:
    """Every function of the present weights; none for other kinds of model, or before the first round.

    Args:
        trainer: of the run.
        scenario: says what a device sends.
        rows: number of training rows per device, declared public.
        plan: of the run.
        progress: what the run has reached.
        generator: numpy generator by purpose; noise is replayed for the bands.
    """
    if not trainer.terms or not progress.rounds:
        return []
    deviations = _deviations(scenario, rows, plan, progress)
    return list(trainer.shapes(progress.weights, plan.optimizer, deviations, generator("noise band")))


def _deviations(
    scenario: Scenario, held: Mapping[DeviceId, int], plan: RunPlan, progress: Progress
) -> list[float] | None:
    """Deviation of the noise in one coordinate of each released mean update; None where no formula is known here.

    Rules that combine groups are no means, correlated noise is not independent from round to round, and DP-SGD on the
    device adds its noise before the mean.
    """
    work = noise_model_of(scenario).work
    plain = scenario.training.robust is Robust.MEAN and plan.factorization is None
    if not plain or work is Work.PRIVATE_STEPS:
        return None
    rows = sum(held.values()) / max(len(held), 1)
    each = plan.train.sampling_rate * rows if work is Work.GRADIENT_SUMS else 1.0
    return [_deviation(record, plan.noise_multiplier, each) for record in progress.rounds if record.released]


def _deviation(record: RoundRecord, noise_multiplier: float, each: float) -> float:
    return noise_multiplier * record.clipping_norm / max(record.survivors * each, 1.0)
