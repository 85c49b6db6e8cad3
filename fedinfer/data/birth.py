"""A date of birth says an age: it is kept as a number of days, where its cells can be read in one way only."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedinfer.reading import time_reader

NAMES = frozenset("birth born dob birthday birthdate geburtsdatum".split())
ORIGIN = "1900-01-01"
LAYOUTS = ("", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y")
"""Of dates; the first is ISO 8601."""
DECADE = 3650.0
"""Days to whose multiples a range is widened: its ends are nobody's birthday."""


def rule_of(cells: Iterable[str]) -> str:
    """The time rule that reads every cell; empty where none does, or two do not agree.

    Args:
        cells: different ones that are not missing.

    Examples:
        >>> rule_of(["31.12.1980", "01.02.1999"])
        'days since 1900-01-01 as %d.%m.%Y'
        >>> rule_of(["01/02/1980", "03/04/1999"])
        ''
    """
    found = tuple(cell.strip() for cell in cells)
    rules = (f"days since {ORIGIN}{f' as {layout}' if layout else ''}" for layout in LAYOUTS)
    fitting = [rule for rule in rules if days(found, rule)]
    return fitting[0] if len(fitting) == 1 else ""


def days(cells: Iterable[str], rule: str) -> list[float]:
    """Cells as days; empty where one cannot be read.

    Args:
        cells: stripped texts.
        rule: of time.
    """
    read = time_reader(rule)
    try:
        return [read(cell) for cell in cells]
    except ValueError:
        return []


def decades(found: list[float]) -> tuple[float, float]:
    """A range of whole decades that holds all days.

    Args:
        found: at least one.
    """
    return math.floor(min(found) / DECADE) * DECADE, (math.floor(max(found) / DECADE) + 1) * DECADE
