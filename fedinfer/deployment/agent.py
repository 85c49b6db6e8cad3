"""`fedinfer device agent`: one long-lived process that keeps a SuperNode running and answers in its place.

The node is a child process. It carries messages and runs no program: its tasks are taken here and answered by the
installed app. The agent ends the node and starts another one when it ended, when it has heard nothing from the
SuperLink for too long, or when a message got lost between the two; every time a little later, and soon again after one
that lived.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from fedinfer.deployment.agreement import App, agreed_only, read_agreement
from fedinfer.deployment.loopback import ADDRESS, Loopback, make_loopback
from fedinfer.deployment.store import DeviceStore, open_device
from fedinfer.errors import TransportError
from fedinfer.flower import (
    CONTACT,
    MESSAGE,
    Handler,
    NodeTasks,
    RuntimeApi,
    environment,
    free_port,
    relay,
    single,
    stop,
    until_stopped,
)
from fedinfer.ports import Clock, Entropy

OFFLINE_SECONDS = 90.0
"""Three of Flower's heartbeats: a node that has had no answer from the SuperLink for so long is started again."""
LOOK_SECONDS = 1.0
"""How often the agent checks whether the node is there."""
LOOKS_PER_QUESTION = 30
"""After so many checks without a report it asks for messages all the same. More often would meet messages that the node
is still receiving."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
STEADY_SECONDS = 120.0
"""A node that lived so long does not count as a failed start."""
LOCK = "agent.lock"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What the owner of a device says when the agent is started.

    Args:
        superlink: HOST:PORT of its fleet API.
        root_certificates: file with the authority of the SuperLink's certificate.
        node_key: file with the key with which the SuperLink lets this node connect, or None.
        wait_seconds: between two questions to the SuperLink when there is nothing to do, > 0.
        offline_seconds: see OFFLINE_SECONDS.
    """

    superlink: str
    root_certificates: Path
    node_key: Path | None
    wait_seconds: float
    offline_seconds: float = OFFLINE_SECONDS


class Tasks(Protocol):
    """Messages that wait for an answer."""

    def answer_next(self, handle: Handler) -> bool:
        """Answer one message, if one waits.

        Args:
            handle: makes the reply.

        Returns:
            Whether one was there.

        Raises:
            TransportError: the node does not answer, or a message stays without an answer.
        """


class Signs:
    """The reading end of the node's reports.

    Args:
        descriptor: of the pipe.
        clock: measures the silence, from now.
    """

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._last = clock.seconds()
        self.connected = False
        """Whether the SuperLink ever answered; the node's Runtime API answers from then on."""

    def wait(self, seconds: float) -> bool:
        """Read reports until a message waits for an answer, the time is over, or the node closed its end.

        Args:
            seconds: longest wait, >= 0.

        Returns:
            Whether a message waits.
        """
        end, readable = self._clock.seconds() + seconds, select.poll()
        readable.register(self._descriptor, select.POLLIN)
        while (left := end - self._clock.seconds()) > 0:
            ready = readable.poll(1000 * left)
            reported = os.read(self._descriptor, select.PIPE_BUF) if ready else b""
            if CONTACT in reported:
                self.connected, self._last = True, self._clock.seconds()
            if MESSAGE in reported or not reported:
                return MESSAGE in reported
        return False

    @property
    def silence(self) -> float:
        """Seconds since the SuperLink answered."""
        return self._clock.seconds() - self._last


def run_agent(store: Path, settings: AgentSettings, app: App, clock: Clock, entropy: Entropy) -> None:
    """Take part for a device until SIGTERM or SIGINT.

    Args:
        store: of the device.
        settings: of its owner.
        app: the installed app.
        clock: of the operating system.
        entropy: of the operating system.

    Raises:
        ConfigError: the folder is no device store, or its owner agreed to nothing.
        StoreError: another agent runs for it.
    """
    device = open_device(store)
    handle = agreed_only(read_agreement(device), app)
    lock = single(device.folder / LOCK, f"an agent for {device.device}")
    with lock, tempfile.TemporaryDirectory(prefix="fedinfer-agent-") as name, until_stopped():
        folder = Path(name)
        loopback = make_loopback(folder, entropy, clock.now())
        failed = 0
        while True:
            begin = clock.seconds()
            reason = _one_node(device, settings, handle, loopback, clock)
            failed = 0 if clock.seconds() - begin >= STEADY_SECONDS else failed + 1
            pause = pause_after(failed)
            _log.warning("the node is started again in %.0f s: %s", pause, reason)
            time.sleep(pause)


def pause_after(failed: int) -> float:
    """Seconds before the next start of the node: doubled with each start in a row that did not last.

    Args:
        failed: such starts so far, >= 0.

    Returns:
        In [FIRST_PAUSE, LONGEST_PAUSE].
    """
    return min(FIRST_PAUSE * 2.0 ** max(failed - 1, 0), LONGEST_PAUSE)


def node_arguments(settings: AgentSettings, loopback: Loopback, port: int) -> list[str]:
    """Arguments of `flower-supernode`: TLS on both sides, nothing of the device, no program of a run.

    Args:
        settings: of the device's owner.
        loopback: files with which agent and node find each other.
        port: TCP port of the node's Runtime API on the loopback interface.
    """
    arguments = [
        "--superlink", settings.superlink, "--root-certificates", str(settings.root_certificates.resolve()),
        "--isolation", "process", "--superexec-auth-secret-file", str(loopback.secret_file),
        "--host", ADDRESS, "--port", str(port), "--ssl-ca-certfile", str(loopback.certificate),
        "--ssl-certfile", str(loopback.certificate), "--ssl-keyfile", str(loopback.key),
    ]  # fmt: skip
    if settings.node_key is not None:
        arguments += ["--auth-supernode-private-key", str(settings.node_key.resolve())]
    return arguments


def serve_node(
    is_running: Callable[[], bool], signs: Signs, tasks: Tasks, handle: Handler, offline_seconds: float
) -> str:
    """Answer a node's messages as long as it is of use.

    Args:
        is_running: whether its process is there.
        signs: its reports.
        tasks: its messages; asked for after the node's first contact, when its API answers.
        handle: answers.
        offline_seconds: longest silence of the SuperLink.

    Returns:
        Why it is of no use any more.
    """
    for number in count(1):
        waits = signs.wait(LOOK_SECONDS) or number % LOOKS_PER_QUESTION == 0
        if not is_running():
            return "it ended"
        if signs.silence > offline_seconds:
            return f"the SuperLink did not answer for {signs.silence:.0f} s"
        try:
            while waits and signs.connected and tasks.answer_next(handle):
                pass
        except TransportError as error:
            return str(error)
    raise AssertionError("count() has no end")


def _one_node(device: DeviceStore, settings: AgentSettings, handle: Handler, loopback: Loopback, clock: Clock) -> str:
    """Start a node, answer its messages, end it; why it is of no use any more."""
    port, folder = free_port(), loopback.certificate.parent
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), contextlib.ExitStack() as stack:
        try:
            process = _start(node_arguments(settings, loopback, port), settings.wait_seconds, folder, writing)
        finally:
            os.close(writing)
        stack.callback(stop, process)
        if process.stdout is not None:
            relay(process.stdout)
        api = RuntimeApi(f"{ADDRESS}:{port}", loopback.certificate, loopback.secret)
        tasks = NodeTasks(api, {"store": str(device.folder.resolve())})
        stack.callback(tasks.close)
        _log.info("node %d of device %s is started", process.pid, device.device)
        signs = Signs(reading, clock)
        return serve_node(lambda: process.poll() is None, signs, tasks, handle, settings.offline_seconds)


def _start(arguments: list[str], wait_seconds: float, folder: Path, report: int) -> subprocess.Popen[bytes]:
    """The node's process: a group of its own, Flower's files in a folder that goes with the agent."""
    own = ["--wait", repr(wait_seconds), "--report", str(report), "--parent", str(os.getpid())]
    return subprocess.Popen(
        [sys.executable, "-m", "fedinfer.flower.node", *own, *arguments],
        cwd=folder,
        env=environment(folder / "flower"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[report],
        start_new_session=True,
    )
