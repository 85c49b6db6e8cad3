"""A site on loopback whose processes are killed: server, SuperLink, coordinator, four agents. Not a test itself.

The server and the agents are started as their systemd units start them, and again when they end (`Restart=always`).
What was lost and what was spent twice is read from the disks, and compared with a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.errors import FedInferError
from fedinfer.flower.processes import ask_to_end, environment, free_port, running, stop_marked, tail
from fedinfer.inference.install.slots import Slots
from fedinfer.privacy.accounting.ledger import Ledger
from fedinfer.site.pilot import PILOT, PilotDevice, PilotSettings, set_up
from fedinfer.site.plan import PLAN
from fedinfer.site.server import ServerFolder, open_server
from fedinfer.site.supervise import MARK, command_line
from fedinfer.site.watch import begin_run, read_events, status_of
from fedinfer.store import read_store
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json
from tests.e2e.pilot import REPOSITORY
from tests.unit.deployment.test_deployment_run import use

DEVICES = 4
SHORT = (
    "training.rounds=3", "training.deadline_seconds=60", "fleet.dropout=0", "rollout.waves=[0.5,1.0]",
    "rollout.max_public_drop=1.0", "rollout.max_failure_rate=0.5", "drift.windows=1", "drift.window=5",
    "drift.wait_seconds=30", "drift.poll_seconds=0.5", "drift.reference_windows=1", "drift.max_triggers=0",
)  # fmt: skip
"""A run with everything in it: rounds, a push in two waves, a window of what devices really predict."""
PATIENCE = 600.0
TARGETS = {"coordinator": b"flwr-serverapp", "superlink": b"\0superlink\0", "superexec": b"flower-superexec"}
"""Words in the command line of what the server starts."""


@dataclass
class Field:
    """A site and its processes."""

    folder: Path
    server: ServerFolder
    devices: list[PilotDevice]
    stack: ExitStack
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        return [device.name for device in self.devices]

    def up(self, name: str) -> None:
        """Start the server or a device's agent, as its unit does."""
        words = ["server", "up", str(self.server.folder)]
        log = self.server.log
        if name != "server":
            store = self.device(name).store
            words, log = ["device", "up", "--store", str(store), "--poll", "0.5"], self.log(name)
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, PILOT: str(self.server.folder)}
        command = command_line(words, parent=os.getpid())
        process = self.stack.enter_context(
            running(command, self.folder, environment(self.server.home) | own, log)
        )  # fmt: skip
        self.programs[name] = process
        self.away.discard(name)

    def device(self, name: str) -> PilotDevice:
        return next(device for device in self.devices if device.name == name)

    def log(self, name: str) -> Path:
        return self.device(name).store.with_name("agent.log")

    def processes(self, target: str) -> list[int]:
        """The server, what it started, or an agent."""
        if target in self.programs:
            return [self.programs[target].pid]
        mark, found = f"{MARK}={self.server.folder}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = mark in (entry / "environ").read_bytes().split(b"\0")
                if ours and TARGETS[target] in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def send(self, target: str, sign: signal.Signals) -> int:
        """How many processes got it."""
        count = 0
        for process in self.processes(target):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, sign)
                count += 1
        return count

    def kill(self, target: str, *, stays_away: bool = False) -> int:
        """SIGKILL; a unit is started again like by systemd."""
        count = self.send(target, signal.SIGKILL)
        if target in self.programs:
            self.programs.pop(target).wait(10)
            if stays_away:
                self.away.add(target)
            else:
                self.up(target)
        return count

    def down(self, name: str) -> None:
        """SIGTERM, and it stays down."""
        process = self.programs.pop(name)
        self.away.add(name)
        process.terminate()
        process.wait(60)

    def begin(self) -> None:
        """Start a run, as `fedinfer server run` does; an operator whose server is not up yet tries again."""
        self.online()
        self.wait("the server takes a run", self._begun)

    def _begun(self) -> bool:
        try:
            begin_run(self.server)
        except FedInferError:
            return False
        return True

    def reread(self) -> None:
        """What somebody changed in site.toml."""
        self.server = open_server(self.folder)

    def wait(self, what: str, reached: Callable[[], bool], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not reached():
            assert time.monotonic() < end, (what, self.events()[-3:], tail(self.server.log, 4000))
            time.sleep(0.1)

    def online(self, names: list[str] | None = None) -> None:
        """Wait until devices are connected."""
        wanted = set(self.names if names is None else names) - self.away
        self.wait(
            f"{sorted(wanted)} are online",
            lambda: wanted <= {each.device for each in status_of(self.server).devices if each.state == "online"},
        )

    def events(self) -> list[Json]:
        return read_events(self.server)

    def since(self, begin: int, name: str) -> list[Json]:
        return [event for event in self.events()[begin:] if event["event"] == name]

    def wait_for(self, begin: int, name: str, count: int = 1, **fields: Any) -> None:
        """Wait for events after the first `begin`; a run that fails meanwhile is an error."""

        def reached() -> bool:
            told = self.events()[begin:]
            failed = [event for event in told if event["event"] == "failed" and event["error"] != "FolderInUse"]
            assert not failed or name == "failed", (failed, tail(self.server.log, 4000))
            return sum(event["event"] == name and fields.items() <= event.items() for event in told) >= count

        self.wait(f"{count} x {name} {fields}", reached)

    def finish(self, begin: int, *, failed: bool = False) -> Json:
        """Wait for the end of the run; what run.json says. `failed`: another one failed meanwhile."""
        if not failed:
            self.wait_for(begin, "finished")
        self.wait("the coordinator has ended", lambda: not self.processes("coordinator"), 60)
        record: Json = json.loads((self.server.run / "run.json").read_text())
        return record

    def finish_as_operator(self, begin: int) -> tuple[Json, int]:
        """As `finish`; a run that could not go on is started again. How often it was."""
        for starts in range(5):
            self.wait_for_end(begin)
            self.wait("the coordinator has ended", lambda: not self.processes("coordinator"), 60)
            record: Json = json.loads((self.server.run / "run.json").read_text())
            if record["status"] != "unfinished":
                return record, starts
            begin = len(self.events())
            self.begin()
        raise AssertionError(self.events()[begin:])

    def wait_for_end(self, begin: int) -> None:
        """However it ends."""
        self.wait("the run ends", lambda: bool(self.since(begin, "finished") or self.since(begin, "failed")))

    def one_run(self) -> Json:
        """A run that nobody disturbs."""
        begin = len(self.events())
        self.begin()
        return self.finish(begin)

    def versions(self) -> dict[str, int]:
        """What each device runs; 0: nothing."""
        active = {device.name: Slots(device.store / "slots").active() for device in self.devices}
        return {name: 0 if slot is None else slot.version for name, slot in active.items()}


@contextmanager
def in_the_field(folder: Path, overrides: tuple[str, ...] = SHORT, *, up: bool = True) -> Iterator[Field]:
    """A site whose server and agents are up, while devices predict all the time.

    Args:
        folder: to make.
        overrides: of the scenario.
        up: start everything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = PilotSettings(folder, DEVICES, 1)
    (folder / PLAN).write_text(plan(settings.names, overrides))
    devices = set_up(settings, SystemClock(), SystemEntropy(), lambda _line: None)
    with ExitStack() as stack:
        made = Field(folder, open_server(folder), devices, stack)
        stack.callback(stop_marked, PILOT, str(made.server.folder))
        stack.callback(lambda: ask_to_end(made.programs.values()))
        if up:
            made.up("server")
            for name in made.names:
                made.up(name)
            made.online()
        with predicting(made):
            yield made


def plan(names: list[str], overrides: tuple[str, ...]) -> str:
    """site.toml; budgets are large enough for all runs of a test."""
    return f"""
name = "field"
addresses = ["127.0.0.1"]
fleet = "127.0.0.1:{free_port()}"
control = "127.0.0.1:{free_port()}"
devices = {json.dumps(names)}
[run]
scenario = "heart"
overrides = {json.dumps(overrides)}
public_data = "public.csv"
min_devices = {len(names) - 1}
[budget]
epsilon = 10000.0
delta = 1e-5
min_survivors = 3
"""


@contextmanager
def predicting(made: Field) -> Iterator[None]:
    """Programs on the devices predict, whatever happens to the agents."""
    over, wrong = threading.Event(), list[BaseException]()

    def predict() -> None:
        while not over.wait(1.0):
            for device in made.devices:
                try:
                    use(device.store, 5)
                except BaseException as error:
                    wrong.append(error)
                    return

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not wrong, wrong


Spent = Mapping[str, Mapping[str, str]]
"""By owner ("server" or a device) and reference: the event, as it was written."""


def spent_in(made: Field, run: str) -> Spent:
    """What every ledger has for a run."""
    stores = {"server": made.server.run / "ledger.sqlite"}
    stores |= {device.name: device.store / "device.sqlite" for device in made.devices}
    found: dict[str, dict[str, str]] = {}
    for owner, store in stores.items():
        entries = [entry for entry in Ledger(read_store(store)).entries(None) if entry.task == run]
        found[owner] = {entry.reference: str(entry.event) for entry in entries}
        assert len(found[owner]) == len(entries), (owner, entries)
    return found


def spent_twice(made: Field, run: str, undisturbed: Spent) -> list[str]:
    """What a run cost that an undisturbed one does not, or cost a device and not the server's statement."""
    spent, found = spent_in(made, run), []
    for owner, own in spent.items():
        allowed = undisturbed[owner]
        found += [f"{owner} paid for {reference}" for reference in own if own[reference] != allowed.get(reference)]
        found += [f"{owner} paid for {each}, which the server did not" for each in own if each not in spent["server"]]
    record = record_of(made, run)
    for device in (device for device in made.devices if spent[device.name]):  # the others took no part
        epsilon = Ledger(read_store(device.store / "device.sqlite")).spent(device.name, run).epsilon
        if epsilon > record["privacy"]["epsilon"] + 1e-9:
            found.append(f"{device.name} spent {epsilon:.4f}, the statement is {record['privacy']['epsilon']:.4f}")
    return found


def record_of(made: Field, run: str) -> Json:
    """run.json of a run, the newest one or an earlier one."""
    newest: Json = json.loads((made.server.run / "run.json").read_text())
    if newest["run_id"] == run:
        return newest
    earlier: Json = json.loads((made.server.run / "runs" / f"{run}.json").read_text())
    return earlier


def lost(made: Field, run: str, rounds: int, windows: int) -> list[str]:
    """What of a run is missing or half written.

    Args:
        made: the site.
        run: its name.
        rounds: that were planned.
        windows: that were planned.
    """
    record, found = record_of(made, run), []
    aborted = [row for row in record["rounds"] if row["status"] != "released"]
    if record["status"] == "aborted" and len(aborted) == len(record["rounds"]) == rounds:
        windows = 0  # weights that nobody trained are not published: every round was under way when it was hit
    elif record["status"] != "completed":
        found.append(f"the run is {record['status']}")
    if [row["round"] for row in record["rounds"]] != list(range(1, rounds + 1)):
        found.append(f"rounds {[row['round'] for row in record['rounds']]}")
    timeline = record["drift"]["timeline"] if windows else []
    if [row["window"] for row in timeline] != list(range(1, windows + 1)):
        found.append(f"windows {[row['window'] for row in timeline]}")
    if (made.server.run / "state" / "state.npz").exists():
        found.append("a run waits to be gone on with")
    return found + half_written(made)


def half_written(made: Field) -> list[str]:
    """Files of the server and the devices that cannot be read as what they are."""
    found = []
    folders = [made.server.run, *(device.store for device in made.devices)]
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        try:
            _read(path)
        except (ValueError, OSError, sqlite3.Error, KeyError) as error:
            if path.exists():
                found.append(f"{path.relative_to(made.folder)}: {type(error).__name__}: {error}")
    return found


def _read(path: Path) -> None:
    match path.suffix:
        case ".json":
            json.loads(path.read_bytes())
        case ".jsonl":
            for line in path.read_text().splitlines():
                json.loads(line)
        case ".npz":
            with np.load(path) as arrays:
                for name in arrays.files:
                    arrays[name]
        case ".sqlite":
            said = read_store(path).execute("PRAGMA integrity_check").fetchall()
            if said != [("ok",)]:
                raise ValueError(said)
        case _:
            return
