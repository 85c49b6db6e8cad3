"""Among how many a device hides: groups of a cohort, and what each of them can count on."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from fedinfer.config import SecureAggregationSection
from fedinfer.coordinator.plan.cohort import aggregation_cohort, check_corrupt, graph_of, group_warnings
from fedinfer.errors import ConfigError, Misbehaviour, TooFewSurvivors
from fedinfer.messages import ONE_GROUP, Split
from fedinfer.secagg.groups import check_group, most_corrupt, random_groups, rate_of
from fedinfer.secagg.hypergeometric import corrupt_among
from fedinfer.secagg.parameters import Session, check_session


def section(**changes: object) -> SecureAggregationSection:
    return SecureAggregationSection(**changes)  # type: ignore[arg-type]  # keys vary by test


@pytest.mark.parametrize(
    ("cohort", "group_size", "groups", "largest"),
    [(500, 0, 1, 500), (501, 0, 2, 251), (1000, 0, 2, 500), (2972, 0, 6, 496), (600, 200, 3, 200), (601, 200, 4, 151),
     (2972, 5000, 1, 2972)],
)  # fmt: skip
def test_a_cohort_is_dealt_to_the_fewest_groups_that_fit(
    cohort: int, group_size: int, groups: int, largest: int
) -> None:
    aggregation = aggregation_cohort(section(group_size=group_size), cohort)
    assert (aggregation.groups, aggregation.largest) == (groups, largest)


def test_one_group_counts_as_before() -> None:
    aggregation = aggregation_cohort(section(dropout_rate=0.1, corruption_rate=0.1), 100)
    assert (aggregation.min_survivors, aggregation.corrupt, aggregation.contributors) == (90, 10, 80)


def test_noise_counts_on_one_group_not_on_the_cohort() -> None:
    aggregation = aggregation_cohort(section(group_size=200, dropout_rate=0.1, corruption_rate=0.1), 600)
    assert aggregation.min_survivors == 180
    assert aggregation.corrupt > 20, "a random group has more than its tenth about every second time"
    assert aggregation.contributors == 180 - aggregation.corrupt


def tail(devices: int, corrupt: int, size: int, more_than: int) -> Fraction:
    """Pr[a random group holds more than so many corrupt devices], exactly."""
    ways = sum(
        math.comb(corrupt, k) * math.comb(devices - corrupt, size - k)
        for k in range(more_than + 1, min(corrupt, size) + 1)
    )
    return Fraction(ways, math.comb(devices, size))


@pytest.mark.parametrize(
    ("devices", "corrupt", "size", "groups"),
    [(600, 60, 200, 3), (1001, 100, 251, 4), (60, 6, 12, 5), (9000, 450, 500, 18)],
)  # fmt: skip
def test_the_bound_on_corrupt_devices_is_the_least_that_holds(
    devices: int, corrupt: int, size: int, groups: int
) -> None:
    bound = most_corrupt(devices, corrupt, size, groups)
    chance = Fraction(1, 2**80 * groups)
    assert tail(devices, corrupt, size, bound) <= chance
    assert tail(devices, corrupt, size, bound - 1) > chance


def test_nobody_corrupt_means_nobody_in_any_group() -> None:
    assert most_corrupt(600, 0, 200, 3) == 0


@effort(max_examples=40, deadline=None)
@given(cohort=st.integers(4, 1500), group_size=st.integers(50, 500), rate=st.sampled_from([0.0, 0.05, 0.1]))
def test_every_group_can_keep_the_common_promise(cohort: int, group_size: int, rate: float) -> None:
    """One number of survivors and shares is promised for all groups; each size has a session that fits it."""
    asked = section(group_size=group_size, corruption_rate=rate, dropout_rate=0.1)
    try:
        aggregation = aggregation_cohort(asked, cohort)
    except ConfigError:
        return
    assert 1 <= aggregation.contributors <= aggregation.min_survivors - aggregation.corrupt
    for size in {aggregation.largest, cohort // aggregation.groups}:
        graph = graph_of(asked, size, aggregation.groups, aggregation.corrupt, aggregation.min_survivors)
        names = tuple(f"d{i:04d}" for i in range(size))
        session = Session(
            "r",
            "1",
            "train",
            b"h" * 32,
            names,
            graph.degree,
            graph.threshold,
            aggregation.min_survivors,
            16,
            8,
            b"m" * 32,
        )
        unlucky = rate if aggregation.groups == 1 else rate_of(aggregation.corrupt, size)
        check_session(session, aggregation.min_survivors, 0.1, unlucky)


def test_groups_too_small_for_their_corrupt_devices_are_refused_with_numbers() -> None:
    with pytest.raises(ConfigError, match="no safe graph for 12 devices"):
        aggregation_cohort(section(group_size=12, corruption_rate=0.3), 60)


def test_nobody_to_hide_among_is_refused() -> None:
    with pytest.raises(ConfigError, match="a cohort of 1"):
        aggregation_cohort(section(), 1)
    with pytest.raises(ConfigError, match="3 devices in 3 groups"):
        aggregation_cohort(section(group_size=1), 3)


def test_small_groups_come_with_a_warning() -> None:
    small = aggregation_cohort(section(group_size=20, corruption_rate=0.0), 100)
    (warning,) = group_warnings(small)
    assert "5 groups of 20 devices" in warning
    assert "2.2 times noisier" in warning
    assert group_warnings(aggregation_cohort(section(group_size=200), 600)) == ()
    assert group_warnings(aggregation_cohort(section(), 12)) == ()


def test_a_deal_that_could_gather_more_corrupt_devices_than_planned_is_refused() -> None:
    asked = section(group_size=200)
    aggregation = aggregation_cohort(asked, 600)
    check_corrupt(asked, 600, 3, aggregation.corrupt)
    check_corrupt(asked, 400, 2, aggregation.corrupt)
    with pytest.raises(TooFewSurvivors, match="may be corrupt, planned for"):
        check_corrupt(asked, 600, 3, aggregation.corrupt - 1)


EVERYONE = tuple(f"d{i:02d}" for i in range(20))
SPLIT = Split(3, b"s" * 32, EVERYONE)


def test_devices_accept_the_groups_that_the_seed_gives_and_no_other() -> None:
    groups = random_groups(EVERYONE, 3, SPLIT.seed)
    for group in groups:
        check_group(group, SPLIT)
    check_group(("a", "b"), ONE_GROUP)
    picked = tuple(sorted((*groups[0][1:], groups[1][0])))
    for cohort, split in [
        (picked, SPLIT),
        (groups[0], replace(SPLIT, seed=b"t" * 32)),
        (groups[0], replace(SPLIT, groups=4)),
        (groups[0], replace(SPLIT, everyone=EVERYONE[1:])),
        (groups[0], replace(SPLIT, groups=1)),
        (EVERYONE, SPLIT),
    ]:
        with pytest.raises(Misbehaviour, match="none of the"):
            check_group(cohort, split)


@pytest.mark.parametrize(
    "split", [Split(0, b"", EVERYONE), Split(21, b"", EVERYONE), Split(2, b"", ("a", "a")), Split(2, b"", ())]
)
def test_a_split_that_contradicts_itself_is_refused(split: Split) -> None:
    with pytest.raises(Misbehaviour, match="a split that cannot be"):
        check_group(EVERYONE, split)


@pytest.mark.parametrize(
    ("rate", "cohort", "corrupt"), [(0.29, 100, 29), (0.35, 180, 63), (0.1, 100, 10), (0.3, 9, 3), (0.1, 4, 1)]
)
def test_server_and_device_count_the_same_corrupt_devices(rate, cohort, corrupt):
    """0.29 * 100 is below 29 in binary, a part of a device counts as one: one fewer is a share of noise too many."""
    assert aggregation_cohort(section(corruption_rate=rate, dropout_rate=0.0), cohort).corrupt == corrupt
    assert corrupt_among(cohort, rate) == corrupt
