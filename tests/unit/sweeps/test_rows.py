"""Whose rows a sweep trains on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedinfer.config import load_scenario
from fedinfer.data import Federation, load
from fedinfer.errors import ConfigError
from fedinfer.sweeps import rows_of
from fedinfer.sweeps.rows import public_federation, selection_federation, synthetic_federation


@pytest.fixture(scope="module")
def federation() -> Federation:
    return load(load_scenario("heart", ["data.public_fraction=0.3"]))


def rows_in(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


def sizes(federation: Federation) -> list[tuple[int, int]]:
    return [(len(data.train_y), len(data.test_y)) for data in federation.devices.values()]


def test_public_rows_stand_for_private_ones_and_none_is_trained_and_judged(federation: Federation) -> None:
    found = public_federation(federation, 0.34, np.random.default_rng(1))
    assert sizes(found) == sizes(federation)
    public = rows_in(federation.public[0])
    trained = set.union(*(rows_in(data.train_x) for data in found.devices.values()))
    judged = set.union(*(rows_in(data.test_x) for data in found.devices.values()))
    assert trained | judged <= public
    assert not trained & judged
    assert not rows_in(found.public[0]) & judged  # pre-training does not see them either
    assert rows_in(found.test[0]) == judged


def test_made_rows_follow_the_schema_and_nothing_else(federation: Federation) -> None:
    found = synthetic_federation(federation, np.random.default_rng(1))
    assert sizes(found) == sizes(federation)
    x, y = found.test
    for place, column in enumerate(federation.schema.columns):
        low, high = (0, len(column.categories) - 1) if hasattr(column, "categories") else (column.low, column.high)
        assert x[:, place].min() >= low
        assert x[:, place].max() <= high
    assert set(np.unique(y)) == {0, 1}
    turned = {
        name: replace(data, train_x=-data.train_x, test_x=-data.test_x) for name, data in federation.devices.items()
    }
    other = replace(federation, devices=turned)
    again = synthetic_federation(other, np.random.default_rng(1))
    assert np.array_equal(again.test[0], x)


def test_made_numbers_lie_in_the_range_of_the_label() -> None:
    found = synthetic_federation(load(load_scenario("deliveries")), np.random.default_rng(1))
    low, high = found.schema.label_range or (0, 0)
    assert low <= found.test[1].min() < found.test[1].max() <= high


def test_selection_judges_by_public_rows_and_trains_on_the_devices(federation: Federation) -> None:
    found = selection_federation(federation, np.random.default_rng(1))
    assert sizes(found) == sizes(federation)
    assert rows_in(found.test[0]) <= rows_in(federation.public[0])
    for name, data in found.devices.items():
        assert np.array_equal(data.train_x, federation.devices[name].train_x, equal_nan=True)


def test_rows_that_are_not_there_are_refused(federation: Federation) -> None:
    few = load(load_scenario("heart"))
    with pytest.raises(ConfigError, match="0 public rows"):
        public_federation(few, 0.3, np.random.default_rng(1))
    with pytest.raises(ConfigError, match="rows 'all'"):
        rows_of("all")
    with pytest.raises(ConfigError, match="images or texts"):
        synthetic_federation(load(load_scenario("digits")), np.random.default_rng(1))
