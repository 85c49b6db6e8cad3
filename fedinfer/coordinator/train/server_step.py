"""What a released sum of clipped updates says: the updates in the model's units, and the next round's clipping norm.

Everything here is computed from releases and public figures: post-processing, which costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedinfer.coordinator.train.robust import Rule, combine
from fedinfer.privacy.mechanism.clipping import Clipping, FixedClipping
from fedinfer.secagg.groups import FloatArray
from fedinfer.types import FloatVector


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
        clipping: of the run.
        rule: of the run.
        norm: clipping norm of this round.
        total: released sum, float32 (d + clipping.extra,).
        means: of the groups, float32 (groups, d + clipping.extra), when a robust rule combines them.
        survivors: devices in the sum.
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
