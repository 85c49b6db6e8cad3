"""From which log odds on class 1 is answered, chosen from a noisy histogram: nobody sees the rows that say it.

Rules:
* One row with a label adds 1 to one bin: its class and where its log odds fall among the edges. So the histogram moves
  by an L2 norm of 1 with one row; a device that is protected as a whole sends its histogram over its rows, which is no
  longer than 1.
* Edges follow from the model and from public or drawn rows; one of them is 0, where both classes are as likely.
* An edge wins against 0 only where the figure there is better by more than noise and the chance of few rows explain,
  and where each class has more rows than that noise makes up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedinfer.errors import BadMessage
from fedinfer.metrics.metric import Metric
from fedinfer.metrics.threshold import decided_by
from fedinfer.types import FloatVector

BINS = 16
"""Of one class: more would tell thresholds better apart, and add up more noise."""
WIDTH = 2 * BINS
NORM = 1.0
"""L2 norm of what one unit of privacy adds."""
MOST_COUNTED = 1000
"""Rows of one device that are counted, at most: the ring of the sum holds so many."""
SURE = 2.5
"""Standard deviations by which an edge must be better than 0."""
DRAWS = 200
"""Of noise, for that standard deviation."""
_TINY = 1e-7

Wide = npt.NDArray[np.float64]


def log_odds(probabilities: npt.NDArray[np.floating]) -> Wide:
    """Log odds of class 1, float64 (n,); -inf where a probability is not finite.

    Args:
        probabilities: (n, 2).
    """
    chance = np.clip(probabilities[:, 1].astype(np.float64), _TINY, 1 - _TINY)
    return np.where(np.isnan(chance), -np.inf, np.log(chance / (1 - chance)))


def edges_of(scores: Wide) -> FloatVector:
    """Edges between the bins: even steps over the middle 99 % of log odds, and 0.

    Args:
        scores: log odds of public or drawn rows, (n,), n >= 1, finite.

    Returns:
        float32 (BINS - 1,), growing.
    """
    low, high = np.quantile(scores, [0.005, 0.995])
    middle = max((high - low) / 2, 0.05)
    even = np.linspace((low + high) / 2 - middle, (low + high) / 2 + middle, BINS - 2)
    if np.abs(even).min() < 1e-3:  # 0 is one of them: another one makes up the number
        even[np.abs(even).argmin()] = even[-1] + (even[1] - even[0])
    found: FloatVector = np.sort(np.append(even, 0.0)).astype(np.float32)
    return found


def check_edges(edges: FloatVector) -> None:
    """Refuse edges that are none.

    Args:
        edges: from a server; untrusted.

    Raises:
        BadMessage: not BINS - 1 finite growing numbers.
    """
    if edges.shape != (BINS - 1,) or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise BadMessage(f"a threshold is chosen among {BINS - 1} growing numbers, these are {edges[:20]}")


def histogram_of(scores: Wide, y: npt.NDArray[np.int64], edges: FloatVector) -> FloatVector:
    """Rows per class and bin, float32 (WIDTH,): class 0 first.

    Args:
        scores: log odds, (n,).
        y: class numbers 0 and 1, (n,).
        edges: between the bins; a score on an edge is above it.
    """
    places = y * BINS + np.searchsorted(edges, scores.astype(np.float32), side="right")
    return np.bincount(places, minlength=WIDTH).astype(np.float32)


def chosen_log_odds(
    metric: Metric, histogram: npt.NDArray[np.floating], edges: FloatVector, noise_std: float, rng: np.random.Generator
) -> float:
    """The edge from which on class 1 should be answered; 0 where no other one is better beyond doubt.

    Args:
        metric: of the task; `decided_by` names what is maximised.
        histogram: noisy, (WIDTH,).
        edges: between the bins.
        noise_std: of one bin.
        rng: draws of noise, which the doubt is measured by.
    """
    if (histogram.reshape(2, BINS).sum(axis=1) < least_rows(noise_std)).any():
        return 0.0
    wanted, even = decided_by(metric), int(np.abs(edges).argmin())
    # A count of rows is as uncertain as its root; a sum of shares of devices is not more so.
    std = np.sqrt(noise_std**2 + np.maximum(histogram, 0.0))
    noised = histogram + std * rng.standard_normal((DRAWS, WIDTH))
    values = scores_of(wanted, np.asarray(histogram, np.float64)[None])[0]
    spread = scores_of(wanted, noised)
    sure = values - values[even] > SURE * (spread - spread[:, [even]]).std(axis=0)
    return float(edges[np.where(sure, values, -np.inf).argmax()]) if sure.any() else 0.0


def least_rows(noise_std: float) -> float:
    """Rows of a class in the histogram with fewer of which no threshold is chosen: noise alone makes up so many.

    Args:
        noise_std: of one bin.
    """
    return float(SURE * noise_std * np.sqrt(BINS))


def scores_of(metric: Metric, histograms: Wide) -> Wide:
    """The figure of answering class 1 from each edge on, (n, BINS - 1), from counts that noise may have made negative.

    Args:
        metric: accuracy, balanced accuracy or F1.
        histograms: (n, WIDTH).
    """
    above = histograms.reshape(-1, 2, BINS)[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    totals = np.maximum(above[:, :, :1], 1.0)
    inside = np.clip(above[:, :, 1:], 0.0, totals)
    wrong, right = inside[:, 0], inside[:, 1]
    others, ones = totals[:, 0], totals[:, 1]
    match metric:
        case Metric.F1:
            return np.asarray(2 * right / (right + wrong + ones))
        case Metric.BALANCED_ACCURACY:
            return np.asarray((right / ones + 1 - wrong / others) / 2)
        case _:
            return np.asarray((right + others - wrong) / (ones + others))
