"""[data] time: the latest rows are held out and met in their order, on a device as in a simulation."""

from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import Scenario, load_scenario
from fedinfer.data import (
    ColumnRole,
    DeviceData,
    collected,
    load,
    load_own,
    propose,
    public_schema,
    stream_window,
    upcoming,
)
from fedinfer.data.order import moments
from fedinfer.errors import DataError

ROWS = 60
SCENARIO = """
[data]
source = "csv"
path = "t.csv"
label = "y"
labels = ["0", "1"]
device = "site"
time = "when"
[data.ranges]
x = [0, 100]
"""


def scenario_of(tmp_path: Path, order: np.ndarray, site: str = "") -> Scenario:
    """Row i happened on day i and has x = i; the file has them in `order`."""
    lines = [f"{i},2024-{1 + i // 28:02d}-{1 + i % 28:02d}T10:00:00Z,{site or f's{i % 2}'},{i * 7 % 2}" for i in order]
    (tmp_path / "t.csv").write_text("x,when,site,y\n" + "\n".join(lines) + "\n")
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    return load_scenario(str(tmp_path))


def test_the_latest_rows_of_each_device_are_held_out_in_order(tmp_path: Path) -> None:
    federation = load(scenario_of(tmp_path, np.random.default_rng(1).permutation(ROWS)))
    for start, device in enumerate(("s0", "s1")):
        data = federation.devices[device]
        assert data.train_x[:, 0].tolist() == list(range(start, 42, 2))
        assert data.test_x[:, 0].tolist() == list(range(42 + start, ROWS, 2))
    assert [column.name for column in federation.schema.columns] == ["x"]


def test_windows_come_in_the_order_of_time(tmp_path: Path) -> None:
    data = load(scenario_of(tmp_path, np.arange(ROWS))).devices["s0"]
    met = np.concatenate([stream_window(data, window, 3, seed=1)[0][:, 0] for window in (1, 2, 3)])
    assert met.tolist() == data.test_x[:, 0].tolist()
    assert stream_window(data, 4, 3, seed=1)[0][:, 0].tolist() == data.test_x[:3, 0].tolist()


def test_a_device_learns_from_the_newest_rows_and_is_judged_by_the_next(tmp_path: Path) -> None:
    data = load(scenario_of(tmp_path, np.arange(ROWS))).devices["s0"]  # even days: 21 to train with, 9 held out
    everything = np.concatenate([data.train_x, data.test_x])[:, 0]
    for window, met in ((0, 0), (1, 4), (2, 8), (3, 9), (9, 9)):
        x, y = collected(data, window, 4)
        assert x[:, 0].tolist() == everything[met : met + 21].tolist()
        assert y.tolist() == (x[:, 0] * 7 % 2).tolist()
    for window in range(4):
        x, y = upcoming(data, window, 4)
        assert x.tolist() == stream_window(data, window + 1, 4, seed=1)[0].tolist()
        assert y.tolist() == (x[:, 0] * 7 % 2).tolist()
    few = DeviceData(data.train_x[:2], data.train_y[:2], data.test_x, data.test_y, in_order=True)
    assert collected(few, 2, 4)[0][:, 0].tolist() == data.test_x[6:8, 0].tolist()


def test_a_device_holds_out_what_the_simulation_does(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path, np.arange(ROWS))
    simulated = load(scenario).devices["s0"]
    scenario_of(tmp_path, np.arange(0, ROWS, 2))
    own = load_own(scenario, public_schema(scenario), tmp_path / "t.csv", np.random.default_rng(9))
    for part in ("train_x", "train_y", "test_x", "test_y"):
        assert np.array_equal(getattr(own, part), getattr(simulated, part))
    assert own.in_order


def test_a_device_refuses_a_table_that_is_not_in_order(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path, np.r_[np.arange(10), 3, np.arange(10, 20)])
    with pytest.raises(DataError, match=r"row 12 is earlier than the row before it"):
        load_own(scenario, public_schema(scenario), tmp_path / "t.csv", np.random.default_rng(9))


@pytest.mark.parametrize(
    "cells",
    [
        ["2023-12-31", "2024-01-01", "2024-02-29"],
        ["31.12.2023", "1.1.2024", "29.2.2024"],
        ["12/31/23", "1/1/24", "2/29/24"],
        ["2024-01-01T23:00:00+02:00", "2024-01-01T22:30:00Z", "2024-01-02 00:10"],
        ["9:05", "9:30 AM", "1:00 pm"],
        ["-3", "1.5", "1e3"],
        ["", "1", "2"],
    ],
)
def test_moments_grow_with_time(cells: list[str]) -> None:
    values = moments("t", "when", cells, ("",))
    assert values.tolist() == sorted(values.tolist())
    assert len(set(values.tolist())) == 3


@pytest.mark.parametrize("cell", ["yesterday", "2024-13-01", "31.2.2024"])
def test_what_is_no_moment_is_refused_with_its_row(cell: str) -> None:
    with pytest.raises(DataError, match="row 3"):
        moments("t", "when", ["2024-01-01", cell], ())


def test_init_proposes_the_order_of_time_but_not_of_birth(tmp_path: Path) -> None:
    scenario_of(tmp_path, np.arange(ROWS))
    roles = {g.name: g.role for g in propose(tmp_path / "t.csv", tmp_path / "p", "y", "").columns}
    assert roles["when"] is ColumnRole.TIME
    text = (tmp_path / "t.csv").read_text().replace("when", "date of birth")
    (tmp_path / "t.csv").write_text(text)
    roles = {g.name: g.role for g in propose(tmp_path / "t.csv", tmp_path / "p", "y", "").columns}
    assert roles["date of birth"] is ColumnRole.NUMERIC
