"""One private canary evaluation of a wave: what devices answer about a new model, and what the sum of answers says.

Rules:
* A figure is a number in [0, 1], small is good: `error` (part of the rows on which the model fails), `slow` (1 when
  95 % of the predictions are not faster than the limit), `disagreement` with the model before, `shift` of the
  confidence against it, `wrong` answers where there are labels: their part, or
  with unit `device` the mean of the parts of each class, where the task is not judged by accuracy or log loss.
* A device answers each figure minus its centre. The centre of a figure with a limit is that limit, so a device that
  has no value for it (no labels, no model before) answers 0 and moves the mean towards neither verdict.
* The answers of one unit of privacy together are cut to L2 norm 1. Who is bad in several figures at once is cut, who is
  good practically never is; signs are kept, so a cut answer still pulls every figure to its side of the limit.
* Unit `example`: each row answers by itself (`slow`: this one prediction) and is cut; a device sends the sum over its
  rows. The number of rows of a window is public; missing rows count as rows with nothing to say.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fedinfer.config import RolloutSection
from fedinfer.errors import BadMessage
from fedinfer.rollout.gates import Bound, Figure, Gate, GateScope, GroupFigures
from fedinfer.types import FloatVector, Unit, WideVector

ERROR, SLOW, DISAGREEMENT, SHIFT, WRONG = range(5)
WIDTH = 5
"""Figures of one answer."""
NORM = 1.0
"""L2 norm of one unit's answer; sqrt(5) would never cut, and buy that for more than twice the noise."""
UNJUDGED_CENTRE = 0.25
"""Centre of a figure that is only reported: a usual value, so that usual answers are short."""
TIMELY = 0.95
"""Part of the predictions of a device that must be faster than the limit."""
_NO_LIMIT = {Bound.AT_MOST: 1.0, Bound.AT_LEAST: 0.0}


def centres(section: RolloutSection) -> FloatVector:
    """What is subtracted from each figure: its limit, or a usual value where none is set.

    Args:
        section: the limits; 0 (or 1 for the shift) means that none is set.

    Returns:
        (5,) float32, in the order ERROR, SLOW, DISAGREEMENT, SHIFT, WRONG.
    """
    limits = [
        section.max_error_rate,
        section.max_slow_rate,
        1 - section.min_agreement if section.min_agreement > 0 else UNJUDGED_CENTRE,
        section.max_confidence_shift if section.max_confidence_shift < 1 else UNJUDGED_CENTRE,
        1 - section.min_metric if section.min_metric > 0 else UNJUDGED_CENTRE,
    ]
    return np.array(limits, np.float32)


def gates_of(section: RolloutSection, *, compared: bool) -> tuple[Gate, ...]:
    """Conditions on the figures of a canary evaluation.

    Args:
        section: the limits; a limit that every value meets makes no gate.
        compared: there is a model before, so agreement and confidence shift mean something.
    """
    agreement = section.min_agreement if compared else 0.0
    shift = section.max_confidence_shift if compared else 1.0
    limits = [
        ("error", Bound.AT_MOST, section.max_error_rate),
        ("slow", Bound.AT_MOST, section.max_slow_rate),
        ("agreement", Bound.AT_LEAST, agreement),
        ("confidence_shift", Bound.AT_MOST, shift),
        ("metric", Bound.AT_LEAST, section.min_metric),
    ]
    judged = [(name, bound, limit) for name, bound, limit in limits if limit != _NO_LIMIT[bound]]
    return tuple(Gate(name, bound, limit, limit, 0.0, 1.0, GateScope.WAVE) for name, bound, limit in judged)


def device_answer(
    figures: npt.NDArray[np.floating],
    slow: float,
    section: RolloutSection,
    classes: npt.NDArray[np.int64] | None = None,
) -> FloatVector:
    """Unit `device`: the means over the rows.

    Args:
        figures: (rows, 5), NaN where a row has nothing to say; its column `slow` is not used.
        slow: the device's own figure of slowness, NaN when nothing was timed.
        section: the limits.
        classes: (rows,), labels: `wrong` is then the mean over the classes that occur, so that a model that never finds
            a rare class shows; None: every row counts alike.

    Returns:
        float32 (5,) of L2 norm <= 1.
    """
    known = ~np.isnan(figures)
    means = np.where(known, figures, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), math.nan)
    means[SLOW] = slow
    if classes is not None:
        means[WRONG] = _mean_of_classes(figures[:, WRONG], classes)
    answer: FloatVector = _cut(means[None, :] - centres(section))[0]
    return answer


def _mean_of_classes(values: npt.NDArray[np.floating], classes: npt.NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the means of their rows; NaN where no row has anything to say."""
    known = ~np.isnan(values)
    means = [values[known & (classes == each)].mean() for each in np.unique(classes[known])]
    return float(np.mean(means)) if means else math.nan


def example_answer(figures: npt.NDArray[np.floating], section: RolloutSection) -> WideVector:
    """Unit `example`: the sum of the answers of single rows, float64 (5,). Each row moves it by at most L2 norm 1.

    Args:
        figures: (rows, 5), NaN where a row has nothing to say.
        section: the limits.
    """
    total: WideVector = _cut(figures - centres(section)).sum(axis=0, dtype=np.float64)
    return total


def read_sum(
    total: npt.NDArray[np.floating],
    devices: int,
    noise_std: float,
    section: RolloutSection,
    unit: Unit,
    rows: int,
    *,
    compared: bool,
) -> GroupFigures:
    """Figures of a wave from the released sum.

    Args:
        total: noisy sum of the answers, (5,).
        devices: answers in it, >= 1.
        noise_std: standard deviation of the noise of each coordinate, in the unit of `total`.
        section: the limits, as the devices had them.
        unit: what the noise protects.
        rows: public number of rows of a window; used with unit `example` only.
        compared: there is a model before; else nobody had anything to say about agreement and confidence shift.

    Returns:
        Sums over devices, one group named "" for all of them.

    Raises:
        BadMessage: a sum of another length.
    """
    if total.shape != (WIDTH,):
        raise BadMessage(f"the sum of a canary evaluation has shape {total.shape}, expected ({WIDTH},)")
    per_device = unit.counted(rows)
    sums = total.astype(np.float64) / per_device + devices * centres(section)
    std = noise_std / per_device
    values = {"error": sums[ERROR], "slow": sums[SLOW], "metric": devices - sums[WRONG]}
    if compared:
        values |= {"agreement": devices - sums[DISAGREEMENT], "confidence_shift": sums[SHIFT]}
    return GroupFigures("", devices, tuple(Figure(name, float(value), std) for name, value in values.items()))


def _cut(excess: npt.NDArray[np.floating]) -> FloatVector:
    """Nothing to say is 0; rows longer than the norm are scaled down to it."""
    answers = np.where(np.isnan(excess), 0.0, excess)
    lengths = np.sqrt((answers**2).sum(axis=1, keepdims=True))
    cut: FloatVector = (answers * np.minimum(1.0, NORM / np.maximum(lengths, NORM))).astype(np.float32)
    return cut
