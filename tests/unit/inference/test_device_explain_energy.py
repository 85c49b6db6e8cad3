"""Explanations by occlusion, and energy with the name of its source."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.errors import DataError
from fedinfer.inference import Predictor
from fedinfer.inference.predict.explain import explain, reference_row
from fedinfer.inference.serve.energy import (
    CounterMeter,
    EnergySource,
    EstimateMeter,
    NoMeter,
    energy_per_prediction,
    find_meter,
)
from fedinfer.schema import Schema
from fedinfer.system import FrozenClock
from tests.unit.inference.device_world import NOW, SCHEMA, make_manifest, make_model, make_rows, softmax_of

MODEL = make_model(seed=3)
PREDICTOR = Predictor.open(MODEL, SCHEMA)
REFERENCE = np.array([50, 120, 1, 0], np.float32)


def test_attribution_is_the_drop_of_the_predicted_class():
    rows = make_rows(count=6, seed=2)
    found = explain(PREDICTOR, rows, REFERENCE)
    base = softmax_of(MODEL, rows)
    for place in range(6):
        assert found.classes[place] == base[place].argmax()
        for column in range(4):
            changed = rows[place].copy()
            changed[column] = REFERENCE[column]
            expected = base[place, base[place].argmax()] - softmax_of(MODEL, changed[None])[0, base[place].argmax()]
            assert found.attributions[place, column] == pytest.approx(expected, abs=1e-6)


def test_reference_explains_nothing():
    np.testing.assert_allclose(explain(PREDICTOR, REFERENCE[None], REFERENCE).attributions, 0, atol=1e-7)


def test_large_input_is_cut_into_parts(monkeypatch):
    from fedinfer.inference.predict import explain as module

    rows = make_rows(count=23, seed=2)
    whole = explain(PREDICTOR, rows, REFERENCE)
    monkeypatch.setattr(module, "MOST_ROWS", 15)
    parts = explain(PREDICTOR, rows, REFERENCE)
    np.testing.assert_allclose(parts.attributions, whole.attributions, atol=1e-6)
    np.testing.assert_array_equal(parts.classes, whole.classes)
    assert len(explain(PREDICTOR, rows[:0], REFERENCE).classes) == 0


def test_strongest_columns_come_first():
    found = explain(PREDICTOR, make_rows(count=3, seed=5), REFERENCE)
    names, values = zip(*found.strongest(1, 4), strict=True)
    assert sorted(names) == sorted(c.name for c in SCHEMA.columns)
    assert list(np.abs(values)) == sorted(np.abs(values), reverse=True)
    assert len(found.strongest(0, 2)) == 2


def test_reference_row_is_typical():
    manifest = make_manifest(1, {"float": MODEL})
    rows = np.array(manifest.check_rows, np.float32)
    reference = reference_row(manifest)
    assert reference[0] == pytest.approx(np.nanmedian(rows[:, 0]))
    values, counts = np.unique(rows[:, 2][~np.isnan(rows[:, 2])], return_counts=True)
    assert reference[2] in values[counts == counts.max()]


def test_bad_reference_and_images():
    with pytest.raises(DataError, match="reference of shape"):
        explain(PREDICTOR, make_rows(count=1), np.zeros(3, np.float32))
    images = Schema((), "digit", SCHEMA.labels, shape=(1, 2, 2))
    found = explain(Predictor.open(make_model(images), images), np.ones((1, 4), np.float32), np.zeros(4, np.float32))
    assert found.columns == ("image[0:1,0:1]", "image[0:1,1:2]", "image[1:2,0:1]", "image[1:2,1:2]")


def zone(folder, name, micro, most=1_000_000):
    path = folder / "class/powercap" / name
    path.mkdir(parents=True)
    (path / "energy_uj").write_text(f"{micro}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    return path


def test_counters_of_packages_are_summed_without_their_parts(tmp_path):
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 990_000)
    zone(tmp_path, "intel-rapl:0:0", 5)
    meter = find_meter(tmp_path, FrozenClock(NOW), None)
    assert meter == CounterMeter((first, second))
    mark = meter.mark()
    (first / "energy_uj").write_text("600")
    (second / "energy_uj").write_text("10000")  # wrapped around
    assert meter.joules_since(mark) == pytest.approx((500 + 20_000) / 1e6)
    (first / "energy_uj").write_text("not a number")
    assert meter.joules_since(mark) is None
    assert meter.mark() == ()


def test_battery_counts_only_when_it_gives(tmp_path):
    battery = tmp_path / "class/power_supply/BAT0"
    battery.mkdir(parents=True)
    (battery / "power_now").write_text("5000000")
    (battery / "status").write_text("Charging\n")
    clock = FrozenClock(NOW)
    assert find_meter(tmp_path, clock, None) == NoMeter()
    (battery / "status").write_text("Discharging\n")
    meter = find_meter(tmp_path, clock, None)
    mark = meter.mark()
    clock.advance(3)
    assert meter.source is EnergySource.MEASURED
    assert meter.joules_since(mark) == pytest.approx(15)
    (battery / "power_now").unlink()
    assert meter.joules_since(mark) is None


def test_estimate_and_nothing_are_named_so(tmp_path):
    seconds = iter([1.0, 3.0])
    meter = find_meter(tmp_path, FrozenClock(NOW), 10.0, lambda: next(seconds))
    assert isinstance(meter, EstimateMeter)
    energy = energy_per_prediction(PREDICTOR, make_rows(count=5), meter, repeats=2)
    assert energy.source is EnergySource.ESTIMATED
    assert energy.joules_per_prediction == pytest.approx(10.0 * 2.0 / 10)
    nothing = energy_per_prediction(PREDICTOR, make_rows(count=1), find_meter(tmp_path, FrozenClock(NOW), None), 1)
    assert (nothing.joules_per_prediction, nothing.source) == (None, EnergySource.UNAVAILABLE)


def test_counter_that_nobody_may_read_is_no_meter(tmp_path):
    path = zone(tmp_path, "intel-rapl:0", 1)
    (path / "energy_uj").unlink()
    assert find_meter(tmp_path, FrozenClock(NOW), None) == NoMeter()
