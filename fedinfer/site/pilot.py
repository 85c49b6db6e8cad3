"""A whole real deployment on this machine: a site, its server, devices with TLS and keys, one run of heart, down again.

It is put together from the same functions as the commands, and starts the same programs: nothing is simulated.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fedinfer.deployment import (
    PUBLIC,
    REVOCATIONS,
    approve,
    card_of,
    import_approval,
    keep_node,
    open_authority,
    read_card,
    read_request,
    request_enrolment,
)
from fedinfer.errors import ConfigError, TransportError
from fedinfer.flower import ask_to_end, environment, free_port, running, stop_marked, tail
from fedinfer.ports import Clock, Entropy
from fedinfer.privacy import Budget
from fedinfer.site.make import AUTHORITY, Maker, make_site
from fedinfer.site.plan import PLAN
from fedinfer.site.server import OFFLINE, ServerFolder, open_server
from fedinfer.site.supervise import command_line
from fedinfer.site.templates import toml_lines
from fedinfer.site.watch import begin_run, follow_run, read_events, status_of
from fedinfer.types import Json

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
FEWEST, MOST = 4, 32
PILOT = "FEDINFER_PILOT"
"""Environment variable of every process of a pilot."""
POLL_SECONDS = 0.1
LOOK_SECONDS = 0.3
START_SECONDS = 240.0
PASSPHRASE_BYTES = 16
PUBLIC_ROWS = 10
"""Every so many rows are public."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PilotSettings:
    """What a person chooses.

    Args:
        folder: empty; everything is in it.
        devices: FEWEST to MOST.
        rounds: of training, 1 or more.
    """

    folder: Path
    devices: int
    rounds: int

    @property
    def names(self) -> list[str]:
        """Of the devices."""
        return [f"hospital{number}" for number in range(self.devices)]


@dataclass(frozen=True, slots=True)
class PilotDevice:
    """One of the pilot's devices.

    Args:
        name: of it.
        store: its folder.
        table: its rows.
    """

    name: str
    store: Path
    table: Path


def run_pilot(settings: PilotSettings, clock: Clock, entropy: Entropy, tell: Tell) -> tuple[Json, list[PilotDevice]]:
    """Bring the deployment up, run heart, take it down, also when something fails or at Ctrl-C.

    Args:
        settings: of a person.
        clock: of the operating system.
        entropy: of the operating system.
        tell: gets a line for each step.

    Returns:
        What run.json says, and the devices.

    Raises:
        ConfigError: too few or too many devices, or a folder that is not empty.
        TransportError: something did not come up, or the run failed.
    """
    if not FEWEST <= settings.devices <= MOST:
        raise ConfigError(f"{settings.devices} devices, a pilot has {FEWEST} to {MOST}")
    if settings.folder.exists() and any(settings.folder.iterdir()):
        raise ConfigError(f"{settings.folder} is not empty", hint="choose another --out")
    settings.folder.mkdir(parents=True, exist_ok=True)
    (settings.folder / PLAN).write_text(_plan(settings.names, settings.rounds))
    devices = set_up(settings, clock, entropy, tell)
    server = open_server(settings.folder)
    with _everything_up(server, devices, clock, tell):
        events = list(_one_run(server, clock, tell))
    if events[-1]["event"] != "finished":
        raise TransportError(f"the run failed: {events[-1].get('message', '')}", hint=str(events[-1].get("hint", "")))
    record: Json = json.loads((server.run / "run.json").read_text())
    return record, devices


def deal(count: int) -> tuple[list[list[dict[str, str]]], list[dict[str, str]]]:
    """The heart table for so many devices: a hospital each when they are four, else pieces of equal length.

    Args:
        count: of devices.

    Returns:
        Rows of each device; public rows.
    """
    table = resources.files("fedinfer") / "data" / "tables" / "heart_disease_uci.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    private = [row for index, row in enumerate(rows) if index % PUBLIC_ROWS]
    if count == len(HOSPITALS):
        return [[row for row in private if row["dataset"] == name] for name in HOSPITALS], rows[::PUBLIC_ROWS]
    return [private[number::count] for number in range(count)], rows[::PUBLIC_ROWS]


def set_up(settings: PilotSettings, clock: Clock, entropy: Entropy, tell: Tell) -> list[PilotDevice]:
    """Make the site of a pilot from the plan in its folder, and its devices, which join it.

    Args:
        settings: of a person.
        clock: of the operating system.
        entropy: of the operating system.
        tell: gets a line for each step.
    """
    folder, names = settings.folder, settings.names
    tables, public = deal(settings.devices)
    _write_table(folder / "public.csv", public)
    passphrase = entropy.take(PASSPHRASE_BYTES).hex()
    made = make_site(folder, Maker(passphrase, entropy, clock.now()))
    tell(f"site made: TLS, authority {made.fingerprint}, signing keys")
    devices = [PilotDevice(name, folder / name / "store", folder / name / "rows.csv") for name in names]
    authority = open_authority(folder / OFFLINE / AUTHORITY, lambda _what: passphrase)
    server = open_server(folder)
    proposed = read_card(card_of(server.folder)).card
    budget = Budget(proposed.epsilon, proposed.delta)
    for device, rows in zip(devices, tables, strict=True):
        _write_table(device.table, rows)
        asked = request_enrolment(
            device.store, device.name, device.table, budget, proposed.min_survivors, entropy,
            (server.folder / PUBLIC).read_bytes(), tasks=(proposed.task,),
        )  # fmt: skip
        answer = approve(folder / OFFLINE / AUTHORITY, authority, asked, clock.now())
        keep_node(server.folder, device.name, read_request(asked).node_key)
        import_approval(device.store, answer, clock.now())
        tell(f"{device.name}: key made, approved, joined; {len(rows)} rows of its own")
    (server.folder / REVOCATIONS).write_bytes((folder / OFFLINE / AUTHORITY / REVOCATIONS).read_bytes())
    return devices


def _plan(names: list[str], rounds: int) -> str:
    fleet, control = free_port(), free_port()
    top = {"name": "pilot", "fleet": f"127.0.0.1:{fleet}", "control": f"127.0.0.1:{control}"}
    overrides = [
        f"training.rounds={rounds}", "training.deadline_seconds=120", "drift.enabled=false", "fleet.dropout=0"
    ]  # fmt: skip
    return (
        f'{toml_lines(top)}\naddresses = ["127.0.0.1"]\ndevices = {json.dumps(names)}\n\n[run]\nscenario = "heart"\n'
        f'overrides = {json.dumps(overrides)}\npublic_data = "public.csv"\nmin_devices = {len(names)}\n\n'
        f"[budget]\nepsilon = 5.0\ndelta = 1e-5\nmin_survivors = 3\n"
    )


@contextlib.contextmanager
def _everything_up(server: ServerFolder, devices: list[PilotDevice], clock: Clock, tell: Tell) -> Iterator[None]:
    """Server and agents as processes of their own; all of them end with the block."""
    variables = environment(server.home) | {"OMP_NUM_THREADS": "1", PILOT: str(server.folder)}
    folder = server.folder.parent
    with contextlib.ExitStack() as stack:
        # Last of all: what an interruption met between its start and its entry in the stack.
        stack.callback(stop_marked, PILOT, str(server.folder))
        own = os.getpid()
        words = command_line(["server", "up", str(server.folder)], parent=own)
        stack.enter_context(running(words, folder, variables, server.log))
        _wait(server, "not registered yet", 0, clock)
        tell(f"server up: SuperLink at {server.plan.superlink}, TLS, {len(devices)} known devices")
        agents = []
        for device in devices:
            asked = ["device", "up", "--store", str(device.store), "--poll", str(POLL_SECONDS)]
            words = command_line(asked, parent=own)
            log = device.store.with_name("agent.log")
            agents.append(stack.enter_context(running(words, folder, variables, log)))
        stack.callback(ask_to_end, agents)
        _wait(server, "online", len(devices), clock)
        tell(f"{len(devices)} agents are online")
        yield
        tell("taking it down")


def _wait(server: ServerFolder, state: str, count: int, clock: Clock) -> None:
    """Wait until so many devices are in a state.

    Raises:
        TransportError: they do not come to it.
    """
    end = clock.seconds() + START_SECONDS
    while True:
        seen = status_of(server)
        states = [device.state for device in seen.devices]
        if seen.process and "unknown" not in states and states.count(state) == count:
            return
        if clock.seconds() > end:
            raise TransportError(f"after {START_SECONDS:.0f} s devices are {states}: {tail(server.log)}")
        time.sleep(LOOK_SECONDS)


def _one_run(server: ServerFolder, clock: Clock, tell: Tell) -> Iterator[Json]:
    before = len(read_events(server))
    tell(f"run {begin_run(server)} started")
    for event in follow_run(server, before, clock):
        line = _line(event)
        if line:
            tell(line)
        yield event


def _line(event: Mapping[str, object]) -> str:
    if event["event"] == "round":
        return f"round {event.get('round')}: {event.get('status')}, {event.get('survivors')} devices in the sum"
    return str(event["event"]) if event["event"] in ("started", "finished", "failed") else ""


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
