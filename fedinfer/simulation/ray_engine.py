"""Running a scenario on Flower's own simulation (Ray): own SuperLink, own home, own ports, all stopped afterwards."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedinfer.config import Scenario, to_flat
from fedinfer.data import Federation
from fedinfer.errors import FedInferError, MissingExtra, TransportError
from fedinfer.flower import environment, error_class, free_port, program, running, stop_strays, tail, wait_for_port
from fedinfer.ports import Clock, Listener
from fedinfer.simulation.folder import EVENTS

POLL_SECONDS = 0.5
MOST_POLLS = 5
LONGEST_SILENCE_SECONDS = 600.0
"""After so long without an event the coordinator is given up."""
APP = """[project]
name = "fedinfer-run"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedinfer"

[tool.flwr.app.components]
serverapp = "run_server:app"
clientapp = "run_client:app"

[tool.flwr.app.config]
scenario = ""
overrides = ""
run-dir = ""
"""
CLIENT = "from fedinfer.apps import client_app\n\napp = client_app()\n"
SERVER = "from fedinfer.apps import server_app\n\napp = server_app()\n"


def run_ray(scenario: Scenario, federation: Federation, folder: Path, clock: Clock, watch: Listener) -> None:
    """Run a scenario on Ray. The run folder is filled by the coordinator's own process.

    Args:
        scenario: validated.
        federation: its rows; only the number of devices is used here.
        folder: run folder; empty, or of a run that the coordinator goes on with.
        clock: measures time-outs.
        watch: receives the events that the coordinator writes.

    Raises:
        MissingExtra: Ray is not installed.
        TransportError: Flower did not start, or ended without an answer.
        FedInferError: the reason why the run ended early.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("engine ray needs Flower's simulation", hint="pip install 'fedinfer[ray]'")
    with tempfile.TemporaryDirectory(prefix="fedinfer-ray-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        port, seen = free_port(), len(_events(folder))
        _prepare(place, scenario, folder, port)
        log, variables = place / "flower.log", environment(place / "home")
        superlink = [
            program("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port),
            "--disable-runtime-dependency-installation",
        ]  # fmt: skip
        with _nothing_left(place / "home"), running(superlink, place / "empty", variables, log) as process:
            wait_for_port(port, process, log, clock)
            config = f"num-supernodes={len(federation.devices)} client-resources-num-cpus=1"
            command = [
                program("flwr"), "run", str(place / "app"), "fedinfer", "--federation-config", config,
                "--run-config", str(place / "run.toml"),
            ]  # fmt: skip
            started = subprocess.run(command, env=variables, cwd=place, capture_output=True, text=True, check=False)
            if started.returncode != 0:
                raise TransportError(f"flwr run failed: {(started.stdout + started.stderr)[-1500:]}")
            try:
                _follow(folder, seen, clock, watch, scenario.training.deadline_seconds, log)
            finally:
                _wait_for_end(variables, place)


@contextmanager
def _nothing_left(home: Path) -> Iterator[None]:
    try:
        yield
    finally:
        stop_strays(home)


def _wait_for_end(variables: dict[str, str], place: Path) -> None:
    """Give Flower the time to shut Ray down by itself; a few seconds after the coordinator's last event."""
    command = [program("flwr"), "list", "fedinfer", "--format", "json"]
    for _ in range(MOST_POLLS):
        answer = subprocess.run(command, env=variables, cwd=place, capture_output=True, text=True, check=False)
        if answer.returncode != 0 or '"status": "finished' in answer.stdout:
            return
        time.sleep(POLL_SECONDS)


def _prepare(place: Path, scenario: Scenario, folder: Path, port: int) -> None:
    """The app, the run config and the connection, each in its own folder; the SuperLink starts in an empty one."""
    for name in ("app", "home", "empty"):
        (place / name).mkdir()
    (place / "app" / "pyproject.toml").write_text(APP)
    (place / "app" / "run_client.py").write_text(CLIENT)
    (place / "app" / "run_server.py").write_text(SERVER)
    flat = place / "scenario.json"
    flat.write_text(json.dumps({**to_flat(scenario), "notices": scenario.notices}))
    values = {"scenario": f"flat:{flat}", "overrides": "", "run-dir": str(folder.resolve())}
    (place / "run.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    connection = f'[superlink.fedinfer]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (place / "home" / "config.toml").write_text(connection)


def _follow(folder: Path, seen: int, clock: Clock, watch: Listener, patience_seconds: float, log: Path) -> None:
    """Pass on the coordinator's events after the first `seen` until it is finished."""
    silent_since = clock.seconds()
    failure: FedInferError | None = None
    while True:
        events = _events(folder)
        for event in events[seen:]:
            fields = {key: value for key, value in event.items() if key not in ("event", "time", "run_id")}
            watch(event["event"], fields)
            if event["event"] in ("stopped", "failed"):
                failure = error_class(event["error"])(event["message"], hint=event["hint"])
            if event["event"] in ("finished", "failed"):
                if failure is not None:
                    raise failure
                return
        if len(events) > seen:
            seen, silent_since = len(events), clock.seconds()
        if clock.seconds() - silent_since > min(patience_seconds, LONGEST_SILENCE_SECONDS):
            raise TransportError(f"the coordinator on Ray says nothing any more: {tail(log)}")
        time.sleep(POLL_SECONDS)


def _events(folder: Path) -> list[dict[str, Any]]:
    """Complete lines of events.jsonl."""
    try:
        text = (folder / EVENTS).read_text()
    except OSError:
        return []
    return [event for line in text.splitlines(keepends=True) if line.endswith("\n") and (event := _event(line))]


def _event(line: str) -> dict[str, Any] | None:
    """None for the half line of a process that was killed."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
