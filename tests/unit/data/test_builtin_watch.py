"""Smartwatch windows: what a row is, who wears the watch, and that a foreign file is never unpickled."""

import hashlib
import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import InjectSection, load_scenario
from fedinfer.data import check_against_data, load, public_schema, watch
from fedinfer.data.drifted import places
from fedinfer.errors import ConfigError, DataError, MissingExtra
from fedinfer.schema import Numeric


def test_ten_wearers_hold_1560_windows() -> None:
    federation = load(load_scenario("watch"))
    assert sorted(federation.devices) == [f"subject-{number:02d}" for number in range(1, 11)]
    held = [len(d.train_y) + len(d.test_y) for d in federation.devices.values()]
    assert (sum(held), min(held)) == (1560, 99)
    assert federation.schema == public_schema(load_scenario("watch"))
    for data in federation.devices.values():
        assert data.train_x.shape[1] == federation.schema.width == 300
        assert data.train_x.dtype == np.float32
        assert len(np.unique(data.train_y)) == 7


def test_readings_stand_channel_by_channel_in_public_ranges() -> None:
    schema = watch.SCHEMA
    assert schema.shape == (6, 1, 50)
    assert [schema.columns[at].name for at in (0, 49, 50, 299)] == ["ax_00", "ax_49", "ay_00", "wz_49"]
    assert {(c.low, c.high) for c in schema.columns if isinstance(c, Numeric)} == {(-4.0, 4.0), (-10.0, 10.0)}
    assert schema.confirmed


def test_a_window_holds_means_of_three_samples_and_the_rest_is_left_out() -> None:
    samples = np.arange(2 * 200, dtype=np.float64).reshape(200, 2)
    rows = watch.windows(samples)
    assert rows.shape == (1, 100)
    np.testing.assert_array_equal(rows[0, :50], samples[:150, 0].reshape(50, 3).mean(1))
    np.testing.assert_array_equal(rows[0, 50:], samples[:150, 1].reshape(50, 3).mean(1))
    assert watch.windows(samples[:149]).shape == (0, 100)


def test_the_same_seed_gives_the_same_rows() -> None:
    first, again, other = (load(load_scenario("watch", [f"scenario.seed={seed}"])) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test[0], again.test[0])
    assert not np.array_equal(first.test[0], other.test[0])


def test_series_drift_within_their_ranges_and_cannot_be_rotated() -> None:
    changed, low, high = places(watch.SCHEMA, InjectSection(kind="shift"))
    assert changed.all()
    assert (low[0], high[0], low[299], high[299]) == (-4.0, 4.0, -10.0, 10.0)
    scenario = load_scenario("watch", ["drift.inject.kind=rotate"])
    with pytest.raises(ConfigError, match="no images"):
        check_against_data(scenario, load(scenario))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="watch needs the package seglearn") as caught:
        load(load_scenario("watch"))
    assert caught.value.hint == "pip install 'fedinfer[data]'"


def test_seglearn_itself_is_not_imported() -> None:
    load(load_scenario("watch"))
    assert "seglearn" not in sys.modules


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def npy(value: object) -> bytes:
    """An .npy file of one object, with a pickle of our making."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + pickle.dumps(value)


def test_another_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "watch_dataset.npy"
    path.write_bytes(npy({"X": Bomb()}))
    monkeypatch.setattr(watch, "_file", lambda: path)
    with pytest.raises(DataError, match="SHA-256"):
        watch.watch_table()
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        watch.watch_table()


def test_even_a_file_with_the_right_hash_can_build_nothing_but_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "watch_dataset.npy"
    path.write_bytes(npy({"X": Bomb()}))
    monkeypatch.setattr(watch, "_file", lambda: path)
    monkeypatch.setattr(watch, "FILE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"asks for posix\.system"):
        watch.watch_table()
