"""Capacities, costs, availability and draws: against the distributions and formulas that they state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.errors import ConfigError, DataError
from fedinfer.fleet.availability import DrawnAvailability, availability_of
from fedinfer.fleet.devices import capacities_of, costs_of
from fedinfer.fleet.draws import uniform_of
from tests.unit.fleet.fleets import scenario

HOUR = 3600.0
EVERYBODY = np.arange(40_000)


def test_draws_are_uniform_and_independent_of_each_other() -> None:
    first = uniform_of(1, "a", EVERYBODY, 5)
    others = [uniform_of(2, "a", EVERYBODY, 5), uniform_of(1, "b", EVERYBODY, 5), uniform_of(1, "a", EVERYBODY, 6)]
    counts = np.histogram(first, bins=100, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 160  # chi squared of 99 degrees: 149 once in a thousand
    for other in (*others, np.roll(first, 1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.02
    np.testing.assert_array_equal(uniform_of(1, "a", EVERYBODY[7:9], np.array([5, 5])), first[7:9])


def test_capacities_are_lognormal_as_stated() -> None:
    found = capacities_of(scenario(fleet__device__rows_per_second=300.0, fleet__device__speed_spread=0.7), 40_000)
    assert np.median(found.rows_per_second) == pytest.approx(300, rel=0.02)
    assert np.log(found.rows_per_second).std() == pytest.approx(0.7, abs=0.01)
    assert set(found.zone) == set(range(24))


def test_a_job_costs_what_its_parts_cost() -> None:
    section = scenario().fleet.device
    found = capacities_of(scenario(), 10)
    costs = costs_of(found, section, np.array([3]), np.array([500]), down=2_000_000, up=1_000_000)
    radio = 16 / float(found.download_mbit[3]) + 8 / float(found.upload_mbit[3])
    training = 500 / float(found.rows_per_second[3])
    assert costs.seconds[0] == pytest.approx(5 + radio + training)
    assert costs.watt_hours[0] == pytest.approx((3.0 * training + 1.2 * radio) / 3600)


def test_capacities_come_from_a_trace(tmp_path: Path) -> None:
    header = "rows_per_second,download_mbit,upload_mbit,memory_mb,battery_wh\n"
    (tmp_path / "c.csv").write_text(header + "10,1,2,3,4\n20,5,6,7,8\n")
    found = capacities_of(scenario(fleet__device__capacity_trace=str(tmp_path / "c.csv")), 1000)
    assert set(zip(found.rows_per_second, found.battery_wh, strict=True)) == {(10, 4), (20, 8)}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a,b\n1,2\n", "no column"),
        ("trace,start_seconds,end_seconds\n", "no line"),
        ("trace,start_seconds,end_seconds\n1,0,x\n", "line 2"),
        ("trace,start_seconds,end_seconds\n1,0,inf\n", "line 2"),
        ("trace,start_seconds,end_seconds\n1,5,5\n", "end after it begins"),
        ("trace,start_seconds,end_seconds\n1,0,5\n1,4,6\n", "overlap"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_place(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = scenario(fleet__device__availability_trace=str(tmp_path / "a.csv"))
    with pytest.raises(DataError, match=part):
        availability_of(found, capacities_of(found, 10))


def test_a_trace_that_is_not_there_is_a_data_error() -> None:
    found = scenario(fleet__device__capacity_trace="nowhere.csv")
    with pytest.raises(DataError, match="nowhere"):
        capacities_of(found, 10)


def test_devices_are_available_as_often_as_their_local_hour_says() -> None:
    zone = (EVERYBODY % 24).astype(np.int8)
    drawn = DrawnAvailability(zone, 0.3, 0.5, 0.0, 1)
    there = drawn.until(EVERYBODY, 10.5 * HOUR) > 10.5 * HOUR
    for hours_east in (0, 7, 16):
        likely = 0.3 * (1 + 0.5 * np.cos(2 * np.pi * (10 + hours_east - 3) / 24))
        assert there[zone == hours_east].mean() == pytest.approx(likely, abs=0.05)


def test_a_stretch_lasts_as_long_as_the_device_is_available_in_each_hour() -> None:
    drawn = DrawnAvailability((EVERYBODY % 24).astype(np.int8), 0.6, 0.4, 6.25, 1)
    some, now = EVERYBODY[:300], 5.1 * HOUR
    until = drawn.until(some, now)
    for device, end in zip(some, until, strict=True):
        one = np.array([device])
        if end < now:
            continue
        assert drawn.until(one, end - 1)[0] >= end
        assert end - now > 23 * HOUR or drawn.until(one, end + 1)[0] == -np.inf
        assert (end / HOUR + 6.25) % 1 == pytest.approx(0, abs=1e-9)


def test_a_trace_is_followed_and_repeats(tmp_path: Path) -> None:
    lines = ["trace,start_seconds,end_seconds", "7,100,300", "7,500,600", "8,0,50", "8,900,1000"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    found = scenario(fleet__device__availability_trace=str(tmp_path / "a.csv"))
    traced = availability_of(found, capacities_of(found, 10))
    devices = np.arange(400)
    own = np.where(uniform_of(1, "trace", devices, 0) < 0.5, 0, 1)
    shift = uniform_of(1, "trace", devices, 1) * 1000
    stretches = [[(100, 300), (500, 600)], [(0, 50), (900, 1000)]]
    for now in (0.0, 5_333.0):
        until = traced.until(devices, now)
        for device in devices:
            at = (now + shift[device]) % 1000
            ends = [end for start, end in stretches[own[device]] if start <= at < end]
            assert until[device] == pytest.approx(now + ends[0] - at if ends else -np.inf)


def test_more_devices_than_all_at_night_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 1 can be"):
        scenario(fleet__device__available=0.9, fleet__device__available_swing=0.5)
