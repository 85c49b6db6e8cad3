"""What an agent is made from, and the worker that answers in its place. Both need all of the installed app."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

from fedinfer.deployment.agent import ANSWERED, LOCK, NOTHING, AgentSettings, agent_words
from fedinfer.deployment.agreement import App, agreed_only, read_agreement
from fedinfer.deployment.loopback import make_loopback
from fedinfer.deployment.loopback_files import Loopback
from fedinfer.deployment.store import open_device
from fedinfer.errors import TransportError
from fedinfer.flower import NodeTasks, RuntimeApi, single
from fedinfer.ports import Clock, Entropy


def check_agent(store: Path) -> None:
    """Find out whether an agent can run for a device.

    Args:
        store: of the device.

    Raises:
        ConfigError: the folder is no device store, or its owner agreed to nothing.
        StoreError: another agent runs for it.
    """
    device = open_device(store)
    read_agreement(device)
    with single(device.folder / LOCK, f"an agent for {device.device}"):
        pass


def become_agent(
    store: Path, settings: AgentSettings, worker: Sequence[str], clock: Clock, entropy: Entropy
) -> NoReturn:
    """Turn this process into the agent of a device: it keeps its number, and nothing of what it had loaded.

    Args:
        store: of the device.
        settings: of its owner.
        worker: command of the process that answers, which is told the store and where the node is.
        clock: of the operating system.
        entropy: of the operating system.

    Raises:
        ConfigError: the folder is no device store, or its owner agreed to nothing.
        StoreError: another agent runs for it.
    """
    check_agent(store)
    loopback = make_loopback(Path(tempfile.mkdtemp(prefix="fedinfer-agent-")), entropy, clock.now())
    answering = [*worker, "--store", str(store.resolve()), "--folder", str(loopback.folder)]
    words = agent_words(store.resolve(), settings, loopback, answering)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "fedinfer.deployment.agent", *words])  # noqa: S606 - ourselves


def answer_messages(
    store: Path, app: App, loopback: Loopback, api: str, questions: IO[bytes], replies: IO[bytes]
) -> None:
    """Answer one message for each question of the agent, until it closes its end.

    Args:
        store: of the device.
        app: the installed one.
        loopback: files of the agent.
        api: HOST:PORT of the node's Runtime API.
        questions: of the agent.
        replies: to the agent.
    """
    device = open_device(store)
    handle = agreed_only(read_agreement(device), app)
    where = RuntimeApi(api, loopback.certificate, loopback.secret)
    tasks = NodeTasks(where, {"store": str(device.folder.resolve())})
    try:
        while questions.readline():
            try:
                replies.write(ANSWERED if tasks.answer_next(handle) else NOTHING)
            except TransportError as error:
                replies.write(" ".join(str(error).split()).encode() + b"\n")
            replies.flush()
    finally:
        tasks.close()
