"""Simulated devices: drawn failures, a world that changes at a stated window, and a folder for the run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import FleetSection
from fedinfer.device.session_store import Running
from fedinfer.errors import ConfigError, StoreError
from fedinfer.messages import Kind
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.simulation.folder import EVENTS, EventLog, new_folder
from fedinfer.simulation.population import (
    Processes,
    SimulatedRows,
    device_budget,
    simulated_host,
    simulated_rows,
    vanishing,
)
from fedinfer.system import FrozenClock, SystemEntropy
from tests.protocol.fleet import federation, settings

CLOCK = FrozenClock(datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC))
CHANGING = 'drift.inject.kind = "shift"\ndrift.inject.at_window = 3\ndrift.inject.fraction = 0.5\ndrift.window = 5'


# --- who vanishes ---


def test_nobody_vanishes_without_dropout() -> None:
    assert vanishing(FleetSection(), 1, "round-1", "d") is None


def test_draws_follow_from_seed_round_and_device_alone() -> None:
    fleet = FleetSection(dropout=0.5, late_dropout=0.5)
    draw = {(r, d): vanishing(fleet, 1, f"r{r}", f"d{d}") for r in range(20) for d in range(20)}
    again = {(r, d): vanishing(fleet, 1, f"r{r}", f"d{d}") for d in reversed(range(20)) for r in range(20)}
    assert draw == again
    assert draw != {key: vanishing(fleet, 2, f"r{key[0]}", f"d{key[1]}") for key in draw}


def test_rates_and_stages_are_those_of_the_scenario() -> None:
    fleet, n = FleetSection(dropout=0.2, late_dropout=0.1), 4000
    drawn = [vanishing(fleet, 1, f"r{i}", "d") for i in range(n)]
    early = [at for at in drawn if at in (Kind.KEYS, Kind.SHARES, Kind.MASKED)]
    late = [at for at in drawn if at in (Kind.SURVIVORS, Kind.UNMASK)]
    assert len(early) + len(late) + drawn.count(None) == n
    for count, rate in ((len(early), 0.2), (len(late), 0.8 * 0.1)):
        assert abs(count - n * rate) < 5 * math.sqrt(n * rate * (1 - rate))
    for stage in (Kind.KEYS, Kind.SHARES, Kind.MASKED):
        assert abs(early.count(stage) - len(early) / 3) < 5 * math.sqrt(len(early) * 2 / 9)


# --- the world ---


def test_the_world_changes_at_its_window_for_its_devices() -> None:
    rows = simulated_rows(settings(CHANGING), federation(20))
    data = federation(20).devices
    assert len(rows.drifting) == 10
    for device in sorted(data):
        before, y = rows.training(device, 2)
        np.testing.assert_array_equal(before, data[device].train_x)
        np.testing.assert_array_equal(y, data[device].train_y)
        changed = not np.array_equal(rows.training(device, 3)[0], data[device].train_x)
        assert changed == (device in rows.drifting)


def test_a_changed_world_stays_as_it_is() -> None:
    """The same row looks the same in every later window, and to every process."""
    rows, again = (simulated_rows(settings(CHANGING), federation()) for _ in range(2))
    device = min(rows.drifting)
    np.testing.assert_array_equal(rows.training(device, 3)[0], rows.training(device, 9)[0])
    np.testing.assert_array_equal(rows.stream(device, 4)[0], again.stream(device, 4)[0])


def test_without_a_change_nothing_changes() -> None:
    rows = simulated_rows(settings(), federation())
    np.testing.assert_array_equal(rows.training("d00", 1)[0], rows.training("d00", 99)[0])
    assert rows.drifting == frozenset()


def test_a_stream_holds_held_out_rows_only() -> None:
    data = federation().devices["d01"]
    x, y = simulated_rows(settings(), federation()).stream("d01", 1)
    assert len(x) == len(y) == 5
    held = {row.tobytes() for row in data.test_x}
    assert all(row.tobytes() in held for row in x)


def test_the_metric_is_judged_on_all_held_out_rows_in_the_world_of_now() -> None:
    rows, whole = simulated_rows(settings(CHANGING), federation()), federation()
    np.testing.assert_array_equal(rows.judged(0)[0], whole.test[0])
    np.testing.assert_array_equal(rows.judged(0)[1], whole.test[1])
    assert not np.array_equal(rows.judged(3)[0], whole.test[0])
    assert rows.training_count("d03") == 16


def in_order(unit: str) -> SimulatedRows:
    rows = federation()
    devices = {name: replace(data, in_order=True) for name, data in rows.devices.items()}
    scenario = settings(f'privacy.unit = "{unit}"\nprivacy.epsilon = 50.0\ndrift.window = 3')
    return simulated_rows(scenario, replace(rows, devices=devices))


@pytest.mark.parametrize("unit", ["device", "none"])
def test_where_rows_have_an_order_devices_train_on_what_they_have_met_and_are_judged_by_what_comes(unit: str) -> None:
    rows, data = in_order(unit), federation().devices["d03"]
    np.testing.assert_array_equal(rows.training("d03", 0)[0], data.train_x)
    np.testing.assert_array_equal(rows.training("d03", 2)[0], np.concatenate([data.train_x[6:], data.test_x[:6]]))
    assert len(rows.training("d03", 2)[1]) == rows.training_count("d03")
    np.testing.assert_array_equal(rows.unseen("d03", 2)[0], rows.stream("d03", 3)[0])
    np.testing.assert_array_equal(
        rows.judged(2)[0], np.concatenate([rows.unseen(d, 2)[0] for d in sorted(rows.federation.devices)])
    )
    assert rows.held_out(2) == dict.fromkeys(sorted(rows.federation.devices), 3)
    assert rows.pooled(2)[0].shape == (8 * 16, 3)


def test_where_rows_are_the_unit_a_row_of_a_window_is_never_trained_on() -> None:
    """Windows and rounds are charged side by side: a row pays for one of them."""
    rows, data = in_order("example"), federation().devices["d03"]
    np.testing.assert_array_equal(rows.training("d03", 9)[0], data.train_x)
    np.testing.assert_array_equal(rows.unseen("d03", 9)[0], data.test_x)
    np.testing.assert_array_equal(rows.judged(9)[0], federation().test[0])


# --- the host ---


def test_keys_of_secure_aggregation_are_real_even_here(tmp_path: Path) -> None:
    host = simulated_host(settings(), federation(), tmp_path / "devices", CLOCK, Processes.ONE)
    assert isinstance(host.entropy, SystemEntropy)
    assert sorted(host.members) == sorted(federation().devices)


@pytest.mark.parametrize(("processes", "kept"), [(Processes.ONE, False), (Processes.MANY, True)])
def test_many_processes_find_the_running_round_of_a_device(tmp_path: Path, processes: Processes, kept: bool) -> None:
    first, second = (simulated_host(settings(), federation(), tmp_path, CLOCK, processes) for _ in range(2))
    first.sessions.begin("d00", Running("round-1", Kind.KEYS, b"plan", b"state"))
    first.sketches.put("d00", 1, np.ones(3, np.float32), (("a", 3),))
    if kept:
        assert second.sessions.load("d00").state == b"state"
        np.testing.assert_array_equal(second.sketches.take("d00", 1, (("a", 3),)), np.ones(3, np.float32))
    else:
        assert not (tmp_path / "d00").exists()


def test_the_budget_of_a_simulated_owner() -> None:
    assert device_budget(settings()) == Budget(4.0, 1e-5)
    assert device_budget(settings("privacy.device_epsilon = 0.5")) == Budget(0.5, 1e-5)
    assert device_budget(settings('privacy.unit = "none"')).epsilon == math.inf


# --- the folder ---


def test_a_new_folder_is_named_after_scenario_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_folder(None, "heart", CLOCK)
    assert folder.is_dir()
    assert str(folder).startswith("runs/heart-20260504-030201-")
    assert list(folder.iterdir()) == []


def test_an_empty_folder_may_exist_and_a_full_one_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert new_folder(tmp_path / "a" / "b", "x", CLOCK) == tmp_path / "a" / "b"
    assert new_folder(tmp_path / "c" / "d", "x", CLOCK).is_dir()
    with pytest.raises(ConfigError, match="not empty"):
        new_folder(tmp_path / "a", "x", CLOCK)


def test_a_file_in_the_way_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="file"):
            new_folder(path, "x", CLOCK)


def test_each_event_is_a_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLOCK, "run")
    log("round", {"round": 1, "text": "two\nlines"})
    log("finished", {})
    first, second = (json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines())
    about = {"event": "round", "time": "2026-05-04T03:02:01.000+00:00", "run_id": "run"}
    assert first == {**about, "round": 1, "text": "two\nlines"}
    assert second["event"] == "finished"


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / EVENTS).symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left") as caught:
        EventLog(tmp_path, CLOCK, "run")("round", {})
    assert "--out" in caught.value.hint
