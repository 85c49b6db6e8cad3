"""Times of day and durations, such as 14:30 or 00:44:37: numbers of hours, where every cell is read by one layout."""

from __future__ import annotations

from collections.abc import Iterable

from fedinfer.data.birth import days
from fedinfer.data.columns import round_outwards

ORIGIN = "1900-01-01"
"""The date of a time that names none, as `datetime.strptime` has it."""
LAYOUTS = ("%H:%M:%S", "%H:%M")
DAY, LONG = 24.0, 12.0
"""Hours of a day, and hours from which cells are taken for times of it: a range that everybody knows."""


def rule_of(cells: Iterable[str]) -> str:
    """The time rule that reads every cell; empty where none does.

    Args:
        cells: different ones that are not missing.

    Examples:
        >>> rule_of(["9:05", "14:30"]), rule_of(["9:05", "31:00"])
        ('hours since 1900-01-01 as %H:%M', '')
    """
    found = tuple(cell.strip() for cell in cells)
    rules = (f"hours since {ORIGIN} as {layout}" for layout in LAYOUTS)
    return next((rule for rule in rules if days(found, rule)), "")


def hours(cells: Iterable[str], rule: str) -> tuple[float, float]:
    """A range for the cells, in hours: the whole day, or less for durations.

    Args:
        cells: different ones that are not missing.
        rule: of `rule_of`.
    """
    found = days((cell.strip() for cell in cells), rule)
    return (0.0, DAY) if max(found) >= LONG else round_outwards(min(found), max(found))
