"""The functions of an additive model in the record of a run, with the noise that training gave them.

Everything follows from released weights and from public figures, so it costs no privacy.
"""

from __future__ import annotations

from fedinfer.config import Robust
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import noise_model_of
from fedinfer.coordinator.record import RoundRecord
from fedinfer.privacy import Work
from fedinfer.types import Json


def shapes_of(server: Server, plan: RunPlan, progress: Progress) -> list[Json]:
    """Every function of the present weights; none for other kinds of model.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: what the run has reached.
    """
    if not server.trainer.terms:
        return []
    deviations = _deviations(server, plan, progress)
    rng = server.generator("noise band")
    return list(server.trainer.shapes(progress.weights, plan.optimizer, deviations, rng))


def _deviations(server: Server, plan: RunPlan, progress: Progress) -> list[float] | None:
    """Deviation of the noise in one coordinate of each released mean update; None where no formula is known here.

    Rules that combine groups are no means, correlated noise is not independent from round to round, and DP-SGD on the
    device adds its noise before the mean.
    """
    work = noise_model_of(server.scenario).work
    plain = server.scenario.training.robust is Robust.MEAN and plan.factorization is None
    if not plain or work is Work.PRIVATE_STEPS:
        return None
    rows = sum(server.rows.values()) / max(len(server.rows), 1)
    each = plan.train.sampling_rate * rows if work is Work.GRADIENT_SUMS else 1.0
    return [_deviation(record, plan.noise_multiplier, each) for record in progress.rounds if record.released]


def _deviation(record: RoundRecord, noise_multiplier: float, each: float) -> float:
    return noise_multiplier * record.clipping_norm / max(record.survivors * each, 1.0)
