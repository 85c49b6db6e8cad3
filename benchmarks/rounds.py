"""A round of four hospitals over a real SuperLink: Flower's own processes and waits beside the device agent.

    python benchmarks/rounds.py

Both in one run on loopback with TLS and node authentication, one after the other: the built-in heart task, four rounds
of training without drift. `flower` starts `flower-superlink` and `flower-supernode` as Flower's documentation does: a
Python process for every message, and three seconds between two looks on both sides. `agent` starts `fedinfer
superlink` and `fedinfer device agent`. A round is the time between two `round` events, so that start-up does not count;
the figure is the median of three. The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

from pilot import HOSPITALS, REPOSITORY, Pilot, events, pilot, wait_for_event

from fedinfer.flower.processes import free_port, program, running

ROUNDS, DEADLINE, POLL, PATIENCE = 4, 120, 0.1, 900.0
FLOWER_SERVER = """
from fedinfer import apps

apps.prompt_grid = lambda grid, _clock: grid  # Flower's own waiting
app = apps.server_app()
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "fedinfer"
version = "0.1.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "fedinfer"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
[tool.flwr.app.config]
scenario = ""
overrides = ""
run-dir = ""
deployment = false
authority = ""
revocations = ""
keys = ""
passphrase-file = ""
public-data = ""
min-devices = 2
"""


def flower_superlink(folder: Path) -> list[str]:
    return [
        program("flower-superlink"), "--host", "127.0.0.1", "--port", "{fleet}",
        "--ssl-ca-certfile", str(folder / "ca.crt"), "--ssl-certfile", str(folder / "server.pem"),
        "--ssl-keyfile", str(folder / "server.key"), "--database", str(folder / "superlink.sqlite"),
        "--enable-supernode-auth", "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def flower_node(made: Pilot, number: int) -> list[str]:
    folder = made.folder
    return [
        program("flower-supernode"), "--superlink", f"127.0.0.1:{made.fleet}",
        "--root-certificates", str(folder / "ca.crt"),
        "--auth-supernode-private-key", str(folder / f"node{number}.key"),
        "--node-config", f'store="{made.store(number)}"', "--host", "127.0.0.1", "--port", str(free_port()),
        "--ssl-certfile", str(folder / "server.pem"), "--ssl-keyfile", str(folder / "server.key"),
        "--ssl-ca-certfile", str(folder / "ca.crt"),
    ]  # fmt: skip


def write_app(folder: Path, server: str) -> Path:
    """The product's app bundle with another text for the server's side."""
    client = (REPOSITORY / "clients" / "app.py").read_text()
    for part, text in (("server", server), ("clients", client)):
        (folder / part).mkdir(parents=True)
        (folder / part / "__init__.py").write_text("")
        (folder / part / "app.py").write_text(text)
    (folder / "pyproject.toml").write_text(PROJECT)
    return folder


def flower(folder: Path) -> list[float]:
    """Seconds of each round with Flower's own processes."""
    with ExitStack() as stack:
        made = stack.enter_context(pilot(folder, flower_superlink(folder)))
        for number in range(len(HOSPITALS)):
            start_node(stack, made, number, flower_node(made, number))
        return seconds_of_rounds(made, FLOWER_SERVER)


def agent(folder: Path) -> list[float]:
    """Seconds of each round with the device agent."""
    with ExitStack() as stack:
        made = stack.enter_context(pilot(folder))
        for number in range(len(HOSPITALS)):
            start_node(stack, made, number, made.agent_command(number, POLL))
        return seconds_of_rounds(made, (REPOSITORY / "server" / "app.py").read_text())


def start_node(stack: ExitStack, made: Pilot, number: int, command: list[str]) -> None:
    stack.enter_context(running(command, made.folder, made.variables(), made.node_log(number)))


def seconds_of_rounds(made: Pilot, server: str) -> list[float]:
    """Run the task; seconds of each round but the first."""
    overrides = f"training.rounds={ROUNDS};training.deadline_seconds={DEADLINE}"
    made.start(write_app(made.folder / "app", server), made.values(made.run, overrides))
    wait_for_event(made, "finished", 1, patience=PATIENCE)
    reported = [event for event in events(made.run) if event["event"] == "round"]
    assert all(event["survivors"] == len(HOSPITALS) for event in reported), reported
    ends = [datetime.fromisoformat(event["time"]) for event in reported]
    return [(after - before).total_seconds() for before, after in pairwise(ends)]


def main() -> None:
    rows = []
    for name, measure in (("flower", flower), ("agent", agent)):
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(Path(folder))
        print(f"{name}: {', '.join(f'{second:.2f}' for second in seconds)} s", flush=True)
        rows.append({
            "devices": name, "median_s": round(statistics.median(seconds), 2), "shortest_s": round(min(seconds), 2),
            "longest_s": round(max(seconds), 2),
        })  # fmt: skip
    before, after = (row["median_s"] for row in rows)
    print(json.dumps({"hospitals": len(HOSPITALS), "round_ratio": round(before / after, 2), "rounds": rows}))


if __name__ == "__main__":
    main()
