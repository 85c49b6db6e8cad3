"""A site by its commands alone: the whole pilot, and a server that is watched, killed, seen and taken down."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fedinfer.flower.processes import QUIET
from fedinfer.flower.service import holder
from fedinfer.site.server import open_server
from tests.e2e.pilot import FEDINFER, REPOSITORY
from tests.unit.site.a_site import DEVICE, set_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def fedinfer(folder: Path, *words: object, code: int = 0) -> str:
    """One command in a process of its own."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **QUIET, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*FEDINFER, *map(str, words)], cwd=folder, env=variables, capture_output=True, text=True, check=False,
        timeout=280, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def processes_of(folder: Path) -> dict[int, bytes]:
    """Command lines of processes that have to do with a folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words + variables and int(entry.name) != os.getpid():
            found[int(entry.name)] = words
    return found


def resident_mib(process: int) -> int:
    """Resident memory of a process and all that it started, in MiB (Linux)."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            facts = (entry / "stat").read_text().rpartition(")")[2].split()
            pages = int((entry / "statm").read_text().split()[1])
        except OSError:
            continue
        own = int(entry.name) == process
        total += pages * os.sysconf("SC_PAGESIZE") // 2**20 if own else 0
        total += resident_mib(int(entry.name)) if not own and int(facts[1]) == process else 0
    return total


def superlink_of(folder: Path) -> int:
    """Process of the SuperLink of a site."""
    found = processes_of(folder).items()
    return next((process for process, words in found if b"\0superlink\0" in words), 0)


def wait_for_device(folder: Path, state: str, other_than: int = 0) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        seen = json.loads(fedinfer(folder, "server", "status", folder / "site", "--json"))
        if [device["state"] for device in seen["devices"]] == [state] and superlink_of(folder) not in (0, other_than):
            assert seen["devices"][0]["device"] == DEVICE
            return
        time.sleep(0.5)
    raise AssertionError((folder / "site/server/server.log").read_text()[-2000:])


def test_the_pilot_is_a_whole_deployment_and_leaves_nothing_behind(tmp_path: Path) -> None:
    said = json.loads(fedinfer(tmp_path, "pilot", "--rounds", 1, "--out", tmp_path / "site", "--json"))
    assert said["status"] == "completed"
    assert said["secure_aggregation"] == "protocol"
    assert [device["version"] for device in said["devices"]] == [1, 1, 1, 1]
    assert min(device["rows"] for device in said["devices"]) > 100
    assert processes_of(tmp_path) == {}
    logs = [line for line in (tmp_path / "site/hospital0/agent.log").read_text().splitlines() if "fedinfer." in line]
    run = json.loads((tmp_path / "site/server/run/run.json").read_text())["run_id"]
    assert [line for line in logs if f"INFO run={run} fedinfer.deployment.agreement: hospital0: query." in line]


def test_an_interrupted_pilot_takes_everything_down(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    variables = {
        **os.environ,
        **QUIET,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    with subprocess.Popen(
        [*FEDINFER, "pilot"], env=variables, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert any("server up" in line for line in running.stderr)
        assert len(processes_of(tmp_path)) > 2
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=100)
        assert running.returncode == 130
    assert processes_of(tmp_path) == {}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_server_whose_address_is_taken_says_so_and_does_not_stay(tmp_path: Path) -> None:
    set_up(tmp_path)
    control = open_server(tmp_path / "site").plan.control.rpartition(":")[2]
    with socket.create_server(("127.0.0.1", int(control))):
        said = fedinfer(tmp_path, "preflight", tmp_path / "site", code=1)
        assert f"127.0.0.1:{control}: Address already in use" in said
        fedinfer(tmp_path, "server", "up", tmp_path / "site", "--detach", code=1)
    assert processes_of(tmp_path) == {}


def test_a_server_is_watched_and_a_device_is_seen_by_its_name(tmp_path: Path) -> None:
    set_up(tmp_path)
    try:
        fedinfer(tmp_path, "server", "up", tmp_path / "site", "--detach")
        fedinfer(tmp_path, "device", "up", "--store", tmp_path / "store", "--detach")
        wait_for_device(tmp_path, "online")
        assert "up, process" in fedinfer(tmp_path, "device", "status", "--store", tmp_path / "store")
        assert resident_mib(holder(tmp_path / "store/agent.lock")) < 150  # an idle agent: about 125
        first = superlink_of(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_for_device(tmp_path, "online", other_than=first)
        fedinfer(tmp_path, "device", "down", "--store", tmp_path / "store")
        wait_for_device(tmp_path, "offline")
        os.kill(holder(tmp_path / "site/server/server.lock"), signal.SIGKILL)
        fedinfer(tmp_path, "server", "up", tmp_path / "site", "--detach")
    finally:
        fedinfer(tmp_path, "device", "down", "--store", tmp_path / "store")
        fedinfer(tmp_path, "server", "down", tmp_path / "site")
    assert processes_of(tmp_path) == {}
