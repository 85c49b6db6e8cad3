"""Properties of the parts: packing, sharing, error correction, graphs, masks, groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.secagg import choose_graph, shamir
from fedinfer.secagg.graph import from_bitmap, neighbour_table, own_neighbours, to_bitmap
from fedinfer.secagg.groups import random_groups
from fedinfer.secagg.masks import add_masks, ring_dtype
from fedinfer.secagg.packing import pack, packed_size, unpack

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
@given(st.integers(2, 60), st.integers(1, 30), st.binary(min_size=32, max_size=32), st.data())
def test_graphs_are_symmetric_and_of_the_promised_degree(n, half, key_list, data):
    members = np.array(sorted(data.draw(st.sets(st.integers(0, 99), min_size=n, max_size=n))))
    degree = 2 * half
    table = neighbour_table(members, degree, key_list)
    assert set(table) == set(members.tolist())
    for member, near in table.items():
        assert near.size == min(degree, n - 1)
        assert member not in near
        assert (np.diff(near) > 0).all()
        assert all(member in table[int(other)] for other in near)
        np.testing.assert_array_equal(own_neighbours(member, members, degree, key_list), near)


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


@QUICK
@given(st.integers(21, 400), st.sampled_from([0.0, 0.05, 0.1, 0.2]), st.sampled_from([0.0, 0.05, 0.1, 0.2]))
def test_chosen_graphs_keep_both_secrets_apart(n, dropout, corruption):
    graph = choose_graph(n, dropout, corruption, "semi_malicious")
    assert graph.degree % 2 == 0 or graph.degree == n - 1
    assert 2 * graph.threshold > graph.degree
    weaker = choose_graph(n, dropout, corruption, "semi_honest")
    assert weaker.threshold <= graph.threshold


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
