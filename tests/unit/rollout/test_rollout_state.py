import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError, LogTampered, StoreError
from fedinfer.rollout import log
from fedinfer.rollout.controller import (
    Approval,
    Command,
    Delivered,
    Measured,
    Order,
    Phase,
    RolledBack,
    Task,
    begin,
    todo,
)
from fedinfer.rollout.gates import Bound, Figure, Gate, GateScope, GateSettings, GroupFigures
from fedinfer.rollout.state import RolloutStore
from fedinfer.rollout.summary import status
from fedinfer.rollout.waves import Wave

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GATES = GateSettings(
    (
        Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE),
        Gate("error", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.FLEET),
    ),
    5, 0.01, 0.01, 2,
)  # fmt: skip
FLEET = {f"d{i:03d}": {} for i in range(200)}


def rollout(name="r"):
    return begin(name, "2", "1", FLEET, (Wave(0.25), Wave(1.0)), GATES, Approval.NONE)


@pytest.fixture
def store(tmp_path):
    opened = RolloutStore(tmp_path / "rollout.sqlite")
    yield opened
    opened.close()


def evaluate_canaries(wave, judged, error):
    return Measured(wave, (GroupFigures("", judged, (Figure("error", error * judged, 1.0),)),))


def test_state_log_and_acknowledgements_survive_reopening(tmp_path):
    first = RolloutStore(tmp_path / "s.sqlite")
    assert first.start(rollout(), "ann", NOW)[0].task is Task.PUSH
    first.acknowledge("r", 0, {"d000": "", "d001": "disk full", "d002": ""}, NOW)
    state, actions = first.apply("r", Delivered(0, 50, 0), NOW)
    first.close()
    second = RolloutStore(tmp_path / "s.sqlite")
    assert second.load("r") == state
    assert todo(second.load("r")) == actions
    assert second.delivered("r", 0) == Delivered(0, 2, 1)
    assert second.waiting("r", 0, ["d000", "d001", "d003"]) == ("d003",)
    assert second.problems("r") == {"d001": "disk full"}
    assert second.names() == ("r",)
    assert second.verify(second.head()).count == 3
    second.close()


def test_the_last_word_of_a_device_counts(store):
    store.start(rollout(), "ann", NOW)
    store.acknowledge("r", 0, {"d000": "disk full"}, NOW)
    store.acknowledge("r", 0, {"d000": ""}, NOW)
    assert store.delivered("r", 0) == Delivered(0, 1, 0)


def test_every_event_is_logged_with_its_figures(store):
    store.start(rollout(), "ann", NOW)
    store.apply("r", Delivered(0, 50, 0), NOW)
    store.apply("r", evaluate_canaries(0, 50, 0.9), NOW)
    store.apply("r", RolledBack(), NOW)
    entries = [log.entry(line) for line in store.log_lines("r")]
    assert [entry["kind"] for entry in entries] == ["start", "delivered", "measured", "takenback"]
    assert entries[2]["body"]["groups"][0]["figures"]["error"] == {"total": 45.0, "noise_std": 1.0}
    assert (entries[2]["body"]["from"], entries[2]["body"]["to"]) == ("judging", "rolling_back")
    assert "error: 0.9" in entries[2]["body"]["reason"]
    assert store.load("r").phase is Phase.ROLLED_BACK
    assert store.log_lines("other") == []


def test_a_refused_event_leaves_nothing_behind(store):
    store.start(rollout(), "ann", NOW)
    before = store.head(), store.load("r")
    with pytest.raises(ConfigError):
        store.apply("r", Command(Order.RESUME, "ann", ""), NOW)
    with pytest.raises(BadMessage):
        store.apply("r", Delivered(1, 5, 0), NOW)
    assert (store.head(), store.load("r")) == before


def test_names_are_unique_and_unknown_ones_refused(store):
    store.start(rollout(), "ann", NOW)
    with pytest.raises(ConfigError, match="exists already"):
        store.start(rollout(), "ann", NOW)
    with pytest.raises(ConfigError, match="there is no rollout"):
        store.load("x")
    store.start(rollout("a-second"), "ann", NOW)
    assert store.names() == ("r", "a-second")


def test_the_database_refuses_to_change_the_log_and_the_chain_shows_what_went_past_that(tmp_path):
    store = RolloutStore(tmp_path / "s.sqlite")
    store.start(rollout(), "ann", NOW)
    store.apply("r", Delivered(0, 50, 0), NOW)
    head = store.head()
    store.close()
    raw = sqlite3.connect(tmp_path / "s.sqlite")
    for statement in ("UPDATE rollout_log SET line = ''", "DELETE FROM rollout_log"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    raw.execute("DROP TRIGGER rollout_log_UPDATE")
    raw.execute("UPDATE rollout_log SET line = replace(line, 'ann', 'eve') WHERE seq = 1")
    raw.commit()
    raw.close()
    reopened = RolloutStore(tmp_path / "s.sqlite")
    with pytest.raises(LogTampered, match="line 1"):
        reopened.verify(head)
    reopened.close()


def test_status_is_plain_json(store):
    store.start(rollout(), "ann", NOW)
    facts = status(store.load("r"))
    assert facts["todo"] == [{"task": "push", "wave": 1}]
    assert facts["waves"] == [{"devices": 50, "where": {}}, {"devices": 150, "where": {}}]
    state, _ = store.apply("r", Delivered(0, 50, 0), NOW)
    assert {finding["figure"]: finding["verdict"] for finding in status(state)["findings"]} == {
        "install_failure": "pass",
        "error": "hold",
    }


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "s.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError):
        RolloutStore(tmp_path / "s.sqlite")


SERVER = textwrap.dedent(
    """
    import sys, time
    from datetime import UTC, datetime
    from pathlib import Path
    from fedinfer.rollout.controller import *
    from fedinfer.rollout.gates import *
    from fedinfer.rollout.state import RolloutStore
    from fedinfer.rollout.waves import Wave, members

    NOW, FLEET = datetime(2026, 1, 1, tzinfo=UTC), {f"d{i:03d}": {} for i in range(120)}
    gates = GateSettings((Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE),
                          Gate("error", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.FLEET)), 5, 0.01, 0.01, 2)
    store = RolloutStore(Path(sys.argv[1]))
    if not store.names():
        store.start(begin("r", "2", "1", FLEET, (Wave(0.3), Wave(0.6), Wave(1.0)), gates, Approval.NONE), "ann", NOW)
    while actions := todo(store.load("r")):
        wave, state = actions[0].wave, store.load("r")
        if actions[0].task is Task.PUSH:
            for device in store.waiting("r", wave, members(FLEET, state.waves, "r", wave)):
                with open(sys.argv[2], "a") as log:
                    log.write(f"{wave} {device}\\n")
                store.acknowledge("r", wave, {device: ""}, NOW)
            store.apply("r", store.delivered("r", wave), NOW)
        else:
            look = (GroupFigures("", state.installed, (Figure("error", 0.02 * state.installed, 0.5),)),)
            store.apply("r", Measured(wave, look), NOW)
    print("finished", store.load("r").phase)
    """
)


def test_a_server_killed_in_the_middle_of_a_wave_goes_on_where_it_was(tmp_path):
    """kill -9 at random moments until it gets through: nobody is pushed a finished wave again, the log stays whole."""
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, str(tmp_path / "server.py"), str(tmp_path / "s.sqlite"), str(tmp_path / "pushed")]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[3])}
    rng, kills = np.random.default_rng(4), 0
    while kills < 12:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        target = _lines(tmp_path / "pushed") + int(rng.integers(1, 15))
        while process.poll() is None and _lines(tmp_path / "pushed") < target:
            time.sleep(0.001)
        if process.poll() is not None:
            process.communicate()
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        store = RolloutStore(tmp_path / "s.sqlite")
        store.verify(store.head())
        store.close()
    final = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "finished done" in final.stdout
    assert kills >= 5
    pushed = (tmp_path / "pushed").read_text().split("\n")[:-1]
    assert len(set(pushed)) == 120
    assert len(pushed) <= 120 + kills  # at most the one device that was being told when the server died
    assert [int(line.split()[0]) for line in pushed] == sorted(int(line.split()[0]) for line in pushed)
    store = RolloutStore(tmp_path / "s.sqlite")
    assert store.verify(store.head()).count == 7 + 120
    store.close()


def _lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_the_database_refuses_to_replace_an_entry(tmp_path):
    store = RolloutStore(tmp_path / "r.sqlite")
    store.start(rollout(), "me", NOW)
    store.close()
    raw = sqlite3.connect(tmp_path / "r.sqlite")
    for statement in (
        "INSERT OR REPLACE INTO rollout_log VALUES (1, 'r', '{}')",
        "REPLACE INTO rollout_log VALUES (0, 'r', '')",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    raw.close()


@pytest.mark.parametrize(
    "change",
    ["rollout = 'other'", "line = CAST('x' AS BLOB)", "line = 5", "line = '[]'", 'line = \'{"seq":1,"digest":1}\''],
)
def test_an_entry_under_another_name_or_of_another_type_is_tampering(tmp_path, change):
    path = tmp_path / "r.sqlite"
    store = RolloutStore(path)
    store.start(rollout(), "me", NOW)
    store.close()
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER rollout_log_UPDATE")
    raw.execute(f"UPDATE rollout_log SET {change}")
    raw.commit()
    raw.close()
    store = RolloutStore(path)
    assert all(isinstance(line, str) for line in store.log_lines())
    with pytest.raises(LogTampered):
        store.verify(None)
    store.close()


def test_a_database_without_its_log_is_refused_with_a_reason(tmp_path):
    path = tmp_path / "r.sqlite"
    RolloutStore(path).close()
    raw = sqlite3.connect(path)
    raw.execute("DROP TABLE rollout_log")
    raw.close()
    with pytest.raises(StoreError, match="rollout_log"):
        RolloutStore(path)


def swapped(path, state):
    """Somebody writes a state past the program."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE rollout SET state = ?", (state,))
    database.close()


def test_a_state_written_past_the_log_is_told_and_not_driven_on(tmp_path):
    path = tmp_path / "s.sqlite"
    store = RolloutStore(path)
    store.start(rollout(), "ann", NOW)
    honest = store.apply("r", Delivered(0, 50, 0), NOW)[0]
    head = store.verify(None)
    swapped(path, wire.encode(replace(honest, phase=Phase.DONE, wave=1, opened=2)))
    with pytest.raises(LogTampered, match="rollout 'r': its state has digest"):
        store.verify(head)
    with pytest.raises(LogTampered, match="its log says"):
        store.load("r")
    with pytest.raises(LogTampered):
        store.apply("r", Command(Order.ABORT, "bob", "stop"), NOW)
    assert store.head() == head
    swapped(path, wire.encode(honest))
    assert store.verify(head) == head
    assert store.load("r") == honest
    store.close()


def test_a_rollout_without_its_entries_and_entries_without_their_rollout_are_told(tmp_path):
    path = tmp_path / "s.sqlite"
    store = RolloutStore(path)
    store.start(rollout(), "ann", NOW)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO rollout SELECT 'invented', 2, state, changed FROM rollout")
    with pytest.raises(LogTampered, match=r"'invented'.*None"):
        store.verify(None)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM rollout")
    database.close()
    with pytest.raises(LogTampered, match="'r': its state has digest nothing"):
        store.verify(None)
    store.close()
