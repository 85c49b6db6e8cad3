"""The functions of an additive model in the record of a run, with the noise that training gave them.

Everything follows from released weights and from public figures, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, assert_never

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
    plain = scenario.training.robust is Robust.MEAN and plan.factorization is None
    each = _summands(noise_model_of(scenario).work, plan.train.sampling_rate * sum(held.values()) / max(len(held), 1))
    if not plain or each is None:
        return None
    return [_deviation(record, plan.noise_multiplier, each) for record in progress.rounds if record.released]


def _summands(work: Work, sampled_rows: float) -> float | None:
    """What one device adds to the number that a sum is divided by; None where its noise is in before the sum."""
    match work:
        case Work.GRADIENT_SUMS:
            return sampled_rows
        case Work.UPDATES:
            return 1.0
        case Work.PRIVATE_STEPS:
            return None
        case _:
            assert_never(work)


def _deviation(record: RoundRecord, noise_multiplier: float, each: float) -> float:
    return noise_multiplier * record.clipping_norm / max(record.survivors * each, 1.0)
