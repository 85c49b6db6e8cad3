"""Memory-mapped arrays: the same rows as were saved, read when they are needed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import Scenario, from_flat
from fedinfer.config.flat import FlatValue
from fedinfer.data import lazy_rows, load, public_schema
from fedinfer.data.arrays import arrays_table
from fedinfer.errors import ConfigError, DataError

CLASSES: dict[str, FlatValue] = {"data.labels": '["a", "b", "c"]'}
NUMBERS: dict[str, FlatValue] = {"data.label_range": "[-1.0, 1.0]"}


def saved(folder: Path, y: object, x: object = None) -> None:
    rows = np.arange(240, dtype=np.float32).reshape(60, 4) / 240 if x is None else np.asarray(x)
    np.save(folder / "x.npy", rows)
    np.save(folder / "y.npy", np.asarray(y))


def scenario(folder: Path, **others: FlatValue) -> Scenario:
    given: dict[str, FlatValue] = {
        "data.source": "arrays", "data.path": str(folder), "data.array_range": "[0.0, 1.0]",
        "data.partition.devices": 12,
    }  # fmt: skip
    return from_flat(given | (others or CLASSES))


def test_rows_are_mapped_and_shared_out(tmp_path: Path) -> None:
    saved(tmp_path, np.arange(60) % 3)
    _, table, _ = arrays_table(scenario(tmp_path))
    assert isinstance(table.x, np.memmap)
    rows = lazy_rows(scenario(tmp_path))
    found = np.concatenate([rows.held.rows(device, 0.0)[0] for device in range(12)])
    assert sorted(found[:, 0]) == sorted(np.load(tmp_path / "x.npy")[:, 0])
    x, y = rows.training(3, 0.0)
    np.testing.assert_array_equal(y, np.rint(x[:, 0] * 60).astype(int) % 3)


def test_a_run_and_numbers_work_too(tmp_path: Path) -> None:
    saved(tmp_path, np.linspace(-2, 2, 60))
    federation = load(scenario(tmp_path, **NUMBERS))
    assert federation.schema.label_range == (-1.0, 1.0)
    assert len(federation.devices) == 12
    assert max(device.train_y.max() for device in federation.devices.values()) <= 1.0


@pytest.mark.parametrize(
    ("y", "x", "part"),
    [
        (np.arange(60), None, "class 3, labels lists 3"),
        (np.zeros(60), None, "must be whole"),
        (np.zeros(59, int), None, "y of shape"),
        (np.zeros(60, int), np.zeros((60, 2)), "float64"),
        (np.array([None] * 60), None, "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, y: object, x: object, part: str) -> None:
    saved(tmp_path, y, x)
    with pytest.raises(DataError, match=part):
        arrays_table(scenario(tmp_path))


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, [*[0.0] * 59, np.nan])
    with pytest.raises(DataError, match="row 59 is not finite"):
        arrays_table(scenario(tmp_path, **NUMBERS))


def test_a_folder_without_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.npy cannot be read"):
        arrays_table(scenario(tmp_path))


def test_a_deployment_has_no_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for simulations"):
        public_schema(scenario(tmp_path))


@pytest.mark.parametrize(
    ("others", "part"),
    [
        ({"data.array_range": "[1.0, 1.0]", **CLASSES}, "empty"),
        ({"data.label": "y", **CLASSES}, "leave label out"),
        ({"data.source": "builtin", "data.name": "digits"}, "array_range is for"),
        ({"data.partition.devices": 3}, "needs path"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, others: dict[str, FlatValue], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        scenario(tmp_path, **others)
