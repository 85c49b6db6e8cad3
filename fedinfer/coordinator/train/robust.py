"""Rules that limit what dishonest devices can do, although nobody sees a single vector.

A dishonest device can send any vector, and nobody sees it under secure aggregation. But it can spoil only the sum of
its own group, so a rule over the groups' means withstands as many dishonest devices as it withstands spoiled groups.
The means are computed from released sums: post-processing, which costs no privacy.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np

from fedinfer.config import Robust
from fedinfer.coordinator.plan.robust import Rule
from fedinfer.errors import ConfigError
from fedinfer.secagg.groups import FloatArray
from fedinfer.types import FloatVector


def combine(rule: Rule, means: FloatArray, bound: float) -> FloatVector:
    """One update from the groups' means.

    Args:
        rule: any but the plain mean, which weighs groups by their devices and needs no means.
        means: float32 (groups, d), at least `rule.least_groups` rows.
        bound: largest L2 norm of a row, > 0, for the norm-bounded mean.

    Returns:
        float32 (d,).

    Raises:
        ConfigError: the rule is the plain mean, or the means are empty or not finite.
    """
    match rule.kind:
        case Robust.MEDIAN:
            return median(means)
        case Robust.TRIMMED_MEAN:
            return trimmed_mean(means, rule.trimmed)
        case Robust.NORM_BOUNDED_MEAN:
            return norm_bounded_mean(np.ascontiguousarray(means), bound)
        case Robust.MEAN:
            raise ConfigError("the plain mean weighs groups by their devices and is not computed from means")
        case _:
            assert_never(rule.kind)


def median(means: FloatArray) -> FloatArray:
    """Coordinate-wise median of the groups' means (Yin et al. 2018, definition 1).

    Args:
        means: float32, shape (groups, d), finite: decoded sums divided by their numbers of devices.

    Returns:
        float32, shape (d,).

    Raises:
        ConfigError: the means are empty or not finite.
    """
    middle: FloatArray = np.median(_checked(means), axis=0).astype(np.float32)
    return middle


def trimmed_mean(means: FloatArray, trimmed: int) -> FloatArray:
    """Coordinate-wise mean without the largest and the smallest values (Yin et al. 2018, definition 2).

    Args:
        means: float32, shape (groups, d), finite.
        trimmed: values left out on each side, 0 <= 2 * trimmed < groups.

    Returns:
        float32, shape (d,).

    Raises:
        ConfigError: trimming leaves no group, or the means are empty or not finite.
    """
    ordered = np.sort(_checked(means), axis=0)
    if not 0 <= 2 * trimmed < len(ordered):
        raise ConfigError(f"{trimmed} values trimmed on each side of {len(ordered)} groups leave none")
    kept = ordered[trimmed : len(ordered) - trimmed]
    result: FloatArray = kept.mean(axis=0, dtype=np.float64).astype(np.float32)
    return result


def norm_bounded_mean(means: FloatArray, bound: float) -> FloatArray:
    """Mean of the groups' means, each scaled down to an L2 norm of at most `bound` (Sun et al. 2019, section 3).

    Args:
        means: float32, shape (groups, d), finite.
        bound: largest norm that a group's mean keeps, > 0.

    Returns:
        float32, shape (d,), norm at most `bound`.

    Raises:
        ConfigError: the bound is not positive, or the means are empty or not finite.
    """
    if not bound > 0:
        raise ConfigError(f"norm bound {bound}")
    wide = _checked(means).astype(np.float64)
    norms = np.sqrt(np.einsum("gd,gd->g", wide, wide))
    scales = bound / np.maximum(norms, bound)
    result: FloatArray = (scales @ wide / len(wide)).astype(np.float32)
    return result


def _checked(means: FloatArray) -> FloatArray:
    if means.ndim != 2 or not len(means) or not np.isfinite(means).all():
        raise ConfigError(f"group means of shape {means.shape}: expected finite (groups, d)")
    return means
