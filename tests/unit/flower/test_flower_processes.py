"""Flower's own processes: started apart, stopped with everything they started."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from fedinfer.errors import MissingExtra, TransportError
from fedinfer.flower.processes import (
    environment,
    free_port,
    program,
    running,
    stop,
    stop_strays,
    tail,
    wait_for_port,
)
from fedinfer.system import SystemClock

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid, flush=True)
time.sleep(300)
"""


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def first_line(log: Path) -> str:
    for _ in range(600):
        if log.exists() and "\n" in log.read_text():
            return log.read_text().splitlines()[0]
        time.sleep(0.05)
    raise AssertionError("nothing was said")


def gone(pid: int) -> bool:
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_process_and_its_children_end_together(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([sys.executable, "-c", PARENT], tmp_path, environment(tmp_path / "home"), log) as process:
        child = int(first_line(log))
        assert alive(child)
    assert process.poll() is not None
    assert gone(child)


def test_it_ends_when_the_test_fails_inside(tmp_path: Path) -> None:
    def fail() -> None:
        with running([sys.executable, "-c", PARENT], tmp_path, dict(os.environ), tmp_path / "log") as process:
            started.append(process)
            raise RuntimeError

    started: list = []
    with pytest.raises(RuntimeError):
        fail()
    assert started[0].poll() is not None


def test_a_process_that_ended_by_itself_is_no_problem(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "pass"], tmp_path, dict(os.environ), tmp_path / "log") as process:
        process.wait(30)
    stop(process)


def test_strays_are_known_by_their_home(tmp_path: Path) -> None:
    """Ray's processes leave the session; their environment gives them away. Others are left alone."""
    ours, others = environment(tmp_path / "ours"), environment(tmp_path / "others")
    sleep = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(300)"]
    with (
        running(sleep, tmp_path, ours, tmp_path / "log1") as one,
        running(sleep, tmp_path, others, tmp_path / "log2") as two,
    ):
        first_line(tmp_path / "log1")
        first_line(tmp_path / "log2")
        stop_strays(tmp_path / "ours")
        one.wait(30)
        assert two.poll() is None


def test_waiting_for_a_port_ends_with_the_last_words_of_a_process_that_died(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([sys.executable, "-c", "raise SystemExit('no certificate')"], tmp_path, dict(os.environ), log) as dead:
        dead.wait(30)
        with pytest.raises(TransportError, match="no certificate"):
            wait_for_port(free_port(), dead, log, SystemClock())


def test_waiting_for_a_port_ends_when_somebody_listens(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with running(server, tmp_path, dict(os.environ), log) as process:
        wait_for_port(port, process, log, SystemClock())
        assert process.poll() is None


def test_what_is_started_is_quiet_and_has_its_own_home(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    assert variables["FLWR_HOME"] == str(tmp_path)
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"
    assert variables["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert variables["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_program_that_is_not_installed_names_the_extra() -> None:
    assert Path(program("flwr")).exists()
    with pytest.raises(MissingExtra, match="flower-nonsense"):
        program("flower-nonsense")


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 5000 + b"\xff the end")
    assert tail(tmp_path / "log").endswith("the end")
    assert len(tail(tmp_path / "log", 100)) <= 100
    assert tail(tmp_path / "none") == "(no log)"
