"""`server up`: keeps Flower's SuperLink running, and lets exactly those devices connect that the authority approved.

The SuperLink is a child that ends with this process, however it ends. When it ends by itself it is started again, a
little later each time. Node keys in the folder `nodes/` are registered, others are not let in any more. A run whose
coordinator was killed, alone or with the SuperLink, is started again and goes on (`carry_on`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedinfer.deployment import node_pem, nodes_of, pause_after
from fedinfer.errors import FedInferError, TransportError
from fedinfer.flower import (
    Control,
    connect,
    environment,
    holder,
    log_to_stderr,
    relay,
    single,
    stop,
    stop_marked,
    tail,
    until_stopped,
    wait_for_port,
)
from fedinfer.inference import bind
from fedinfer.ports import Clock
from fedinfer.private_files import only_owner
from fedinfer.site.carry_on import CarryOn, carry_on
from fedinfer.site.plan import port_of
from fedinfer.site.server import ServerFolder

MARK = "FEDINFER_SERVER"
"""Environment variable of everything that a server starts: what a killed one left behind is found by it."""
SUPEREXEC = b"flower-superexec"
LOOK_SECONDS = 0.5
SYNC_SECONDS = 5.0
STEADY_SECONDS = 120.0
UP_SECONDS = 180.0
_log = logging.getLogger(__name__)


def command_line(words: Sequence[str], *, parent: int = 0) -> list[str]:
    """A command of this program, for a child process of this Python.

    Args:
        words: as after `fedinfer`.
        parent: process with which the child ends (Linux); 0: it lives on.
    """
    bound = f"from fedinfer.flower.node import end_with_parent; end_with_parent({parent}); " if parent else ""
    return [sys.executable, "-c", f"{bound}from fedinfer.cli.main import main; main()", *words]


def superlink_words(server: ServerFolder) -> list[str]:
    """`fedinfer superlink` for a site.

    Args:
        server: of the site.
    """
    folder = server.folder
    return [
        "superlink", "--fleet", server.plan.fleet, "--control", server.plan.control,
        "--database", str(folder / "superlink.sqlite"), "--ca", str(server.tls_authority),
        "--certificate", str(folder / "server.pem"), "--key", str(folder / "server.key"),
    ]  # fmt: skip


def serve_site(server: ServerFolder, clock: Clock) -> None:
    """Keep the SuperLink of a site running until SIGTERM or SIGINT.

    Args:
        server: of the site.
        clock: of the operating system.

    Raises:
        StoreError: another process does.
        ConfigError: an address is taken, or not this machine's.
        TransportError: it does not come up the first time; later it is started again.
    """
    log_to_stderr()
    with single(server.lock, f"the server of {server.plan.name}"), until_stopped():
        stop_marked(MARK, str(server.folder))
        for listening in (server.plan.fleet, server.plan.control):
            bind(listening.rpartition(":")[0].strip("[]"), port_of(listening)).close()
        try:
            _keep_running(server, clock)
        finally:
            stop_marked(MARK, str(server.folder))


def _keep_running(server: ServerFolder, clock: Clock) -> None:
    failed, came_up = 0, False
    carried = CarryOn()
    while True:
        begin = clock.seconds()
        reason, answered = _one_superlink(server, carried, clock)
        came_up = came_up or answered
        carried.server_died()
        if not came_up:
            raise TransportError(f"the SuperLink did not come up: {reason}", hint="fedinfer preflight DIR")
        failed = 0 if clock.seconds() - begin >= STEADY_SECONDS else failed + 1
        pause = pause_after(failed)
        _log.error("the SuperLink is started again in %.0f s: %s", pause, reason)
        time.sleep(pause)


def _one_superlink(server: ServerFolder, carried: CarryOn, clock: Clock) -> tuple[str, bool]:
    """Start it, register devices, wait for its end: why it ended, and whether it ever answered."""
    answered = False
    process = subprocess.Popen(
        command_line(superlink_words(server), parent=os.getpid()),
        cwd=server.folder,
        env=environment(server.home) | {MARK: str(server.folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    if process.stdout is not None:
        relay(process.stdout)
    try:
        wait_for_port(port_of(server.plan.control), process, server.log, clock)
        _log.info("the SuperLink is process %d, devices reach it at %s", process.pid, server.plan.superlink)
        with connect(server.plan.control, server.tls_authority) as control:
            answered = _follow_nodes(server, control, process, carried, clock)
    except TransportError as error:
        return str(error), answered
    finally:
        stop(process)
    return f"it ended with code {process.returncode}", answered


def _follow_nodes(
    server: ServerFolder, control: Control, process: subprocess.Popen[bytes], carried: CarryOn, clock: Clock
) -> bool:
    """Let approved devices connect and killed runs go on as long as the SuperLink runs; whether it ever answered."""
    known: Mapping[str, bytes] | None = None
    next_look, starts = 0.0, False
    while process.poll() is None:
        if clock.seconds() >= next_look:
            next_look = clock.seconds() + SYNC_SECONDS
            before, starts = starts, starts_runs(process.pid)
            if before and not starts:
                _log.error("the SuperLink lost the process that starts runs, and does not start another one")
                break
            wanted = nodes_of(server.folder)
            if wanted != known:
                try:
                    admit_nodes(control, wanted)
                    known = wanted
                except FedInferError as error:
                    _log.error("devices are not registered yet: %s", error)
        if known is not None:
            carry_on(server, carried, clock)
        time.sleep(LOOK_SECONDS)
    return known is not None


def starts_runs(superlink: int) -> bool:
    """Whether a SuperLink has the child that starts coordinators; it ends when nobody answers it for a while (Linux).

    Args:
        superlink: process.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == superlink and SUPEREXEC in (process / "cmdline").read_bytes():
                return True
    return False


def admit_nodes(control: Control, wanted: Mapping[str, bytes]) -> None:
    """Let these devices connect and no others.

    Args:
        control: of the SuperLink.
        wanted: names of devices to their public node keys.

    Raises:
        ConfigError: a key that is none.
        TransportError: the SuperLink does not answer, or refuses.
    """
    keys = {node_pem(line): device for device, line in wanted.items()}
    there = {node.public_key: node.node for node in control.nodes()}
    for key, node in there.items():
        if key not in keys:
            control.unregister(node)
            _log.warning("node %d may connect no more", node)
    for key, device in keys.items():
        if key not in there:
            control.register(key, device)
            _log.info("device %s may connect", device)


def start_detached(words: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a command of this program that outlives this one.

    Args:
        words: as after `fedinfer`.
        folder: working folder.
        log: file to which its output is added.
    """
    with open(log, "ab", opener=only_owner) as output:
        return subprocess.Popen(
            command_line(words), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip


def wait_until_up(server: ServerFolder, process: subprocess.Popen[bytes], clock: Clock) -> None:
    """Wait until a server that was started in the background answers and knows its devices; end it when it does not.

    Args:
        server: of the site.
        process: its supervisor.
        clock: measures the wait.

    Raises:
        TransportError: it ended or does not answer; the message ends with its last words.
    """
    end = clock.seconds() + UP_SECONDS
    while clock.seconds() < end and process.poll() is None:
        if holder(server.lock) == process.pid and _knows_its_devices(server):
            return
        time.sleep(LOOK_SECONDS)
    stop(process)
    raise TransportError(f"the server does not start: {tail(server.log)}", hint="fedinfer preflight DIR")


def _knows_its_devices(server: ServerFolder) -> bool:
    try:
        with connect(server.plan.control, server.tls_authority) as control:
            there = {node.public_key for node in control.nodes()}
    except TransportError:
        return False
    return there == {node_pem(line) for line in nodes_of(server.folder).values()}
