"""Rows drawn per device: what they follow from, how devices differ; `run` and a lazy population see the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedinfer.config import Scenario, SyntheticSection, from_flat
from fedinfer.data import LazyRows, lazy_rows, load
from fedinfer.data.synthetic import SyntheticRows, synthetic_schema, synthetic_table
from fedinfer.errors import ConfigError

DAY = 86_400.0
DIGITS = {"data.source": "builtin", "data.name": "digits"}


def scenario(devices: int = 40, **synthetic: float) -> Scenario:
    given = {f"data.synthetic.{key}": value for key, value in synthetic.items()}
    return from_flat({"data.source": "synthetic", "data.partition.devices": devices, **given})


def least_squares_accuracy(rows: SyntheticRows, trained: range, judged: range, seconds: float = 0.0) -> float:
    """Accuracy of one linear rule of some devices on others, fitted by ordinary least squares on one-hot labels."""
    x, y = (np.concatenate(parts) for parts in zip(*(rows.rows(k, 0.0) for k in trained), strict=True))
    rule = np.linalg.lstsq(x, np.eye(rows.schema.classes)[y], rcond=None)[0]
    x, y = (np.concatenate(parts) for parts in zip(*(rows.rows(k, seconds) for k in judged), strict=True))
    return float(((x @ rule).argmax(axis=1) == y).mean())


def test_rows_follow_from_seed_and_number_of_the_device_alone() -> None:
    few, many = (SyntheticRows(SyntheticSection(), devices, 3) for devices in (10, 100_000))
    other_seed = SyntheticRows(SyntheticSection(), 10, 4)
    assert few.sizes[7] == many.sizes[7]
    np.testing.assert_array_equal(few.rows(7, 0.0)[0], many.rows(7, 0.0)[0])
    np.testing.assert_array_equal(few.rows(7, 0.0)[1], many.rows(7, 0.0)[1])
    assert (
        few.rows(7, 0.0)[0].shape != other_seed.rows(7, 0.0)[0].shape
        or (few.rows(7, 0.0)[0] != other_seed.rows(7, 0.0)[0]).any()
    )


def test_sizes_are_lognormal_about_their_median() -> None:
    sizes = SyntheticRows(SyntheticSection(rows=200, rows_spread=0.5), 20_000, 1).sizes
    assert np.median(sizes) == pytest.approx(200, rel=0.02)
    assert np.log(sizes).std() == pytest.approx(0.5, abs=0.02)
    assert set(SyntheticRows(SyntheticSection(rows=9, rows_spread=0), 50, 1).sizes) == {9}


def test_there_is_a_common_rule_to_learn_and_model_shift_hides_it() -> None:
    alike = SyntheticRows(SyntheticSection(model_shift=0, noise=0), 400, 1)
    unlike = SyntheticRows(SyntheticSection(model_shift=2, noise=0), 400, 1)
    assert least_squares_accuracy(alike, range(300), range(300, 400)) > 0.85
    assert least_squares_accuracy(unlike, range(300), range(300, 400)) < 0.65


def test_noise_is_the_share_of_labels_drawn_at_random() -> None:
    quiet, noisy = (
        SyntheticRows(SyntheticSection(noise=noise, classes=4, rows=400, rows_spread=0), 20, 1) for noise in (0, 0.4)
    )
    changed = np.mean([(quiet.rows(k, 0)[1] != noisy.rows(k, 0)[1]).mean() for k in range(20)])
    assert changed == pytest.approx(0.4 * 3 / 4, abs=0.02)


def test_input_shift_is_the_spread_of_the_devices_middles() -> None:
    section = SyntheticSection(input_shift=0.5, rows=2_000, rows_spread=0, features=30)
    middles = np.array([SyntheticRows(section, 40, 1).rows(k, 0)[0].mean(axis=0) for k in range(40)])
    assert middles.std() == pytest.approx(0.5, rel=0.06)


def test_the_rule_turns_in_drift_days_and_then_stays() -> None:
    rows = SyntheticRows(SyntheticSection(drift_days=2, model_shift=0, noise=0), 400, 1)
    at = [least_squares_accuracy(rows, range(300), range(300, 400), days * DAY) for days in (0, 1, 2, 5)]
    assert at[0] > 0.85 > 0.75 > at[1] > at[2] + 0.1
    assert at[2] == at[3]


def test_numbers_stay_in_their_public_range() -> None:
    rows = SyntheticRows(SyntheticSection(task="regression", noise=1.0), 30, 1)
    y = np.concatenate([rows.rows(k, 0)[1] for k in range(30)])
    assert y.dtype == np.float64
    assert y.min() == -1.0
    assert y.max() == 1.0
    assert rows.schema.label_range == (-1.0, 1.0)


def test_a_run_and_a_lazy_population_have_the_same_rows() -> None:
    found = scenario(12)
    _, table, _ = synthetic_table(found)
    held = lazy_rows(found).held
    np.testing.assert_array_equal(table.x, np.concatenate([held.rows(k, 0.0)[0] for k in range(12)]))
    federation = load(found)
    assert len(federation.devices) == 12
    assert sum(len(d.train_y) + len(d.test_y) for d in federation.devices.values()) == len(table)
    assert federation.schema == synthetic_schema(found.data.synthetic)


def test_a_population_that_is_too_large_for_a_run_is_sent_to_fleet() -> None:
    with pytest.raises(ConfigError, match="rows, at most") as caught:
        load(scenario(1_000_000))
    assert "fedinfer fleet" in caught.value.hint


def test_a_run_says_that_drift_days_need_a_clock() -> None:
    assert any("drift_days" in line for line in load(scenario(drift_days=3.0)).warnings)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"data.source": "builtin", "data.name": "digits", "data.synthetic.rows": 5}, "source = 'synthetic'"),
        ({"data.source": "synthetic", "data.label": "y"}, "leave label out"),
        ({"data.source": "synthetic", "data.partition.scheme": "dirichlet"}, "model_shift"),
    ],
)
def test_what_would_be_ignored_is_refused(data: dict[str, str | int], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        from_flat(data)


def every_row(rows: LazyRows, device: int) -> list[bytes]:
    return sorted(row.tobytes() for part in (rows.training(device, 0), rows.test([device], 0)) for row in part[0])


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "shards"])
def test_lazy_devices_share_out_the_rows_of_a_table(scheme: str) -> None:
    rows = lazy_rows(from_flat(DIGITS | {"data.partition.devices": 50, "data.partition.scheme": scheme}))
    table = np.concatenate([rows.held.rows(k, 0)[0] for k in range(50)])
    assert rows.devices == 50
    assert len(table) == 1797
    assert sorted(row.tobytes() for row in table) == sorted(row for k in range(50) for row in every_row(rows, k))
    assert [len(rows.training(k, 0)[1]) for k in range(50)] == rows.training_sizes_of(np.arange(50)).tolist()


def test_a_table_that_names_its_devices_keeps_them() -> None:
    rows = lazy_rows(from_flat({"data.source": "builtin", "data.name": "heart"}))
    assert rows.devices == 4
    assert rows.training_sizes_of(np.arange(4)).min() >= 1


def test_the_held_out_part_is_that_of_the_scenario_and_never_all() -> None:
    rows = lazy_rows(scenario(2_000, rows=10, rows_spread=1.0))
    kept = rows.training_sizes_of(np.arange(2_000))
    out = rows.held.sizes - kept
    assert out.sum() / rows.held.sizes.sum() == pytest.approx(0.3, abs=0.02)
    assert (kept >= 1).all()
    assert (out >= 1).all()


@pytest.mark.parametrize(("key", "value"), [("public_fraction", 0.1), ("partition.devices", 5000)])
def test_a_lazy_population_says_what_it_cannot_do(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        lazy_rows(from_flat(DIGITS | {f"data.{key}": value}))


def test_a_million_devices_cost_their_sizes_only() -> None:
    rows = lazy_rows(scenario(1_000_000))
    assert rows.held.sizes.nbytes == 4_000_000
    assert len(rows.training(999_999, 0.0)[1]) == rows.training_sizes_of(np.array([999_999]))[0]
    assert math.isclose(np.median(rows.held.sizes), 30, abs_tol=1)
