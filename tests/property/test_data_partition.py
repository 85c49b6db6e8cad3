"""Whatever the labels and numbers of devices: no row is lost, none is held twice, nobody is empty."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedinfer.config import PartitionSection
from fedinfer.data.columns import device_ids, round_outwards
from fedinfer.data.partition import by_column, group_at_random, split_held_out, stratified_take

labels = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(lambda y: np.array(y, dtype=np.int64))
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)  # other work may share the machine
@given(labels, st.data(), seeds)
def test_a_stratified_choice_has_the_wanted_size_and_mix(y: np.ndarray, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, len(y)))
    chosen = stratified_take(y, count, np.random.default_rng(seed))
    assert int(chosen.sum()) == count
    for label in np.unique(y):
        exact = np.sum(y == label) * count / len(y)
        assert abs(int(chosen[y == label].sum()) - exact) < 1


@settings(deadline=None)  # other work may share the machine
@given(labels, st.floats(0.01, 0.99), seeds)
def test_a_split_covers_all_rows_and_leaves_one_to_train(y: np.ndarray, fraction: float, seed: int) -> None:
    train, test = split_held_out(y, fraction, np.random.default_rng(seed))
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(y)))
    assert len(train) >= 1
    assert len(test) >= (1 if len(y) > 1 else 0)


@settings(deadline=None)  # other work may share the machine
@given(labels, st.sampled_from(["iid", "dirichlet", "shards"]), st.floats(0.01, 100), st.data(), seeds)
def test_dealing_covers_all_rows_and_nobody_is_empty(
    y: np.ndarray, scheme: str, alpha: float, data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(1, len(y)))
    section = PartitionSection(devices=count, scheme=scheme, alpha=alpha)
    dealt = group_at_random(y, section, np.random.default_rng(seed))
    assert len(dealt) == count
    assert list(dealt) == sorted(dealt)
    assert sorted(np.concatenate(list(dealt.values())).tolist()) == list(range(len(y)))
    sizes = [len(rows) for rows in dealt.values()]
    assert min(sizes) >= 1
    if scheme != "shards":
        assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)  # other work may share the machine
@given(labels, st.sampled_from(["iid", "dirichlet", "shards"]), seeds)
def test_dealing_follows_from_the_seed(y: np.ndarray, scheme: str, seed: int) -> None:
    section = PartitionSection(devices=min(5, len(y)), scheme=scheme)
    first, again = (group_at_random(y, section, np.random.default_rng(seed)) for _ in range(2))
    for device in first:
        np.testing.assert_array_equal(first[device], again[device])


@settings(deadline=None)  # other work may share the machine
@given(st.lists(st.sampled_from(["b", "a", "ä", "zz", "B"]), min_size=1, max_size=100))
def test_a_device_column_gives_every_row_to_its_holder(names: list[str]) -> None:
    held = by_column(names)
    assert list(held) == sorted(set(names))
    for device, rows in held.items():
        assert {names[row] for row in rows} == {device}
    assert sum(map(len, held.values())) == len(names)


@settings(deadline=None)  # other work may share the machine
@given(st.sets(st.text(min_size=1, max_size=100), min_size=1, max_size=30))
def test_device_ids_are_safe_short_and_all_different(names: set[str]) -> None:
    ids = device_ids(sorted(names))
    assert set(ids) == names
    assert len(set(ids.values())) == len(names)
    for device in ids.values():
        assert 1 <= len(device) <= 64
        assert device.isascii()
        assert not set(device) & set("/\\ :\0")
        assert not device.startswith(".")


@settings(deadline=None)  # other work may share the machine
@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
@example(5e-324, -100.0)
@example(0.0, 5e-324)
def test_a_rounded_range_holds_the_data_and_is_not_much_wider(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found_low, found_high = round_outwards(low, high)
    assert found_low < found_high
    assert found_low <= low
    assert high <= found_high
    if high - low > 1e-6 * max(abs(low), abs(high)):
        assert found_high - found_low <= 1.21 * (high - low)
