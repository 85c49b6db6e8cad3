"""In which order the classes of an unprepared label are listed: the one that matters last, grades from low to high.

AUC, average precision, F1 and a decision threshold of two classes are those of the last one. A label with an order
stays a label of classes: on two tables of grades classes were right more often (0.56 and 0.46 of the rows) than a
number rounded to the nearest grade (0.51 and 0.45), which was nearer on one of them when it was wrong.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping

from fedinfer.data.labels import in_order
from fedinfer.data.suspicion import words_of
from fedinfer.metrics import RARE
from fedinfer.reading import is_number, number_reader

ABSENT = frozenset("no n false f nein non ne nej nee nie off none absent negative normal ok healthy good".split())
"""Words for what is usual or not there: of two classes the other one is looked for."""
SCALES: tuple[tuple[frozenset[str], ...], ...] = tuple(
    tuple(frozenset(level.split("|")) for level in scale.split(", "))
    for scale in (
        "very low, low|lo, medium|mid|middle|moderate|med|average, high|hi, very high",
        "sehr niedrig|sehr gering, niedrig|gering, mittel, hoch, sehr hoch",
        "never|nie, rarely|seldom|selten, sometimes|occasionally|manchmal|gelegentlich, often|frequently|oft|häufig, "
        "very often|sehr oft, always|immer",
        "strongly disagree, disagree, neutral|neither|undecided|neither agree nor disagree, agree, strongly agree",
        "very dissatisfied|very unsatisfied, dissatisfied|unsatisfied, neutral, satisfied, very satisfied",
        "very poor|very bad, poor|bad, fair|average|ok, good, very good, excellent",
        "none|no, minimal, mild|slight, moderate, severe, very severe|critical",
        "tiny, small|s, medium|m, large|l, extra large|xl|huge",
    )
)
LEAST_GRADES = 3
GRADES = frozenset("grade rating score stars star level stage severity satisfaction rank degree quality band".split())
"""Names of labels whose small whole numbers have an order; a species has numbers, too."""
BAND = re.compile(r"^(?:[<>≤≥]=?\s*)?(\d+)(?:\s*(?:-|–|to|bis)\s*\d+|\s*\+)?$")


def listed(counts: Mapping[str, int], marks: tuple[str, str]) -> tuple[str, ...]:
    """Classes as a scenario lists them.

    Args:
        counts: rows of each class, >= 1 class.
        marks: decimal and thousands mark of numbers.

    Returns:
        Of two classes the one last that is rare, or that is not the usual state in words; grades from low to high; else
        numbers by value and texts by name.
    """
    names = in_order(counts, marks)
    if len(names) == 2 and _first_matters(names, counts):
        return names[::-1]
    return grades(names, "", marks) or names


def _first_matters(names: Collection[str], counts: Mapping[str, int]) -> bool:
    first, last = names
    whole = sum(counts.values())
    if min(counts[first], counts[last]) < RARE * whole:
        return counts[first] < counts[last]
    return last.casefold() in ABSENT and first.casefold() not in ABSENT


def grades(names: Collection[str], label: str, marks: tuple[str, str]) -> tuple[str, ...]:
    """Classes from low to high, where they are grades.

    Args:
        names: of the classes.
        label: name of their column; small whole numbers are grades where it says so.
        marks: decimal and thousands mark of numbers.

    Returns:
        Empty where they have no order that is known.
    """
    if len(names) < LEAST_GRADES:
        return ()
    if all(is_number(name, *marks) for name in names):
        values = sorted(number_reader(*marks)(name) for name in names)
        stepwise = all(b - a == 1 for a, b in itertools.pairwise(values))
        return in_order(names, marks) if stepwise and GRADES & set(words_of(label)) else ()
    bands = {name: BAND.match(name.strip()) for name in names}
    if all(bands.values()):
        below = {name: not name.strip().startswith("<") for name in names}
        return tuple(sorted(names, key=lambda name: (below[name], int(bands[name][1]))))  # type: ignore[index]
    return next(filter(None, (_on(scale, names) for scale in SCALES)), ())


def range_of(names: Collection[str], marks: tuple[str, str]) -> str:
    """`[low, high]` of grades that are numbers; empty for others.

    Args:
        names: of the classes, from low to high.
        marks: decimal and thousands mark of numbers.
    """
    if not names or not all(is_number(name, *marks) for name in names):
        return ""
    values = [number_reader(*marks)(name) for name in names]
    return f"[{min(values):g}, {max(values):g}]"


def _on(scale: tuple[frozenset[str], ...], names: Collection[str]) -> tuple[str, ...]:
    """Names in the order of a scale; empty where one is not on it, or two are one level."""
    places = {name: next((n for n, level in enumerate(scale) if _plain(name) in level), -1) for name in names}
    if -1 in places.values() or len(set(places.values())) < len(places):
        return ()
    return tuple(sorted(names, key=lambda name: places[name]))


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip().casefold()))
