"""What an operator sees of a site: whether it is up, its devices by name, its newest run, and a run as it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from fedinfer.deployment import node_pem, nodes_of
from fedinfer.errors import FedInferError, TransportError
from fedinfer.flower import Control, RegisteredNode, connect, holder, tail
from fedinfer.ports import Clock
from fedinfer.site.server import ServerFolder
from fedinfer.types import Json

EVENTS, COORDINATOR_LOCK = "events.jsonl", "coordinator.lock"
OWN_APP = "fedinfer/fedinfer"
"""Publisher and name of the app of a site's runs."""
LAST = frozenset({"finished", "failed"})
LONGEST_EVENT = 1 << 20
"""Bytes at the end of the events, among which is a whole one."""
LOOK_SECONDS = 0.3
LONGEST_SILENCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class DeviceSeen:
    """A device of a site as its SuperLink sees it.

    Args:
        device: its name.
        state: "online", "offline", "not registered yet", or "unknown" when the SuperLink does not answer.
        last_seen: aware; None: never, or unknown.
    """

    device: str
    state: str
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """A site at a moment.

    Args:
        process: id of what keeps the SuperLink running; 0: it is down.
        devices: every approved one, by name.
        run: fields of the newest event of the newest run; empty when there was none.
        problem: why the devices are unknown; empty otherwise.
    """

    process: int
    devices: tuple[DeviceSeen, ...]
    run: Json
    problem: str


def status_of(server: ServerFolder) -> SiteStatus:
    """Look at a site.

    Args:
        server: of the site.

    Raises:
        ConfigError: a node key cannot be read.
    """
    process, problem, nodes = holder(server.lock), "", None
    if process:
        try:
            with connect(server.plan.control, server.tls_authority) as control:
                nodes = {node.public_key: node for node in control.nodes()}
        except FedInferError as error:
            problem = str(error)
    devices = [_seen(device, node_pem(line), nodes) for device, line in nodes_of(server.folder).items()]
    events = read_events(server)
    return SiteStatus(process, tuple(devices), events[-1] if events else {}, problem)


def _seen(device: str, key: bytes, nodes: dict[bytes, RegisteredNode] | None) -> DeviceSeen:
    if nodes is None:
        return DeviceSeen(device, "unknown", None)
    if key not in nodes:
        return DeviceSeen(device, "not registered yet", None)
    return DeviceSeen(device, "online" if nodes[key].online else "offline", nodes[key].last_seen)


def begin_run(server: ServerFolder, *, resume: bool = True, orders: bool = False) -> int:
    """Start a run of a site; it goes on with the one that did not end.

    A run whose coordinator was killed is ended for Flower first: until then devices wait for the rest of what it was
    sending them.

    Args:
        server: of the site, which is up.
        resume: false: give the run that did not end up.
        orders: train nothing, carry out what operators started.

    Returns:
        Flower's number of the run.

    Raises:
        TransportError: the server is down or refuses, or a run goes on.
    """
    if not holder(server.lock):
        raise TransportError(f"the server of {server.plan.name} is down", hint="fedinfer server up DIR --detach")
    if process := coordinator_of(server):
        raise TransportError(
            f"process {process} works on the run folder of {server.plan.name}",
            hint="wait for its end; or fedinfer server down DIR, then up and run: it goes on after its last step",
        )
    server.run.mkdir(mode=0o700, exist_ok=True)
    with connect(server.plan.control, server.tls_authority) as control:
        end_orphans(control)
        return control.start_run(server.write_app(), server.run_config(resume=resume, orders=orders))


def coordinator_of(server: ServerFolder) -> int:
    """Process of the coordinator that works on the run folder of a site; 0: none.

    Args:
        server: of the site.
    """
    return holder(server.run / COORDINATOR_LOCK)


def last_words(server: ServerFolder) -> str:
    """Why the last coordinator of a site ended; empty while one works, and when it ended well or was killed.

    Args:
        server: of the site.
    """
    try:
        with open(server.run / COORDINATOR_LOCK, encoding="utf-8", errors="replace") as file:
            return file.read().partition("\n")[2].strip()
    except OSError:
        return ""


def end_orphans(control: Control) -> None:
    """End the runs that Flower takes for running; the caller knows that no coordinator works.

    Args:
        control: of the SuperLink.

    Raises:
        TransportError: it does not answer.
    """
    for run in control.running(OWN_APP):
        try:
            control.stop_run(run)
        except TransportError:  # Flower has noticed meanwhile
            continue


def newest_event(server: ServerFolder) -> Json:
    """The last whole event; empty when there is none.

    Args:
        server: of the site.
    """
    path = server.run / EVENTS
    if not path.exists():
        return {}
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - LONGEST_EVENT, 0))
        lines = file.read().splitlines(keepends=True)
    return next((event for line in reversed(lines) if (event := _event(line.decode(errors="replace")))), {})


def read_events(server: ServerFolder) -> list[Json]:
    """Events of all runs of a site; what is no whole event, as of a process that was killed, is left out.

    Args:
        server: of the site.
    """
    path = server.run / EVENTS
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return [event for line in text.splitlines(keepends=True) if (event := _event(line))]


def _event(line: str) -> Json:
    """Empty for what is no whole event."""
    try:
        event = json.loads(line) if line.endswith("\n") else {}
    except ValueError:
        return {}
    return event if isinstance(event, dict) and {"event", "time", "run_id"} <= event.keys() else {}


def follow_run(server: ServerFolder, seen: int, clock: Clock) -> Iterator[Json]:
    """The events of a run as they come, until it ends.

    Args:
        server: of the site.
        seen: number of events before it.
        clock: measures silence.

    Yields:
        Events; the last one is "finished" or "failed".

    Raises:
        TransportError: the server went down, or the run said nothing for LONGEST_SILENCE_SECONDS.
    """
    heard = clock.seconds()
    while True:
        events = read_events(server)[seen:]
        for event in events:
            yield event
            if event["event"] in LAST:
                return
        if events:
            seen, heard = seen + len(events), clock.seconds()
        if not holder(server.lock):
            raise TransportError(f"the server went down: {tail(server.log)}", hint="start it and the run again")
        if clock.seconds() - heard > LONGEST_SILENCE_SECONDS:
            raise TransportError(f"the run has said nothing for {LONGEST_SILENCE_SECONDS:.0f} s: {tail(server.log)}")
        time.sleep(LOOK_SECONDS)
