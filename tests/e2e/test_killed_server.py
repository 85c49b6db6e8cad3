"""kill -9 of the coordinator, then of the SuperLink with it, in the middle of rounds: the server is started again and
goes on with the same run; nothing is spent twice, on no side."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from fedinfer.flower.processes import running, wait_for_port
from fedinfer.privacy.accounting.ledger import Ledger
from fedinfer.store import read_store
from fedinfer.system import SystemClock
from tests.e2e.pilot import HOSPITALS, REPOSITORY, Pilot, events, pilot, wait_for_event

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def processes(made: Pilot, word: str) -> list[int]:
    """Those of this deployment, by its FLWR_HOME, with a word in their command line."""
    mark, found = f"FLWR_HOME={made.home}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = mark in (entry / "environ").read_bytes().split(b"\0")
            if ours and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def kill(made: Pilot, *words: str) -> None:
    for word in words:
        for process in processes(made, word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def wait_for_round(made: Pilot, number: int) -> None:
    end = time.monotonic() + 280
    while not any(event["event"] == "round" and event["round"] >= number for event in events(made.run)):
        told = events(made.run)
        assert time.monotonic() < end, told[-3:]
        assert not [event for event in told if event["event"] == "failed"], told[-3:]
        time.sleep(0.1)


def test_a_killed_coordinator_and_a_killed_superlink_lose_nothing(tmp_path: Path) -> None:
    with pilot(tmp_path) as made, contextlib.ExitStack() as stack:
        for number in range(len(HOSPITALS)):
            stack.enter_context(running(made.agent_command(number), tmp_path, made.variables(), made.node_log(number)))
        values = made.values(made.run, "training.rounds=4;training.deadline_seconds=120")
        made.start(REPOSITORY, values)
        wait_for_round(made, 1)
        kill(made, "flwr-serverapp")
        made.start(REPOSITORY, values)
        wait_for_round(made, 3)
        kill(made, "flwr-serverapp", "superlink", "flwr-superexec")
        time.sleep(1)
        again = stack.enter_context(
            running(made.superlink_command(), tmp_path, made.variables(), tmp_path / "superlink2.log")
        )
        wait_for_port(made.control, again, tmp_path / "superlink2.log", SystemClock())
        made.start(REPOSITORY, values)
        wait_for_event(made, "finished", 1)
    record = json.loads((made.run / "run.json").read_text())
    assert record["status"] == "completed"
    starts = [event for event in events(made.run) if event["event"] == "started"]
    assert len(starts) == 3
    assert len({event["run_id"] for event in events(made.run)}) == 1
    assert [row["round"] for row in record["rounds"]] == [1, 2, 3, 4]
    assert sum(row["status"] == "released" for row in record["rounds"]) >= 2
    assert record["models"][-1]["devices_active"] == len(HOSPITALS)
    for store in (made.run / "ledger.sqlite", *(made.store(n) / "device.sqlite" for n in range(len(HOSPITALS)))):
        spent = [(entry.owner, entry.task, entry.reference) for entry in Ledger(read_store(store)).entries(None)]
        assert len(set(spent)) == len(spent) <= 4
    assert (made.run / "released" / "metadata" / "timestamp.json").exists()
