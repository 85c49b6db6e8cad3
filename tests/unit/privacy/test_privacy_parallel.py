"""Disjoint parts cost the worst of them: against every adversary of small mechanisms, and what must not be assumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.events import (
    Composed,
    DiscreteGaussianEvent,
    GaussianEvent,
    InPart,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    event_from_json,
    event_to_json,
    flatten,
)
from fedinfer.privacy.accounting.group import group_epsilon, with_missing_shares
from fedinfer.privacy.accounting.parallel import MOST_WORLDS, either, worlds
from fedinfer.privacy.accounting.rdp import event_curve
from fedinfer.privacy.accounting.skellam_as_gaussian import distance
from fedinfer.types import Relation

ZO, DELTA = Relation.ZERO_OUT, 1e-5
TRAIN, WATCH = GaussianEvent(3.0), GaussianEvent(5.0)

Laws = tuple[tuple[float, ...], tuple[float, ...]]
"""Probabilities of the outcomes of one release, for both neighbours."""
RELEASES: dict[str, Laws] = {
    "trained": ((0.7, 0.2, 0.1), (0.4, 0.3, 0.3)),
    "watched": ((0.5, 0.25, 0.25), (0.2, 0.3, 0.5)),
    "both": ((0.55, 0.45), (0.45, 0.55)),
}
TOUCHES = {"trained": "A", "watched": "B", "both": "AB"}


def divergence(growth: float, touched: Callable[[str], bool], left: frozenset[str], ratio: float = 1.0) -> float:
    """Largest P(E) - growth Q(E) of any adversary who runs each release once, in an order that follows the outcomes.

    Conditioned on the past the likelihoods stand as 1 and 1/ratio; a release that the unit is not in has equal laws.
    """
    if not left:
        return max(1.0 - growth / ratio, 0.0)
    best = 0.0
    for name in left:
        p, q = RELEASES[name]
        q = q if touched(name) else p
        best = max(
            best,
            math.fsum(a * divergence(growth, touched, left - {name}, ratio * a / b) for a, b in zip(p, q, strict=True)),
        )
    return best


@cache
def composed(growth: float, names: frozenset[str]) -> float:
    """P(E) - growth Q(E) of the releases together, without any adversary."""
    total = 0.0
    for outcomes in product(*(range(len(RELEASES[name][0])) for name in sorted(names))):
        pairs = [(RELEASES[n][0][i], RELEASES[n][1][i]) for n, i in zip(sorted(names), outcomes, strict=True)]
        total += max(math.prod(p for p, _ in pairs) - growth * math.prod(q for _, q in pairs), 0.0)
    return total


@pytest.mark.parametrize("growth", [0.5, 1.0, 1.3, 2.0, 4.0])
def test_no_adversary_gets_more_than_the_worst_part(growth: float) -> None:
    everything = frozenset(RELEASES)
    bound = max(composed(growth, frozenset({"trained", "both"})), composed(growth, frozenset({"watched", "both"})))
    for part in "AB":
        found = divergence(growth, lambda name, part=part: part in TOUCHES[name], everything)  # type: ignore[misc]
        assert found <= bound + 1e-12
    assert composed(growth, everything) > bound, "adding up is more: there is something to gain"


def test_a_unit_that_changes_its_part_pays_for_both() -> None:
    """Why the places of rows may not move: a row in both parts exceeds what each part alone would cost."""
    both = divergence(1.3, lambda name: True, frozenset(RELEASES))
    assert both == pytest.approx(composed(1.3, frozenset(RELEASES)))
    assert both > max(composed(1.3, frozenset({"trained", "both"})), composed(1.3, frozenset({"watched", "both"})))


def of(*events: object) -> float:
    return account(list(events), DELTA, ZO).epsilon  # type: ignore[arg-type]


def test_parts_of_one_split_cost_the_worst_and_what_touches_all_counts_in_each() -> None:
    trained, watched = InPart("s", "a", Repeated(TRAIN, 3)), InPart("s", "b", WATCH)
    assert of(trained, watched) == of(Repeated(TRAIN, 3))
    assert of(watched, TRAIN) == of(WATCH, TRAIN)
    assert of(trained, watched, WATCH) == pytest.approx(of(Repeated(TRAIN, 3), WATCH))
    assert rdp_epsilon([trained, watched], DELTA, ZO) == rdp_epsilon([Repeated(TRAIN, 3)], DELTA, ZO)


def test_the_same_names_in_another_split_are_other_parts() -> None:
    """Two tasks hold out other rows: a row may be trained on in the one and watched in the other."""
    first = [InPart("task 1", "training", TRAIN), InPart("task 1", "windows", WATCH)]
    second = [InPart("task 2", "training", TRAIN), InPart("task 2", "windows", WATCH)]
    assert of(*first, *second) == pytest.approx(of(TRAIN, TRAIN))
    moved = [InPart("task 1", "training", TRAIN), InPart("task 2", "windows", TRAIN)]
    assert of(*moved) == pytest.approx(of(TRAIN, TRAIN)), "and it may be in both"
    assert len(worlds(flatten([*first, *second]))) == 3


def test_more_splits_than_can_be_tried_are_added_up() -> None:
    events = [InPart(f"task {i}", name, GaussianEvent(10.0 + 2 * i + (name == "b"))) for i in range(9) for name in "ab"]
    found = worlds(flatten(events))
    assert len(found) == MOST_WORLDS
    assert all(len(world) == 6 + 2 * 3 for world in found), "six splits are told apart, three are added up"
    assert of(*events) <= of(*(event.event for event in events))


def test_a_part_is_written_and_read_and_holds_no_other_part() -> None:
    part = InPart("s", "a", Repeated(PoissonSampled(0.5, TRAIN), 4))
    assert event_from_json(event_to_json(part)) == part
    assert flatten([Composed((part, part))]) == ((InPart("s", "a", PoissonSampled(0.5, TRAIN)), 8),)
    with pytest.raises(ConfigError, match="inside part"):
        flatten([InPart("s", "a", InPart("t", "b", TRAIN))])
    with pytest.raises(ConfigError, match="names"):
        InPart("", "a", TRAIN)


def test_a_release_without_noise_counts_in_its_part() -> None:
    assert of(InPart("s", "a", NonPrivate()), InPart("s", "b", TRAIN)) == math.inf


def test_a_group_may_be_spread_over_the_parts() -> None:
    """Gaussian noise: j rows here and k - j there move the sums by (j a, (k - j) b); all in one part is the worst."""
    parts = [InPart("s", "a", TRAIN), InPart("s", "b", WATCH)]
    assert group_epsilon(parts, DELTA, 4) == pytest.approx(group_epsilon([TRAIN], DELTA, 4), rel=1e-9)
    sampled = [
        InPart("s", "a", Repeated(PoissonSampled(0.05, GaussianEvent(1.0)), 4)),
        InPart("s", "b", GaussianEvent(2.5)),
    ]
    apart = max(group_epsilon([event], DELTA, 3) for event in sampled)
    everywhere = group_epsilon([event.event for event in sampled], DELTA, 3)
    assert apart <= group_epsilon(sampled, DELTA, 3) <= everywhere


def test_missing_shares_are_missing_in_every_part() -> None:
    noise = SkellamEvent(1e6, 100.0, 1000.0, 8)
    assert with_missing_shares([InPart("s", "a", noise)], 2, 1) == (
        InPart("s", "a", SkellamEvent(5e5, 100.0, 1000.0, 8)),
    )


SKELLAM = st.builds(
    SkellamEvent, st.floats(1e4, 1e9), l2=st.floats(1.0, 1e3), l1=st.floats(1.0, 1e4), dimension=st.integers(1, 100)
)


@given(st.lists(SKELLAM, min_size=2, max_size=4))
def test_either_costs_no_less_than_any(events: list[SkellamEvent]) -> None:
    dearest = either(events)
    assert isinstance(dearest, SkellamEvent)
    for event in events:
        assert np.all(event_curve(dearest, ZO) >= event_curve(event, ZO))
        assert dearest.l2**2 / dearest.variance >= event.l2**2 / event.variance
        assert distance([(dearest.variance, dearest.dimension)], -20.0) >= distance(
            [(event.variance, event.dimension)], -20.0
        )


def test_either_of_other_kinds() -> None:
    assert either([GaussianEvent(2.0), GaussianEvent(3.0)]) == GaussianEvent(2.0)
    mixed = (DiscreteGaussianEvent(9.0, 4, 1.0, 1.0, 8), GaussianEvent(3.0))
    assert either(mixed) == Composed(mixed), "what cannot be compared is added up"
    assert either([NonPrivate()]) == NonPrivate()
