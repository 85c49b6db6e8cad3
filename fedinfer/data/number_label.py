"""What `fedinfer init` proposes for a label that is a number."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedinfer.data.columns import round_outwards
from fedinfer.data.guess import is_finite_number
from fedinfer.reading import MISSING_TEXT

MOST_NUMERIC_CLASSES = 10
"""A label with more different numbers is predicted as a number, one with fewer as classes."""
TAIL = 0.005
"""Part of the rows at either end that the proposed range may leave outside: a few wild values would widen it a lot."""
MARGIN = 0.1
"""Part of the range of the other rows that is added at either end."""


def number_range(cells: Sequence[str]) -> tuple[float, float] | None:
    """A range for a numeric label with many values; None for a label of classes.

    Args:
        cells: of the label column.

    Returns:
        (low, high), read off the rows between the tails and rounded outwards; not yet public.
    """
    counts = Counter(cell for cell in cells if cell not in MISSING_TEXT)
    if len(counts) <= MOST_NUMERIC_CLASSES or not all(is_finite_number(cell) for cell in counts):
        return None
    values = np.array([float(cell) for cell in counts.elements()])
    inner = np.quantile(values, (TAIL, 1 - TAIL))
    margin = MARGIN * float(inner[1] - inner[0])
    low, high = max(values.min(), inner[0] - margin), min(values.max(), inner[1] + margin)
    if not low < high:  # nearly all rows have one value
        low, high = float(values.min()), float(values.max())
    return round_outwards(float(low), float(high))


def number_lines(cells: Sequence[str], bounds: tuple[float, float], unit: str) -> list[str]:
    """Lines of [data] for a numeric label.

    Args:
        cells: of the label column.
        bounds: its range.
        unit: that stands beside its numbers; empty: none.
    """
    present = [float(cell) for cell in cells if cell not in MISSING_TEXT]
    outside = sum(not bounds[0] <= value <= bounds[1] for value in present)
    count = f"; {outside} of {len(present)} rows lie outside and count as its nearest end" if outside else ""
    return [
        f"label_range = [{bounds[0]:.15g}, {bounds[1]:.15g}] # the label is a number: replace by a public range{count}",
        f"label_unit = {json.dumps(unit, ensure_ascii=False)} # as it stands beside the numbers"
        if unit
        else '# label_unit = "kg" # what it is measured in',
        "# Two classes instead: remove label_range and set label_above = NUMBER",
    ]
