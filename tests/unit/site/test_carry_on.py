"""A run whose coordinator was killed is started again; one that ended by itself, or that nobody saw at work, is not."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from fedinfer.deployment import pause_after
from fedinfer.errors import TransportError
from fedinfer.site.carry_on import (
    LONGEST_PAUSE,
    SOON_STARTS,
    START_SECONDS,
    CarryOn,
    RestartDecision,
    RunSeen,
    run_seen,
)
from fedinfer.site.server import open_server
from fedinfer.site.watch import begin_run, coordinator_of, end_orphans, last_words, newest_event

AT_WORK = RunSeen(True, 1, False)
KILLED = RunSeen(False, 1, False)
ENDED = RunSeen(False, 1, True)
PAUSE = pause_after(0)


def seen_at_work() -> CarryOn:
    carried = CarryOn()
    assert carried.look(AT_WORK, 0.0) is RestartDecision.WAIT
    return carried


def test_a_killed_run_is_started_once_and_again_only_when_that_came_to_nothing() -> None:
    carried = seen_at_work()
    assert carried.look(KILLED, PAUSE / 2) is RestartDecision.WAIT  # its last words may still come
    assert carried.look(KILLED, PAUSE) is RestartDecision.START
    assert carried.look(KILLED, PAUSE + START_SECONDS - 1) is RestartDecision.WAIT
    assert carried.look(KILLED, PAUSE + START_SECONDS) is RestartDecision.START


@pytest.mark.parametrize("seen", [KILLED, ENDED])
def test_a_run_that_nobody_saw_at_work_waits_for_its_operator(seen: RunSeen) -> None:
    """The server was taken down meanwhile, perhaps because of that run."""
    assert CarryOn().look(seen, 1000.0) is RestartDecision.WAIT


def test_a_run_that_ended_by_itself_is_left_alone_also_later() -> None:
    carried = seen_at_work()
    assert carried.look(ENDED, 10.0) is RestartDecision.WAIT
    assert carried.look(KILLED, 1000.0) is RestartDecision.WAIT


def test_nothing_is_begun_where_no_run_had_begun() -> None:
    """A coordinator that carries out orders was killed: training would spend what nobody asked for."""
    assert seen_at_work().look(RunSeen(False, 0, False), 10.0) is RestartDecision.WAIT


def test_a_run_that_failed_because_the_superlink_died_goes_on() -> None:
    carried = seen_at_work()
    carried.server_died()
    assert carried.look(ENDED, 10.0) is RestartDecision.START
    carried = seen_at_work()
    carried.look(ENDED, 10.0)
    carried.server_died()  # long after
    assert carried.look(ENDED, 1000.0) is RestartDecision.WAIT


def test_starts_without_a_step_are_ever_further_apart_and_a_step_begins_the_count_anew() -> None:
    carried, now, step = CarryOn(), 0.0, 1

    def seconds_to_the_next() -> float:
        """Of a coordinator that is gone as soon as it was seen."""
        nonlocal now
        assert carried.look(RunSeen(True, step, False), now) is RestartDecision.WAIT
        gone = now
        while carried.look(RunSeen(False, step, False), now) is RestartDecision.WAIT:
            now += 0.5
        return now - gone

    pauses = [seconds_to_the_next() for _ in range(40)]
    assert pauses == sorted(pauses)
    assert max(pauses[: SOON_STARTS + 1]) <= START_SECONDS
    assert pauses[SOON_STARTS + 1] > START_SECONDS
    assert pauses[-1] == LONGEST_PAUSE
    assert carried.starts == 40
    step = 2
    seconds_to_the_next()
    assert carried.starts == 1
    assert seconds_to_the_next() <= 1


def test_what_is_seen_of_a_run_folder(site: Path) -> None:
    server = open_server(site / "site")
    assert run_seen(server) == RunSeen(False, 0, False)
    (server.run / "state").mkdir(parents=True)
    (server.run / "state" / "state.npz").write_bytes(b"a step")
    events = server.run / "events.jsonl"
    told = {"event": "round", "time": "2026-01-01T00:00:00+00:00", "run_id": "7"}
    events.write_text(json.dumps(told) + "\n" + '{"event": "fini')
    seen = run_seen(server)
    assert (seen.at_work, seen.ended, seen.step > 0) == (False, False, True)
    assert newest_event(server) == told
    events.write_text(json.dumps(told) + "\n" + json.dumps(told | {"event": "failed"}) + "\n")
    assert run_seen(server).ended
    with (server.run / "coordinator.lock").open("w") as lock:  # `fedinfer server watch`, which carries out an order
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("1\n")
        lock.flush()
        assert not run_seen(server).at_work


def test_why_a_coordinator_ended_is_read_and_a_killed_one_said_nothing(site: Path) -> None:
    server = open_server(site / "site")
    assert last_words(server) == ""
    server.run.mkdir(parents=True, exist_ok=True)
    lock = server.run / "coordinator.lock"
    lock.write_text("17\n")
    assert last_words(server) == ""
    lock.write_text("17\nStoreError: events.jsonl: No space left on device\n")
    assert last_words(server) == "StoreError: events.jsonl: No space left on device"
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert coordinator_of(server) == 17


class Runs:
    """The control API of a SuperLink with two runs, one of which ends meanwhile."""

    def __init__(self) -> None:
        self.stopped: list[int] = []

    def running(self, app: str) -> list[int]:
        assert app == "fedinfer/fedinfer"
        return [7, 8]

    def stop_run(self, run: int) -> None:
        if run == 7:
            raise TransportError("it is over")
        self.stopped.append(run)


def test_what_flower_takes_for_running_without_a_coordinator_is_ended() -> None:
    control: Any = Runs()
    end_orphans(control)
    assert control.stopped == [8]


def test_a_second_run_is_refused_before_anything_is_started(site: Path) -> None:
    """Its coordinator would be refused too, but by an event that looks like the end of the first run."""
    server = open_server(site / "site")
    server.run.mkdir(exist_ok=True)
    with server.lock.open("w") as up, (server.run / "coordinator.lock").open("w") as lock:
        for file in (up, lock):
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("1\n")
            file.flush()
        with pytest.raises(TransportError, match="process 1 works on the run folder"):
            begin_run(server)
