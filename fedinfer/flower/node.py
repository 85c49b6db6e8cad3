"""Flower's SuperNode as a child process of the device agent: `python -m fedinfer.flower.node`.

The same program as `flower-supernode`, changed in seven places that Flower has no option for. They touch internals of
flwr, so flwr is pinned and `tests/unit/flower/test_node_adapter.py` fails when the touched files change:

* the loop waits as long as the owner says where Flower waits three seconds (or half a second for a reply), and soon
  asks again for a part of a message that is still on its way;
* the app bundle that a run brings is not opened: the configuration of a run is what its starter set by name;
* a thread that dies ends the node. Flower's heartbeat thread dies silently when the SuperLink has given the node up,
  and the node then stays alive and offline for good;
* a message whose run ended while it came is forgotten. Flower keeps it without its content, and the ClientApp would
  wait for that for ever: a coordinator that was killed and started again would find no device that answers;
* the rest of a message that does not come is given up after REST_SECONDS, where Flower waits up to two hours;
* every answer of the SuperLink and every message that waits for the ClientApp is reported to the agent;
* the object store in SQL is left out, and SQLAlchemy and Alembic with it, 24 MiB: a node keeps its objects in memory.

It ends with its agent, and says goodbye to the SuperLink first: one that does not is turned away for a minute.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from types import ModuleType
from typing import Any

CONTACT, MESSAGE = b"c", b"m"
"""What the node reports: the SuperLink answered; a message waits for the ClientApp."""
LOST = 1
"""Exit code when the loop ended by itself."""
IDLE_SECONDS, REPLY_SECONDS = 3, 0.5
"""The waits in Flower's loop: nothing to do; the ClientApp has not answered yet."""
SHORT_SECONDS = 0.05
"""How often the node checks whether the ClientApp has answered; only while a message is being worked on."""
SHORT_WAITS_PER_REPORT = 20
"""So often a message that is not answered yet is reported again, in case that its report got lost."""
REST_SECONDS = 120.0
"""After so long the rest of a message does not come any more: its sender, on the server, was killed."""
GOODBYE_SECONDS = 10.0
"""What a node whose agent is gone may take to say goodbye."""
PR_SET_PDEATHSIG = 1
SQL_STORE = "flwr.supercore.object_store.sql_object_store"
_OF_ONE_MESSAGE = ("pull_object", "confirm_message_received")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """Stands in for the module `time` inside Flower's loop.

    Args:
        idle: seconds between two questions to the SuperLink when there is nothing to do, > 0.
        pause: waits so many seconds.
        remind: called before each wait for the ClientApp's answer.
    """

    idle: float
    pause: Callable[[float], None] = time.sleep
    remind: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Wait as long as the owner says in place of Flower's two waits; any other wait stays as it is.

        Args:
            seconds: what Flower asks for.
        """
        if seconds == REPLY_SECONDS:
            self.remind()
        own = {IDLE_SECONDS: self.idle, REPLY_SECONDS: min(self.idle, SHORT_SECONDS)}
        self.pause(own.get(seconds, seconds))


class Reports:
    """The writing end of a pipe to the agent. Nothing is lost when it is full: one sign is as good as many.

    Args:
        descriptor: of the pipe.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def tell(self, sign: bytes) -> None:
        """Write a sign to the pipe; a full pipe or an agent that is gone is no error here.

        Args:
            sign: CONTACT or MESSAGE.
        """
        try:
            os.write(self._descriptor, sign)
        except (BlockingIOError, BrokenPipeError):
            return


def seldom(call: Callable[[], None], every: int) -> Callable[[], None]:
    """A function that does nothing but each so many calls.

    Args:
        call: what it does then.
        every: number of calls, >= 1.
    """
    numbers = count(1)

    def counted() -> None:
        if next(numbers) % every == 0:
            call()

    return counted


def adapt(loop: ModuleType, connection: ModuleType, waits: Waits, tell: Callable[[bytes], None]) -> None:
    """Change the two modules of flwr as described above.

    Args:
        loop: flwr.supernode.start_client_internal.
        connection: flwr.supernode.fleet_http_connection.
        waits: replaces the module's `time`.
        tell: gets CONTACT and MESSAGE.
    """
    pull: Callable[..., int | None] = vars(loop)["_pull_and_store_message"]

    def pull_and_tell(*args: Any, **named: Any) -> int | None:
        asked = {name: end_of_run_is_an_error(call) for name, call in named.items() if name in _OF_ONE_MESSAGE}
        run = pull(*args, **named | asked)
        if run is not None:
            tell(MESSAGE)
        return run

    class TellingClient(connection.FleetHttpClient):  # type: ignore[misc, name-defined]  # a class of a module object
        def _unary_unary(self, **named: Any) -> Any:
            answer = super()._unary_unary(**named)
            tell(CONTACT)
            return answer

    replacements = (
        (loop, "time", waits),
        (loop, "get_fused_config_from_fab", lambda _bundle, run: dict(run.override_config)),
        (loop, "_pull_and_store_message", pull_and_tell),
        (connection, "FleetHttpClient", TellingClient),
    )
    for module, name, value in replacements:
        setattr(module, name, value)


def without_sql() -> None:
    """Put a class in place of Flower's object store in SQL, which nothing makes in a node; before flwr is imported.

    A node that did want a database would end with the words of this class.
    """
    stand_in = ModuleType(SQL_STORE)

    class SqlObjectStore:
        def __init__(self, *_: Any) -> None:
            raise RuntimeError("a node of fedinfer keeps its objects in memory")

    vars(stand_in)["SqlObjectStore"] = SqlObjectStore
    sys.modules[SQL_STORE] = stand_in


def end_of_run_is_an_error(call: Callable[..., Any]) -> Callable[..., Any]:
    """A request to the SuperLink that says by an Exception that the run has ended.

    Flower says it by a BaseException, which passes the place where it would forget the message.

    Args:
        call: gets a part of a message, or says that it came.
    """
    from flwr.supercore.run import RunNotRunningException

    def asked(*args: Any, **named: Any) -> Any:
        try:
            return call(*args, **named)
        except RunNotRunningException as error:
            raise RuntimeError("the run ended while its message came") from error

    return asked


def end_with_parent(parent: int, sign: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when the agent ends, however it ends (Linux, prctl(2)).

    Args:
        parent: process id of the agent; if it is gone already, this process ends here.
        sign: with which it ends.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sign)
    if os.getppid() != parent:
        sys.exit(LOST)


def insist(parent: int, goodbye_seconds: float) -> None:
    """End this process when its parent has been gone for a while, whatever it still waits for.

    Args:
        parent: process id.
        goodbye_seconds: how long it may take to end by itself, >= 0.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(goodbye_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def end_with_any_thread(arguments: Any) -> None:
    """End the node when one of its threads dies, so that the agent starts another one: a threading.excepthook.

    Args:
        arguments: of the hook: the thread and its error.
    """
    _log.error("thread %s of the node died: %s", getattr(arguments.thread, "name", ""), arguments.exc_value)
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str]) -> None:
    """Run the node.

    Args:
        arguments: --wait SECONDS --report DESCRIPTOR --parent PID, then those of `flower-supernode`.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--wait", type=float, required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    own, rest = parser.parse_known_args(arguments)
    end_with_parent(own.parent, signal.SIGTERM)
    threading.Thread(target=insist, args=(own.parent, GOODBYE_SECONDS), name="end with the agent", daemon=True).start()

    without_sql()
    from flwr.supercore.logger import update_console_handler
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode

    from fedinfer.flower.prompt_grid import retry_soon

    update_console_handler(timestamps=True, colored=False)
    tell = Reports(own.report).tell
    waits = Waits(own.wait, remind=seldom(lambda: tell(MESSAGE), SHORT_WAITS_PER_REPORT))
    adapt(start_client_internal, fleet_http_connection, waits, tell)
    retry_soon(start_client_internal, "pull_objects", max_time=REST_SECONDS)
    threading.excepthook = end_with_any_thread
    sys.argv = ["flower-supernode", *rest]
    flower_supernode()
    # Flower's loop returned, which it does after an error only; its server thread would keep the process alive.
    os._exit(LOST)


if __name__ == "__main__":
    main(sys.argv[1:])
