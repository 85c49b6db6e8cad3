"""Columns that give the label away: alone, by a look-up or by one cut, nearly always right.

A column that was written down after the label, or from it, makes a model that is worth nothing. What is looked up is
learned on half of the rows and judged on the other half, so that a column with a different value in every row gives
nothing away. Balanced accuracy: the mean of the recalls of all classes, so that a rare class counts as much as others.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from fedinfer.reading import is_number

LEAST = 0.99
"""Balanced accuracy from which one column is more than an honest one."""
LEAST_ROWS, LEAST_IN_CLASS = 40, 5
"""With fewer rows, or rows of the rarest class, one column may be right by luck."""
MOST_ROWS = 20_000
"""Rows that are looked at; evenly spread."""
CUTS = 64
GAP = 0.03
"""Part of the values' spread that lies empty between classes where a column was made from the label."""


def gives_away(cells: Sequence[str], labels: Sequence[str], missing: Collection[str]) -> float:
    """Balanced accuracy with which one column alone answers the label, on rows that it was not learned from.

    Args:
        cells: of the column, n.
        labels: class of each row, n; one of `missing` where a row has none.
        missing: texts that mean missing.

    Returns:
        In [0, 1]; 0 where there are too few rows to tell.
    """
    rows = [row for row, label in enumerate(labels) if label not in missing]
    rows = rows[:: -(-len(rows) // MOST_ROWS) or 1]
    counts = Counter(labels[row] for row in rows)
    if len(rows) < LEAST_ROWS or len(counts) < 2 or min(counts.values()) < LEAST_IN_CLASS:
        return 0.0
    chosen, truth = [cells[row] for row in rows], [labels[row] for row in rows]
    levels = _levels(chosen, missing)
    # Halves are dealt class by class, so that both hold every class and no order of the file matters.
    place: Counter[str] = Counter()
    first = []
    for label in truth:
        first.append(place[label] % 2 == 0)
        place[label] += 1
    second = [not half for half in first]
    looked_up = min(_looked_up(levels, truth, first), _looked_up(levels, truth, second))
    if looked_up >= LEAST or len(counts) > 2 or not all(cell in missing or _is_value(cell) for cell in chosen):
        return looked_up
    values = np.array([math.nan if cell in missing else float(cell) for cell in chosen])
    positive = np.array([label == truth[0] for label in truth])
    halves = (np.array(first), np.array(second))
    return max(looked_up, min(_cut(values, positive, half) for half in halves))


def _levels(cells: Sequence[str], missing: Collection[str]) -> list[str]:
    """Cells as levels of a look-up: numbers with many values by quantile, everything else as it is."""
    present = [cell for cell in cells if cell not in missing]
    different = set(present)
    if len(different) <= CUTS or not all(map(_is_value, different)):
        return ["" if cell in missing else cell for cell in cells]
    values = np.array([float(cell) for cell in present])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, CUTS + 1)[1:-1]))
    found = iter(np.searchsorted(edges, values, side="left"))
    return ["" if cell in missing else str(next(found)) for cell in cells]


def _looked_up(levels: Sequence[str], truth: Sequence[str], learned: Sequence[bool]) -> float:
    """Balanced accuracy of the most frequent class per level, on the rows that were not learned from."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for level, label, known in zip(levels, truth, learned, strict=True):
        if known:
            seen[level][label] += 1
    usual = Counter(label for label, known in zip(truth, learned, strict=True) if known).most_common(1)[0][0]
    answers = {level: counts.most_common(1)[0][0] for level, counts in seen.items()}
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for level, label, known in zip(levels, truth, learned, strict=True):
        if not known:
            total[label] += 1
            right[label] += answers.get(level, usual) == label
    return float(np.mean([right[label] / total[label] for label in total]))


def _is_value(cell: str) -> bool:
    return is_number(cell)


def _cut(values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], learned: npt.NDArray[np.bool_]) -> float:
    """Balanced accuracy of the best single cut of the learned half, on the other half; missing values are wrong."""
    order = np.argsort(values[learned], kind="stable")  # missing values come last
    sorted_values, hits = values[learned][order], positive[learned][order]
    gain = np.cumsum(np.where(hits, 1 / hits.sum(), -1 / (~hits).sum()))
    ends = np.flatnonzero(sorted_values[:-1] < sorted_values[1:])
    if not ends.size:
        return 0.0
    best = ends[np.argmax(np.abs(gain[ends]))]
    below = values[~learned] <= (sorted_values[best] + sorted_values[best + 1]) / 2
    answer = below if gain[best] > 0 else ~below
    right = (answer == positive[~learned]) & ~np.isnan(values[~learned])
    truth = positive[~learned]
    return float((right[truth].mean() + right[~truth].mean()) / 2)


def is_copy(cells: Sequence[str], labels: Sequence[str], missing: Collection[str]) -> bool:
    """Whether a column that gives the label away looks made from it, not the label from the column.

    Few values, a value that stands for a whole class, or numbers that leave a gap between the classes are made from the
    label. Numbers that run on across the border may as well be what the label was decided by: a limit on an income.

    Args:
        cells: of the column, n.
        labels: class of each row, n.
        missing: texts that mean missing.
    """
    known = [(cell, label) for cell, label in zip(cells, labels, strict=True) if not {cell, label} & set(missing)]
    if len({cell for cell, _ in known}) <= CUTS or not all(_is_value(cell) for cell, _ in known):
        return True
    pairs = sorted((float(cell), label) for cell, label in known)
    values = np.array([value for value, _ in pairs])
    changes = np.flatnonzero([a[1] != b[1] for a, b in itertools.pairwise(pairs)])
    spread = float(np.subtract(*np.quantile(values, [0.99, 0.01])))
    gaps = np.diff(values)[changes]
    alone = min(len(np.unique(values[[label == one for _, label in pairs]])) for one in {label for _, label in pairs})
    return alone == 1 or bool(gaps.size and float(np.median(gaps)) > GAP * spread)
