"""A run folder that is put back, and the lock that lets one process work on it."""

from __future__ import annotations

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedinfer.coordinator.agenda import RunStep
from fedinfer.errors import ConfigError, StoreError
from fedinfer.simulation.folder import EVENTS, LOCK, EventLog, alone_in, count_lines
from fedinfer.simulation.world import (
    SimulationKeeper,
    begin_world,
    begun_scenario,
    put_back,
    simulation_keys,
    was_begun,
)
from fedinfer.store import open_store, read_store
from fedinfer.system import SimulatedEntropy, SystemClock
from fedinfer.training import Checkpoint
from tests.protocol.fleet import federation, settings

STATE = Checkpoint({"weights": np.zeros(2, np.float32)}, {"state_version": 1})
TABLE = ("CREATE TABLE said (word TEXT)",)


def write(folder: Path, word: str) -> None:
    """One file that is replaced, as devices replace theirs, and one row."""
    (folder / "devices" / "d0").mkdir(parents=True, exist_ok=True)
    part = folder / "devices" / "d0" / "part"
    part.write_text(word)
    part.replace(folder / "devices" / "d0" / "model")
    connection = open_store(folder / "devices" / "devices.sqlite", "test", TABLE)
    connection.execute("INSERT INTO said VALUES (?)", (word,))
    connection.close()


def read(folder: Path) -> tuple[str, list[str]]:
    rows = read_store(folder / "devices" / "devices.sqlite").execute("SELECT word FROM said").fetchall()
    return (folder / "devices" / "d0" / "model").read_text(), [row[0] for row in rows]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    begin_world(tmp_path, settings(), federation(), "local")
    return tmp_path


def test_what_came_after_the_last_step_is_gone_and_what_people_read_stays(begun: Path) -> None:
    log, entropy = EventLog(begun, SystemClock(), "run"), SimulatedEntropy(1)
    world = SimulationKeeper(begun, entropy)
    write(begun, "first")
    world.keep(None, STATE)
    write(begun, "second")
    log("round", {})
    entropy.take(5)
    world.keep(RunStep.ROLL_OUT, STATE)
    write(begun, "third")
    log("round", {})
    (begun / "new").mkdir()
    kept = put_back(begun, federation())
    assert kept is not None
    assert read(begun) == ("second", ["first", "second"])
    assert not (begun / "new").exists()
    assert (kept.header["entropy"], kept.header["lines"]) == (5, 1)
    assert count_lines(begun) == 2
    write(begun, "again")
    put_back(begun, federation())
    assert read(begun) == ("second", ["first", "second"]), "what was put back is a copy"
    assert sorted(path.name for path in (begun / "state").iterdir()) == [
        "begun.json", "databases-2", "files-2", "state.npz",
    ]  # fmt: skip


def test_a_step_without_a_push_keeps_the_files_of_the_push_before(begun: Path) -> None:
    world = SimulationKeeper(begun, SimulatedEntropy(1))
    write(begun, "pushed")
    world.keep(RunStep.ROLL_OUT, STATE)
    write(begun, "window")
    SimulationKeeper(begun, SimulatedEntropy(1)).keep(RunStep.WINDOW, STATE)
    write(begun, "killed")
    put_back(begun, federation())
    assert read(begun) == ("pushed", ["pushed", "window"])


def test_a_version_that_was_brought_back_is_on_the_devices_of_whoever_goes_on(begun: Path) -> None:
    world = SimulationKeeper(begun, SimulatedEntropy(1))
    write(begun, "trained")
    world.keep(RunStep.ROLL_OUT, STATE)
    write(begun, "reused")
    world.keep(RunStep.REUSE, STATE)
    write(begun, "killed")
    put_back(begun, federation())
    assert read(begun) == ("reused", ["trained", "reused"])


def test_a_run_that_kept_nothing_begins_in_an_empty_folder(begun: Path) -> None:
    write(begun, "first")
    assert put_back(begun, federation()) is None
    assert [path.name for path in begun.iterdir()] == ["state"]


def test_keys_last_as_long_as_the_run(begun: Path) -> None:
    first, again = (simulation_keys(begun).of("targets")[0].public_key.keyid for _ in range(2))
    assert first == again
    SimulationKeeper(begun, SimulatedEntropy(1)).end()
    assert not was_begun(begun)
    assert not (begun / "state").exists()


def test_other_rows_are_refused(begun: Path) -> None:
    rows = federation()
    data = rows.devices["d00"]
    changed = replace(rows, devices={**rows.devices, "d00": replace(data, train_x=data.train_x + 1)})
    with pytest.raises(ConfigError, match="begun with other rows"):
        put_back(begun, changed)


def test_another_program_and_a_folder_without_a_run_are_refused(begun: Path, tmp_path: Path) -> None:
    assert begun_scenario(begun) == (settings(), "local")
    note = begun / "state" / "begun.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"build": "0.0.1+old"}))
    with pytest.raises(ConfigError, match=r"begun by the program 0\.0\.1\+old"):
        begun_scenario(begun)
    with pytest.raises(ConfigError, match="no simulation was begun here"):
        begun_scenario(tmp_path / "nowhere")
    note.unlink()
    (begun / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="this run is over"):
        begun_scenario(begun)


def test_one_process_works_on_a_folder_and_a_killed_one_lets_it_go(tmp_path: Path) -> None:
    held, hold = os.pipe()
    child = os.fork()
    if child == 0:
        with alone_in(tmp_path):
            os.write(hold, b"x")
            signal.pause()
    os.read(held, 1)
    with pytest.raises(ConfigError, match=f"the process {child} works on this run folder"), alone_in(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with alone_in(tmp_path), pytest.raises(ConfigError, match=str(os.getpid())), alone_in(tmp_path):
        pass


def test_a_coordinator_that_fails_leaves_why_in_its_lock(tmp_path: Path) -> None:
    with pytest.raises(StoreError), alone_in(tmp_path):
        raise StoreError("events.jsonl: No space\nleft")
    first, second = (tmp_path / LOCK).read_text().splitlines()
    assert (first, second) == (str(os.getpid()), "StoreError: events.jsonl: No space left")
    with alone_in(tmp_path), pytest.raises(ConfigError, match=rf"process {os.getpid()} works"), alone_in(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("size", range(20))
def test_half_a_line_of_a_killed_process_is_taken_off_and_a_whole_one_gets_its_end(tmp_path: Path, size: int) -> None:
    (tmp_path / EVENTS).write_text('{"event": "first"}\n' + '{"event": "round"}\n'[:size])
    EventLog(tmp_path, SystemClock(), "run")("window", {"window": 1})
    told = [json.loads(line)["event"] for line in (tmp_path / EVENTS).read_text().splitlines()]
    assert told == ["first", *(["round"] if size >= 18 else []), "window"]


@pytest.mark.parametrize("room", [0, 1, 50, 150])
def test_a_line_that_the_disk_has_no_room_for_leaves_nothing(tmp_path: Path, room: int) -> None:
    log = EventLog(tmp_path, SystemClock(), "run")
    log("round", {"round": 1})
    before = (tmp_path / EVENTS).read_bytes()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            log("round", {"text": "x" * 200})
        except StoreError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert (tmp_path / EVENTS).read_bytes() == before
    log("finished", {})
    assert [json.loads(line)["event"] for line in (tmp_path / EVENTS).read_text().splitlines()] == ["round", "finished"]
