"""`fedinfer device agent`: one long-lived process that keeps a SuperNode running and answers in its place.

The node is a child process. It carries messages and runs no program: its tasks are answered by the installed app, in a
second child that is there while messages come. The agent ends the node and starts another one when it ended, when it
has heard nothing from the SuperLink for too long, or when a message got lost between the two; every time a little
later, and soon again after one that lived.

An agent waits for months, so this module imports nothing but what it waits with: no Flower, no numpy, no cryptography
(`python -m fedinfer.deployment.agent`, which `become_agent` turns a command into).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from fedinfer.deployment.loopback_files import ADDRESS, Loopback
from fedinfer.deployment.signs import Signs
from fedinfer.errors import FedInferError, TransportError
from fedinfer.flower import (
    environment,
    free_port,
    log_to_stderr,
    relay,
    single,
    stop,
    until_stopped,
)
from fedinfer.system import SystemClock

if TYPE_CHECKING:
    from fedinfer.ports import Clock

ASK, ANSWERED, NOTHING = b"?\n", b"answered\n", b"nothing\n"
"""What agent and worker say; any other line of the worker says why the node is of no use."""
IDLE_SECONDS = 300.0
"""A worker that nothing came for ends. It is longer than the pauses of a run: its start costs seconds."""
OFFLINE_SECONDS = 90.0
"""Three of Flower's heartbeats: a node that has had no answer from the SuperLink for so long is started again."""
LOOK_SECONDS = 1.0
"""How often the agent checks whether the node is there."""
FIRST_PAUSE, EARLY_PAUSE, LONGEST_PAUSE = 1.0, 10.0, 60.0
EARLY_STARTS = 20
"""So many starts are at most EARLY_PAUSE apart. After a crash the SuperLink takes a node for connected until three of
its heartbeats are missing; whoever waits ever longer meanwhile comes back long after it was free to."""
STEADY_SECONDS = 120.0
"""A node that lived so long does not count as a failed start."""
NOT_LET_IN = (
    "was not let in: `fedinfer preflight STORE` says if name, certificate, network or clock are wrong; else the "
    "server does not know its node key, or takes it for connected, for a minute after a crash"
)
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

    @property
    def awake(self) -> bool:
        """Whether there is a process that answers."""

    def answer_next(self) -> bool:
        """Answer one message, if one waits.

        Returns:
            Whether one was there.

        Raises:
            TransportError: the node does not answer, or a message stays without an answer.
        """

    def rest(self) -> None:
        """End the process that answers when nothing came for a while."""


class Worker:
    """Answers a node's messages in a process of its own: it holds what training needs, an idle agent nothing of it.

    The process is started by the first message and ended when none came for a while. Of each question the agent learns
    whether a message was there; the log lines of the process go where those of the agent go.

    Args:
        command: of the process; `--parent PID --reply DESCRIPTOR` is put behind it.
        variables: its environment.
        clock: measures how long nothing came.
        idle_seconds: after so long it ends.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], clock: Clock, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._command, self._variables, self._clock = list(command), dict(variables), clock
        self._idle_seconds, self._last = idle_seconds, clock.seconds()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: IO[bytes] | None = None

    @property
    def awake(self) -> bool:
        """Whether there is a process that answers."""
        return self._process is not None

    def answer_next(self) -> bool:
        """Answer one message, if one waits.

        Returns:
            Whether one was there.

        Raises:
            TransportError: the node does not answer, or the process ended over the message.
        """
        process, replies = self._started()
        try:
            process.stdin.write(ASK)  # type: ignore[union-attr]  # it was started with a pipe
            process.stdin.flush()  # type: ignore[union-attr]
        except OSError as error:
            raise TransportError(f"the worker of the agent is gone: {error.strerror}") from error
        said = replies.readline()
        if said not in (ANSWERED, NOTHING):
            raise TransportError(
                said.decode(errors="replace").strip() or "the worker of the agent ended over a message"
            )
        if said == ANSWERED:
            self._last = self._clock.seconds()
        return said == ANSWERED

    def rest(self) -> None:
        """End the process when no message came for a while."""
        if self.awake and self._clock.seconds() - self._last > self._idle_seconds:
            self.close()

    def close(self) -> None:
        """End the process."""
        process, replies = self._process, self._replies
        self._process = self._replies = None
        if replies is not None:
            replies.close()
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            stop(process)

    def _started(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._process is None or self._replies is None:
            reading, writing = os.pipe()
            try:
                self._process = subprocess.Popen(
                    [*self._command, "--parent", str(os.getpid()), "--reply", str(writing)],
                    env=self._variables,
                    stdin=subprocess.PIPE,
                    pass_fds=[writing],
                    start_new_session=True,
                )
            finally:
                os.close(writing)
                self._replies = os.fdopen(reading, "rb")
            self._last = self._clock.seconds()
        return self._process, self._replies


def keep_node(store: Path, settings: AgentSettings, loopback: Loopback, worker: Sequence[str], clock: Clock) -> None:
    """Take part for a device until SIGTERM or SIGINT.

    Args:
        store: of the device; `check_agent` found nothing against it.
        settings: of its owner.
        loopback: files that go with this agent.
        worker: command of the process that answers; the address of the node is put behind it.
        clock: of the operating system.

    Raises:
        StoreError: another agent runs for it.
    """
    lock = single(store / LOCK, f"an agent for {store}")
    with lock, _folder_of(loopback), until_stopped():
        failed = 0
        while True:
            begin = clock.seconds()
            reason = _one_node(settings, loopback, worker, clock)
            failed = 0 if clock.seconds() - begin >= STEADY_SECONDS else failed + 1
            pause = pause_after(failed)
            _log.warning("the node is started again in %.0f s: %s", pause, reason)
            time.sleep(pause)


def pause_after(failed: int) -> float:
    """Seconds before the next start of the node: doubled with each start in a row that did not last.

    Args:
        failed: such starts so far, >= 0.

    Returns:
        In [FIRST_PAUSE, LONGEST_PAUSE]; at most EARLY_PAUSE after the first EARLY_STARTS.
    """
    longest = EARLY_PAUSE if failed <= EARLY_STARTS else LONGEST_PAUSE
    return min(FIRST_PAUSE * 2.0 ** min(max(failed - 1, 0), EARLY_STARTS), longest)  # days of failures are no overflow


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


def serve_node(is_running: Callable[[], bool], signs: Signs, tasks: Tasks, offline_seconds: float) -> str:
    """Answer a node's messages as long as it is of use.

    Only a message that the node has reported is asked for. One that is still on its way would be met otherwise, and
    its rest may never come.

    Args:
        is_running: whether its process is there.
        signs: its reports.
        tasks: its messages; asked for after the node's first contact, when its API answers.
        offline_seconds: longest silence of the SuperLink.

    Returns:
        Why it is of no use any more.
    """
    while True:
        waits = signs.wait(LOOK_SECONDS)
        if not is_running():
            return "it ended"
        if signs.silence > offline_seconds:
            return f"the SuperLink did not answer for {signs.silence:.0f} s"
        try:
            while waits and signs.connected and tasks.answer_next():
                pass
        except TransportError as error:
            return str(error)
        tasks.rest()


@contextlib.contextmanager
def _folder_of(loopback: Loopback) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(loopback.folder, ignore_errors=True)


def _one_node(settings: AgentSettings, loopback: Loopback, worker: Sequence[str], clock: Clock) -> str:
    """Start a node, answer its messages, end it; why it is of no use any more."""
    port, folder = free_port(), loopback.folder
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), contextlib.ExitStack() as stack:
        try:
            process = _start(node_arguments(settings, loopback, port), settings.wait_seconds, folder, writing)
        finally:
            os.close(writing)
        stack.callback(stop, process)
        if process.stdout is not None:
            relay(process.stdout)
        tasks = Worker([*worker, "--api", f"{ADDRESS}:{port}"], environment(folder / "flower"), clock)
        stack.callback(tasks.close)
        _log.info("node %d is started", process.pid)
        signs = Signs(reading, clock)
        reason = serve_node(lambda: process.poll() is None, signs, tasks, settings.offline_seconds)
    return reason if signs.connected else f"{reason}, and {NOT_LET_IN}"


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


def agent_words(store: Path, settings: AgentSettings, loopback: Loopback, worker: Sequence[str]) -> list[str]:
    """Arguments of `python -m fedinfer.deployment.agent`.

    Args:
        store: of the device.
        settings: of its owner.
        loopback: files that go with this agent.
        worker: command of the process that answers.
    """
    words = [
        "--store", str(store), "--superlink", settings.superlink,
        "--root-certificates", str(settings.root_certificates),
        "--wait", repr(settings.wait_seconds), "--offline", repr(settings.offline_seconds),
        "--folder", str(loopback.folder),
    ]  # fmt: skip
    if settings.node_key is not None:
        words += ["--node-key", str(settings.node_key)]
    return [*words, "--", *worker]


def main(words: Sequence[str]) -> None:
    """Be the agent.

    Args:
        words: of `agent_words`.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--store", "--root-certificates", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--superlink", required=True)
    parser.add_argument("--node-key", type=Path)
    parser.add_argument("--wait", type=float, required=True)
    parser.add_argument("--offline", type=float, required=True)
    parser.add_argument("worker", nargs="+")
    said = parser.parse_args(words)
    log_to_stderr()
    settings = AgentSettings(said.superlink, said.root_certificates, said.node_key, said.wait, said.offline)
    try:
        keep_node(said.store, settings, Loopback(said.folder), said.worker, SystemClock())
    except FedInferError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
