"""What a released sum of clipped updates says: the updates in the model's units, and the next round's clipping norm.

Everything here is computed from releases and public figures: post-processing, which costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import numpy as np

from fedinfer.config import Scenario, class_gain
from fedinfer.coordinator.aggregate.release import Release
from fedinfer.coordinator.context import Progress
from fedinfer.coordinator.plan.robust import Rule
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import noise_model_of
from fedinfer.coordinator.train.robust import combine
from fedinfer.privacy import Clipping, FixedClipping, Work, clipping_of
from fedinfer.secagg import FloatArray
from fedinfer.types import DeviceId, FloatVector

if TYPE_CHECKING:
    from fedinfer.training import Trainer


@dataclass(frozen=True, slots=True)
class Opened:
    """A release taken apart.

    Args:
        total: sum of the updates in the model's units, float32 (d,).
        robust: what a robust rule makes of the groups' mean updates, float32 (d,); None: the plain mean is wanted.
        clipping_norm: of the next round.
        unclipped: noisy fraction of devices that were not clipped, not always in [0, 1]; None where the norm is fixed.
    """

    total: FloatVector
    robust: FloatVector | None
    clipping_norm: float
    unclipped: float | None


def open_release(
    clipping: Clipping, rule: Rule, norm: float, total: FloatVector, means: FloatArray | None, survivors: int
) -> Opened:
    """Take a release apart.

    A robust rule judges updates and bits each by themselves: a group with an outlying bit keeps its update and the
    other way round. The bits go through the rule too, because one spoiled group could else drive the norm of everybody.

    Args:
        clipping: fixed or adaptive; an adaptive one appends one bit per device to the sum (Andrew et al. 2021).
        rule: how groups' means become one.
        norm: clipping norm of this round, L2, > 0.
        total: released sum, float32 (d + clipping.extra,).
        means: of the groups, float32 (groups, d + clipping.extra), when a robust rule combines them.
        survivors: devices in the sum, >= 1.
    """
    updates, robust = clipping.updates(total, norm), None
    if means is not None:
        robust = combine(rule, clipping.updates(means, norm), rule.bound or norm)
    if isinstance(clipping, FixedClipping):
        return Opened(updates, robust, norm, None)
    mean_bit = clipping.bits(total) / np.float32(survivors)
    if means is not None:
        mean_bit = combine(rule, clipping.bits(means), clipping.weight)
    unclipped = clipping.fraction(float(mean_bit[0]))
    return Opened(updates, robust, clipping.next_norm(norm, unclipped), unclipped)


def apply_release(
    scenario: Scenario,
    trainer: Trainer,
    rows: Mapping[DeviceId, int],
    plan: RunPlan,
    progress: Progress,
    released: Release,
) -> float | None:
    """Step the server's optimizer with the mean of a released sum, or with what a robust rule makes of the groups'.

    Args:
        scenario: says what a device sends and how it is clipped.
        trainer: knows which of all weights are tuned.
        rows: number of training rows per device, declared public.
        plan: of the run.
        progress: of the run; weights, optimizer state and clipping norm move on.
        released: sum of a round.

    Returns:
        Noisy fraction of devices that were not clipped, where the norm is adaptive: it moves the next round's norm.
    """
    from fedinfer.training import apply

    clipping, survivors = clipping_of(scenario.privacy), len(released.survivors)
    opened = open_release(clipping, plan.rule, progress.clipping_norm, released.total, released.means, survivors)
    progress.clipping_norm = opened.clipping_norm
    mean = _mean(scenario, rows, plan, opened, released) if opened.robust is None else opened.robust
    tuned = trainer.tuned(progress.weights)
    progress.optimizer, tuned = apply(progress.optimizer, tuned, mean, plan.optimizer)
    progress.weights = trainer.replace(progress.weights, tuned)
    return opened.unclipped


def _mean(
    scenario: Scenario, rows: Mapping[DeviceId, int], plan: RunPlan, opened: Opened, released: Release
) -> FloatVector:
    """The released sum as one step's pseudo-gradient, float32 (d,)."""
    work = noise_model_of(scenario).work
    match work:
        case Work.GRADIENT_SUMS:
            # A gradient sum points uphill; its expected number of rows is public, so the step size does not depend on
            # how many rows were drawn.
            expected = plan.train.sampling_rate * sum(rows[device] for device in released.survivors)
            return -opened.total / np.float32(max(expected, 1.0) / class_gain(scenario.training))
        case Work.UPDATES | Work.PRIVATE_STEPS:
            return opened.total / np.float32(len(released.survivors))
        case _:
            assert_never(work)
