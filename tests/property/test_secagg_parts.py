"""Properties of the parts: packing, sharing, error correction, graphs, masks, groups."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.errors import BadMessage
from fedinfer.secagg import check_session, choose_graph, shamir
from fedinfer.secagg.graph import draw_holders, from_bitmap, relations, to_bitmap
from fedinfer.secagg.groups import random_groups
from fedinfer.secagg.hypergeometric import corrupt_among, share_of
from fedinfer.secagg.masks import add_masks, ring_dtype
from fedinfer.secagg.packing import pack, packed_size, unpack
from fedinfer.system import SimulatedEntropy
from tests.protocol.secagg_play import make_session

QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(st.integers(1, 32), st.integers(1, 500), st.integers(0, 2**32))
def test_packing_is_lossless_and_small(bits, dimension, seed):
    vector = np.random.default_rng(seed).integers(0, 1 << bits, dimension, dtype=np.uint32)
    data = pack(vector.astype(ring_dtype(bits)), bits)
    assert len(data) == packed_size(bits, dimension) <= dimension * bits / 8 + bits
    np.testing.assert_array_equal(unpack(data, bits, dimension), vector)


@st.composite
def sharings(draw):
    holders = draw(st.integers(2, 40))
    threshold = draw(st.integers(2, holders))
    points = draw(st.lists(st.integers(1, 65535), min_size=holders, max_size=holders, unique=True))
    return (
        draw(st.binary(min_size=32, max_size=32)),
        np.array(points),
        threshold,
        draw(st.binary(min_size=32, max_size=32)),
    )


@QUICK
@given(sharings(), st.randoms(use_true_random=False))
def test_any_threshold_shares_rebuild_the_secret(sharing, random):
    secret, points, threshold, seed = sharing
    shares = shamir.share(secret, points, threshold, seed)
    assert 0 <= shares.min()
    assert shares.max() < shamir.PRIME
    chosen = random.sample(range(len(points)), threshold)
    assert shamir.combine(shares[chosen], points[chosen]) == secret
    np.testing.assert_array_equal(shamir.unpack(shamir.pack(shares)), shares)


@QUICK
@given(sharings(), st.binary(min_size=32, max_size=32))
def test_fewer_shares_fit_every_secret(sharing, other):
    """With threshold - 1 shares known, each other secret has a last share that completes it: they say nothing."""
    secret, points, threshold, seed = sharing
    shares = shamir.share(secret, points, threshold, seed)[:threshold]
    known, weights = shares[:-1], shamir._weights(tuple(points[:threshold].tolist())).astype(np.int64)
    wanted = np.frombuffer(other, "<u2").astype(np.int64)
    rest = (wanted - weights[:-1] @ known) % shamir.PRIME
    last = rest * pow(int(weights[-1]), -1, shamir.PRIME) % shamir.PRIME
    assert shamir.combine(np.vstack([known, last]), points[:threshold]) == other


@settings(max_examples=25, deadline=None)
@given(sharings(), st.data())
def test_wrong_shares_are_found_up_to_half_of_the_surplus(sharing, data):
    secret, points, threshold, seed = sharing
    shares = shamir.share(secret, points, threshold, seed)
    most = (len(points) - threshold) // 2
    wrong = data.draw(st.lists(st.integers(0, len(points) - 1), max_size=most, unique=True))
    for at in wrong:
        limb = data.draw(st.integers(0, 15))
        shares[at, limb] = (shares[at, limb] + data.draw(st.integers(1, 65536))) % shamir.PRIME
    good = shamir.correct(shares, points, threshold)
    assert good is not None
    assert set(np.flatnonzero(~good).tolist()) == set(wrong)
    assert shamir.combine(shares[good][:threshold], points[good][:threshold]) == secret


@QUICK
@given(st.integers(2, 60), st.binary(min_size=32, max_size=32), st.data())
def test_holders_are_drawn_in_the_promised_number_and_read_alike_from_both_sides(n, seed, data):
    degree = data.draw(st.integers(1, n - 1))
    members = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=2)))
    choices = {j: draw_holders(j, n, degree, bytes([j]) + seed[1:]) for j in members}
    graph = relations(choices, n, degree)
    for j in members:
        drawn = set(from_bitmap(choices[j], n).tolist()) if degree < n - 1 else set(range(n)) - {j}
        assert len(drawn) == degree
        assert j not in drawn
        assert graph.holders(j).tolist() == sorted(drawn & set(members))
        assert graph.partners(j).tolist() == sorted({*graph.holders(j).tolist(), *graph.dealers(j).tolist()})
        assert all(j in graph.holders(int(dealer)) for dealer in graph.dealers(j))
        assert all(j in graph.partners(int(other)) for other in graph.partners(j))


@QUICK
@given(st.integers(3, 60), st.data())
def test_choices_that_are_not_the_promised_number_of_others_are_refused(n, data):
    degree = data.draw(st.integers(1, n - 2))
    chosen = data.draw(st.sets(st.integers(0, n - 1)))
    bitmap = to_bitmap(np.array(sorted(chosen), np.int64), n)
    if len(chosen) == degree and 0 not in chosen:
        relations({0: bitmap}, n, degree)
        return
    with pytest.raises(BadMessage):
        relations({0: bitmap}, n, degree)


def test_each_subset_of_holders_is_drawn_equally_often():
    """Chi-square over the 10 subsets of 2 of 5 others, 4,000 draws: within 6 standard deviations of its mean."""
    counts = Counter(draw_holders(2, 6, 2, SimulatedEntropy("draw", i).take(32)) for i in range(4_000))
    assert len(counts) == 10
    statistic = sum((count - 400) ** 2 / 400 for count in counts.values())
    assert abs(statistic - 9) < 6 * np.sqrt(2 * 9)


@QUICK
@given(st.sets(st.integers(0, 77)), st.integers(78, 99))
def test_bitmaps_round_trip(chosen, size):
    positions = np.array(sorted(chosen), np.int64)
    np.testing.assert_array_equal(from_bitmap(to_bitmap(positions, size), size), positions)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([np.uint16, np.uint32]), st.sampled_from([1, 7, 65_536, 131_073, 200_001]), st.integers(0, 300))
def test_masks_cancel(dtype, dimension, count):
    rng = np.random.default_rng(count)
    vector = rng.integers(0, np.iinfo(dtype).max, dimension, dtype=dtype, endpoint=True)
    seeds = [rng.bytes(32) for _ in range(min(count, 300 if dimension < 1000 else 3))]
    masked = vector.copy()
    add_masks(masked, seeds, [])
    if seeds and dimension > 100:
        assert (masked != vector).mean() > 0.9
    add_masks(masked, [], seeds[::-1])
    np.testing.assert_array_equal(masked, vector)


@settings(max_examples=25, deadline=None)
@given(st.integers(21, 400), st.sampled_from([0.0, 0.05, 0.1, 0.2]), st.sampled_from([0.0, 0.05, 0.1, 0.2]))
def test_chosen_graphs_pass_the_check_of_an_owner_with_the_same_rates(n, dropout, corruption):
    graph = choose_graph(n, dropout, corruption)
    least = n - share_of(n, dropout)
    session = make_session(n, degree=graph.degree, threshold=graph.threshold, min_survivors=least)
    check_session(session, 2, dropout, corruption)
    assert 2 * session.quorum > n + corrupt_among(n, corruption)
    assert graph.degree == n - 1 or graph.degree < (n - 1) / 2


@QUICK
@given(st.integers(1, 1700), st.integers(1, 12), st.binary(max_size=8))
def test_groups_are_a_partition_into_equal_sizes(count, wanted, seed):
    devices = [f"d{i}" for i in range(count)]
    groups = random_groups(devices, min(wanted, count), seed)
    assert sorted(name for group in groups for name in group) == sorted(devices)
    assert all(list(group) == sorted(group) for group in groups)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert random_groups(devices[::-1], len(groups), seed) == groups


@pytest.mark.parametrize("groups", [3, 20])
def test_groups_follow_the_seed(groups):
    devices = [f"d{i}" for i in range(100)]
    assert random_groups(devices, groups, b"1") != random_groups(devices, groups, b"2")
