"""Curves of a classifier: ROC, precision and recall, reliability. Thinned for drawing, never smoothed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Points: TypeAlias = tuple[tuple[float, float], ...]
"""(x, y), x ascending."""
Scores: TypeAlias = npt.NDArray[Any]

MOST_POINTS = 120
BINS = 10


def roc(scores: Scores, positive: npt.NDArray[np.bool_]) -> Points:
    """The ROC curve: share of negatives taken for positive, share of positives found, from (0, 0) to (1, 1).

    Equal scores are one step (Fawcett 2006, algorithm 2), so the area under the points is `binary_auc`, up to thinning.

    Args:
        scores: (n,), larger means more likely positive.
        positive: (n,) which are; at least one, and not all.
    """
    found, false = _cumulated(scores, positive)
    return _thinned(np.append(0.0, false / false[-1]), np.append(0.0, found / found[-1]))


def precision_recall(scores: Scores, positive: npt.NDArray[np.bool_]) -> Points:
    """Recall and precision at every threshold, from the most certain answers to all of them.

    Args:
        scores: (n,), larger means more likely positive.
        positive: (n,) which are; at least one.
    """
    found, false = _cumulated(scores, positive)
    return _thinned(found / found[-1], found / (found + false))


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose probability falls into one bin.

    Args:
        said: mean probability that the model gave, in [0, 1].
        seen: share of the rows for which it came true, in [0, 1].
        rows: in the bin, >= 1.
    """

    said: float
    seen: float
    rows: int


def reliability(said: Scores, true: npt.NDArray[np.bool_]) -> tuple[Bin, ...]:
    """How often a probability comes true: even bins (Niculescu-Mizil and Caruana 2005), empty ones left out.

    Args:
        said: (n,) probabilities, in [0, 1].
        true: (n,) whether it came true.
    """
    place = np.clip((np.asarray(said, np.float64) * BINS).astype(np.int64), 0, BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    total, hits = np.bincount(place, said, BINS), np.bincount(place, true, BINS)
    return tuple(Bin(float(total[i] / rows[i]), float(hits[i] / rows[i]), int(rows[i])) for i in np.flatnonzero(rows))


def _cumulated(scores: Scores, positive: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Positives and negatives at or above each different score, from the largest score on."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(positive[order])[last].astype(np.float64), np.cumsum(~positive[order])[last].astype(np.float64)


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Points:
    """At most `MOST_POINTS` of the points, ends included: evenly along the way, so that steep parts keep theirs."""
    if len(x) > MOST_POINTS:
        way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(way, np.linspace(0.0, way[-1], MOST_POINTS - 1)))
        kept = np.unique(np.append(kept, len(x) - 1))
        x, y = x[kept], y[kept]
    return tuple((round(float(a), 5), round(float(b), 5)) for a, b in zip(x, y, strict=True))
