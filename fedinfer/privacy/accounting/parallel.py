"""What disjoint parts of the units cost together: the worst of them, not the sum.

**Theorem.** Let a split put every unit of privacy into one part at most, and let it be fixed before anything is
released, by facts that both neighbours share (the places of rows in tables, the names of devices). Let every release
that is marked with a part be computed from the units of that part alone, from what was released before, and from fresh
randomness. Then whatever holds for the releases of each part together with those that touch every unit, accounted by
itself, holds for all releases together.

**Proof.** Take neighbours D, D' that differ in unit u, and let u be in part A. Write the transcript as y_1, y_2, ...
and condition on y_1 ... y_(i-1). Release i is computed from that, from fresh randomness, and from the units that it
touches. If it is marked with a part other than A, those units are the same in D and D', so the law of y_i given the
past is the same under both, and its log-likelihood ratio is 0. If not, its pair of laws is dominated by that of its
event. So the likelihood ratio of the whole transcript is that of an adaptive composition in which every release of
another part is a constant: the divergence is at most that of the events of A and of those that touch every unit (Zhu,
Dong and Wang 2022, Theorem 10, for dominating pairs; Mironov 2017, Proposition 1, for Renyi divergences). Which part u
is in does not change during the composition, so the largest of these figures bounds all of them. For a choice of the
data beforehand and disjoint queries this is McSherry 2009, Theorem 4; here later releases may depend on earlier ones.

The places of a split must not move: a row that is trained on today and only predicted tomorrow is in both parts, and
then both count. So two splits are two: a unit may be in any part of the one and any part of the other, and every
combination is a world of its own, accounted by itself. `worlds` lists them.

Where it is not fixed beforehand who is in which part (waves of a rollout are drawn anew for every version, and who
answers may depend on anything), `either` gives one event that costs no less than any of several, and the theorem needs
no more than that every unit is in one of the releases at most.

tests/unit/privacy/test_privacy_parallel.py computes both sides exactly for small mechanisms and every adversary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias, TypeGuard, TypeVar

from fedinfer.privacy.accounting.events import (
    Composed,
    Event,
    GaussianEvent,
    InPart,
    Plain,
    Single,
    SkellamEvent,
    flatten,
    place_of,
)

History: TypeAlias = tuple[tuple[Single, int], ...]
PlainHistory: TypeAlias = tuple[tuple[Plain, int], ...]
"""Pairs (event, count) in which every event touches the unit in question."""

MOST_WORLDS = 64
"""Parts of further splits are added up, as if their events touched every unit: a valid bound, and a larger one."""


def worlds(history: History) -> tuple[PlainHistory, ...]:
    """What one unit may have met, for every combination of parts that it may be in.

    Args:
        history: pairs (event, count >= 1) from `flatten`.

    Returns:
        Histories without parts, each in the order of `flatten`, no two alike; the account of all is the worst of them.
        At most MOST_WORLDS.
    """
    names = _names(history)
    chosen = (dict(zip(names, parts, strict=True)) for parts in product(*names.values()))
    found = dict.fromkeys(_seen(history, own) for own in chosen)
    return tuple(found)


def splits_of(history: History) -> frozenset[str]:
    """Names of the splits that a history speaks of.

    Args:
        history: pairs (event, count).
    """
    return frozenset(event.split for event, _ in history if isinstance(event, InPart))


def _names(history: History) -> dict[str, list[str]]:
    """Parts by split, as many splits as MOST_WORLDS allows, in the order of their names."""
    kept: dict[str, list[str]] = {}
    size = 1
    for split in sorted(splits_of(history)):
        parts = sorted({event.name for event, _ in history if isinstance(event, InPart) and event.split == split})
        if size * len(parts) > MOST_WORLDS:
            break
        kept[split], size = parts, size * len(parts)
    return kept


def _seen(history: History, own: dict[str, str]) -> PlainHistory:
    counts: dict[Plain, int] = {}
    for event, count in history:
        plain = event.event if isinstance(event, InPart) else event
        if isinstance(event, InPart) and own.get(event.split, event.name) != event.name:
            continue
        counts[plain] = counts.get(plain, 0) + count  # type: ignore[index,arg-type]  # `flatten` leaves plain events
    return tuple(sorted(counts.items(), key=lambda pair: place_of(pair[0])))


def either(events: Sequence[Event]) -> Event:
    """One event for several releases of which every unit is touched by one at most, whoever chooses which one.

    Its bounds are no smaller than those of any of the events. Gaussian noise: the smallest noise multiplier. Integer
    noise of one law: with m the largest norm over the standard deviation, Renyi bounds and the exchange for Gaussian
    noise depend on m, on the L1 norm over the variance, and fall with the variance; so the smallest variance with the
    largest of both ratios. Coordinates are added up, so that it also covers a group of units spread over the releases.
    Anything else is added up as if every unit were touched by all: a valid bound, and a larger one.

    Args:
        events: at least one.
    """
    if len(events) == 1:
        return events[0]
    flat = [flatten([event]) for event in events]
    singles = [history[0][0] for history in flat if len(history) == 1 and history[0][1] == 1]
    if len(singles) == len(flat):
        if _all(singles, GaussianEvent):
            return min(singles, key=lambda event: event.noise_multiplier)
        if _all(singles, SkellamEvent):
            return _either_skellam(singles)
    return Composed(tuple(events))


_Kind = TypeVar("_Kind", GaussianEvent, SkellamEvent)


def _all(events: list[Any], kind: type[_Kind]) -> TypeGuard[list[_Kind]]:
    return all(isinstance(event, kind) for event in events)


_UP = 1 + 2.0**-50
"""Products and quotients of doubles may come out too small by a few units in the last place."""


def _either_skellam(events: Sequence[SkellamEvent]) -> SkellamEvent:
    variance = min(event.variance for event in events)
    ratio = max(event.l2 / math.sqrt(event.variance) for event in events)
    known = all(event.dimension for event in events)
    return SkellamEvent(
        variance,
        l2=ratio * math.sqrt(variance) * _UP,
        l1=max(event.l1 / event.variance for event in events) * variance * _UP,
        dimension=sum(event.dimension for event in events) if known else 0,
    )
