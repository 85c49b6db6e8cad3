"""By which figure a task is judged: the one that was asked for, or the one that its classes ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.errors import ConfigError
from fedinfer.metrics.metric import Metric

RARE = 0.2
"""Two classes of which one holds less of the rows: accuracy then praises a model that never finds it."""


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """The figure of merit of a task.

    Args:
        metric: by which rounds, gates, drift figures and reports judge.
        why: one clause for people.
    """

    metric: Metric
    why: str


def judged_by(asked: Metric | None, shares: Sequence[float], classes: int) -> JudgedBy:
    """Choose the figure of a task. Only this function does.

    Args:
        asked: `[training] metric`; None: it follows the data.
        shares: share of the rows that each class holds, (classes,), as far as whoever judges may know; empty: unknown.
        classes: number of classes; 0: the label is a number.

    Raises:
        ConfigError: a metric of numbers for classes, or the other way round.
    """
    numbers = classes == 0
    if asked is not None:
        if asked.of_numbers != numbers:
            raise ConfigError(
                f"[training] metric = {str(asked)!r}: the label is {'a number' if numbers else 'a class'}",
                hint=f"use one of {', '.join(m for m in Metric if m.of_numbers == numbers)}",
            )
        return JudgedBy(asked, "[training] metric asks for it")
    if numbers:
        return JudgedBy(Metric.RMSE, "the label is a number")
    if not len(shares):
        return JudgedBy(Metric.ACCURACY, "no labelled rows are known here, so nothing says that a class is rare")
    if classes == 2 and min(shares) < RARE:
        return JudgedBy(
            Metric.AVERAGE_PRECISION, f"the rarer class holds {_percent(min(shares))} of the rows, less than 20 %"
        )
    if classes == 2:
        return JudgedBy(Metric.ACCURACY, f"the rarer class holds {_percent(min(shares))} of the rows")
    return JudgedBy(Metric.ACCURACY, f"there are {classes} classes")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
