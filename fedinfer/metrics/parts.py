"""Figures of parts of the rows: single devices, groups of people. How unequal is a model?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.metrics.judgement import Answers
from fedinfer.metrics.metric import Metric
from fedinfer.types import Json

FEWEST = 20
"""Figures of fewer rows are mostly luck: they are shown, and never called the worst."""


@dataclass(frozen=True, slots=True)
class Part:
    """Figures of some rows.

    Args:
        name: of the device or group.
        rows: >= 1.
        value: of the task's metric; None where it is not defined, for instance when one class occurs.
        accuracy: in [0, 1].
        recall: of class 1 of two, or the mean over the classes that occur; None when there is nothing to find.
        answered: share of the rows that get class 1 of two; None for more classes.
    """

    name: str
    rows: int
    value: float | None
    accuracy: float
    recall: float | None
    answered: float | None

    def to_json(self) -> Json:
        """For run.json."""
        return {
            "name": self.name,
            "rows": self.rows,
            "value": self.value,
            "accuracy": self.accuracy,
            "recall": self.recall,
            "answered": self.answered,
        }


def part_of(name: str, answers: Answers, metric: Metric) -> Part:
    """Figures of a device or a group.

    Args:
        name: of it.
        answers: to its rows, at least one.
        metric: of the task.
    """
    chosen, y, two = answers.chosen, answers.y, answers.probabilities.shape[1] == 2
    found = [float((chosen[y == c] == c).mean()) for c in ((1,) if two else np.unique(y)) if (y == c).any()]
    return Part(
        name=name,
        rows=len(y),
        value=answers.score(metric),
        accuracy=float((chosen == y).mean()),
        recall=float(np.mean(found)) if found else None,
        answered=float((chosen == 1).mean()) if two else None,
    )


@dataclass(frozen=True, slots=True)
class Attribute:
    """The groups of one attribute.

    Args:
        name: of the column.
        groups: in the order of its public list or range.
        figure: which figure `worst` and `gap` compare: the metric where every large group has it, else accuracy.
        worst: name of the worst group of at least `FEWEST` rows; empty when fewer than two are that large.
        gap: best minus worst of those groups, >= 0, in the figure's unit.
    """

    name: str
    groups: tuple[Part, ...]
    figure: str
    worst: str
    gap: float

    def to_json(self) -> Json:
        """For run.json."""
        groups = [group.to_json() for group in self.groups]
        return {"attribute": self.name, "figure": self.figure, "worst": self.worst, "gap": self.gap, "groups": groups}


def attribute_of(
    name: str, answers: Answers, members: Mapping[str, npt.NDArray[np.bool_]], metric: Metric
) -> Attribute:
    """Compare the groups of one attribute.

    Args:
        name: of the attribute.
        answers: to all rows.
        members: which rows belong to each group, bool (n,); groups without rows are left out.
        metric: of the task.
    """
    groups = tuple(part_of(group, answers.part(rows), metric) for group, rows in members.items() if rows.any())
    large = [group for group in groups if group.rows >= FEWEST]
    by_metric = all(group.value is not None for group in large)
    figure = metric if by_metric else Metric.ACCURACY
    if len(large) < 2:
        return Attribute(name, groups, str(figure), "", 0.0)
    ordered = sorted(large, key=lambda group: _value(group, by_metric), reverse=not figure.higher_is_better)
    gap = abs(_value(ordered[-1], by_metric) - _value(ordered[0], by_metric))
    return Attribute(name, groups, str(figure), ordered[0].name, gap)


def owners(names: Sequence[str], counts: Sequence[int]) -> dict[str, slice]:
    """Where each owner's rows lie in a table that has them one owner after the other.

    Args:
        names: of the owners, in order.
        counts: rows of each, >= 0; owners of none are left out.
    """
    ends = np.cumsum(counts)
    return {
        name: slice(int(end) - count, int(end)) for name, count, end in zip(names, counts, ends, strict=True) if count
    }


def _value(group: Part, by_metric: bool) -> float:
    return group.value if by_metric and group.value is not None else group.accuracy
