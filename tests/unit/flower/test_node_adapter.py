"""The adapter to Flower's node: what it changes, what it counts on, and that a node which lost its server ends."""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal

from fedinfer.flower.node import (
    CONTACT,
    IDLE_SECONDS,
    MESSAGE,
    REPLY_SECONDS,
    SHORT_SECONDS,
    Reports,
    Waits,
    adapt,
    seldom,
)
from fedinfer.flower.node import LOST as LOST_CODE

TOUCHED = {
    "flwr.supernode.start_client_internal": "d6342f743fdf768f",
    "flwr.supernode.fleet_http_connection": "8b90826f407ab5d3",
    "flwr.supernode.cli.flower_supernode": "e637b07a731536a6",
    "flwr.supernode.runtime.run_clientapp": "fa6612aaeda9cd39",
    "flwr.superlink.cli.flower_superlink": "53a0528b289cbb7b",
    "flwr.superlink.grid.http_grid": "0c33918af5016310",
    "flwr.supercore.heartbeat": "5eee250956e13a9b",
    "flwr.supercore.object_store.object_store_factory": "8b82de0f9f664f79",
    "flwr.supercore.protobuf.client": "0bb91b4a9336b8cc",
}
"""Files of flwr whose inside fedinfer.flower changes or calls, by the digest of the text that was read (1.41, 1.42)."""


@pytest.mark.parametrize("name", TOUCHED)
def test_flower_is_still_what_the_adapter_was_written_for(name: str) -> None:
    import_module(name)
    text = Path(str(sys.modules[name].__file__)).read_bytes()
    assert hashlib.sha256(text).hexdigest()[:16] == TOUCHED[name], "read the file again before changing the digest"


def test_a_node_holds_no_database_library() -> None:
    program = (
        "import sys; from fedinfer.flower.node import SQL_STORE, without_sql; without_sql(); "
        "from flwr.supernode.cli import flower_supernode; from flwr.supercore.object_store import ObjectStoreFactory; "
        "print(sorted({'sqlalchemy', 'alembic', 'torch', 'onnxruntime'} & set(sys.modules))); "
        "print(type(ObjectStoreFactory().store()).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "InMemoryObjectStore"]


def test_the_loop_has_no_other_wait_than_the_ones_that_are_replaced() -> None:
    tree = ast.parse(Path(str(start_client_internal.__file__)).read_text())
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time"]
    assert {node.attr for node in used} == {"sleep"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in used]
    assert sorted(ast.literal_eval(node.args[0]) for node in calls) == [REPLY_SECONDS, REPLY_SECONDS, IDLE_SECONDS]
    assert len(used) == len(calls)


def module(**names: Any) -> Any:
    made = ModuleType("a module of flwr")
    made.__dict__.update(names)
    return made


class Client:
    """As Flower's: one call, answered or not."""

    def _unary_unary(self, *, path: str) -> str:
        if path == "/silent":
            raise ConnectionError
        return path

    def ask(self, path: str) -> str:
        return self._unary_unary(path=path)


def adapted() -> tuple[Any, Any, list[bytes], list[float]]:
    reported: list[bytes] = []
    paused: list[float] = []
    loop = module(time=None, get_fused_config_from_fab=None, _pull_and_store_message=lambda run: run)
    connection = module(FleetHttpClient=Client)
    adapt(loop, connection, Waits(0.2, paused.append), reported.append)
    return loop, connection, reported, paused


def test_the_owners_wait_replaces_flowers_and_no_other() -> None:
    loop, _, _, paused = adapted()
    for seconds in (3, 0.5, 7):
        loop.time.sleep(seconds)
    assert paused == [0.2, SHORT_SECONDS, 7]
    paused.clear()
    Waits(0.01, paused.append).sleep(0.5)
    assert paused == [0.01]


def test_a_message_that_waits_for_its_answer_is_reported_again_in_case_its_report_got_lost() -> None:
    reported: list[bytes] = []
    waits = Waits(0.2, lambda _seconds: None, seldom(lambda: reported.append(MESSAGE), 20))
    for _ in range(41):
        waits.sleep(REPLY_SECONDS)
        waits.sleep(IDLE_SECONDS)
    assert reported == [MESSAGE] * 2


def test_the_bundle_of_a_run_is_not_opened() -> None:
    loop, _, _, _ = adapted()
    run = SimpleNamespace(override_config={"deployment": True})
    assert loop.get_fused_config_from_fab(b"no archive at all", run) == {"deployment": True}


def test_answers_of_the_server_and_waiting_messages_are_reported() -> None:
    loop, connection, reported, _ = adapted()
    client = connection.FleetHttpClient()
    assert client.ask("/v1/fleet/pull-messages") == "/v1/fleet/pull-messages"
    assert reported == [CONTACT]
    with pytest.raises(ConnectionError):
        client.ask("/silent")
    assert loop._pull_and_store_message(None) is None
    assert reported == [CONTACT]
    assert loop._pull_and_store_message(run=7) == 7
    assert reported == [CONTACT, MESSAGE]


def test_an_ended_run_is_an_exception_while_a_message_comes() -> None:
    """Flower catches Exceptions there, forgets the message and goes on; of its BaseException the message stays."""
    kept: list[str] = ["message"]

    def flowers(pull_object: Any, confirm_message_received: Any) -> int | None:
        try:
            pull_object(1, "content")
            confirm_message_received(1, "message")
        except Exception:
            kept.clear()
            return None
        return 1

    def ended(*_: Any) -> None:
        raise RunNotRunningException

    def fine(*_: Any) -> None:
        return None

    loop = module(time=None, get_fused_config_from_fab=None, _pull_and_store_message=flowers)
    told: list[bytes] = []
    adapt(loop, module(FleetHttpClient=Client), Waits(0.2), told.append)
    for pull, confirm in ((ended, fine), (fine, ended)):
        kept[:] = ["message"]
        assert loop._pull_and_store_message(pull_object=pull, confirm_message_received=confirm) is None
        assert kept == told == []
    assert loop._pull_and_store_message(pull_object=fine, confirm_message_received=fine) == 1
    assert told == [MESSAGE]


def test_a_full_pipe_and_an_agent_that_is_gone_do_not_stop_the_node() -> None:
    reading, writing = os.pipe()
    reports = Reports(writing)
    for _ in range(70):
        reports.tell(CONTACT * 1024)
    assert os.read(reading, 10) == CONTACT * 10
    os.close(reading)
    reports.tell(CONTACT)
    os.close(writing)


LOST = """
import os, sys, threading, time
import flwr.supernode.cli
from flwr.supercore.heartbeat import HeartbeatSender
from fedinfer.flower import node

def beat():
    raise RuntimeError("Heartbeat failed unexpectedly. The SuperLink does not recognize this SuperNode.")

def give_up():
    HeartbeatSender(beat).start()
    time.sleep(60)

def give_back():
    threading.Thread(target=time.sleep, args=(60,)).start()

flwr.supernode.cli.flower_supernode = {"give_up": give_up, "give_back": give_back}[sys.argv[1]]
report = os.open(os.devnull, os.O_WRONLY)
node.main(["--wait", "1", "--report", str(report), "--parent", str(os.getppid())])
"""
ORPHAN = """
import os, sys, time
from fedinfer.flower.node import end_with_parent
end_with_parent(int(sys.argv[1]))
print("started", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def lose(how: str) -> subprocess.CompletedProcess[str]:
    """The node's own start, with a loop of Flower's that loses its SuperLink or returns."""
    return subprocess.run([sys.executable, "-c", LOST, how], capture_output=True, text=True, timeout=50, check=False)


def test_a_node_that_the_superlink_gave_up_ends_instead_of_staying_offline() -> None:
    done = lose("give_up")
    assert done.returncode == -signal.SIGTERM
    assert "does not recognize this SuperNode" in done.stderr


def test_a_node_whose_loop_returned_ends_although_a_thread_of_it_lives() -> None:
    assert lose("give_back").returncode == LOST_CODE


def test_a_node_ends_with_its_agent_even_when_that_is_killed() -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT, textwrap.dedent(ORPHAN)], capture_output=True, text=True, timeout=50, check=False
    )
    assert parent.returncode == -signal.SIGKILL
    wait_for_end(int(parent.stdout))


def wait_for_end(pid: int) -> None:
    for _ in range(600):
        if not alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the node outlived its agent")


FAREWELL = """
import os, signal, sys, time
from fedinfer.flower import node
import flwr.supernode.cli

HOW = sys.argv[1]

def serve():
    signal.signal(signal.SIGTERM, lambda *_: told() if HOW == "polite" else None)
    print("started", flush=True)
    while True:
        time.sleep(60)

def told():
    os.write(2, b"goodbye")
    os._exit(0)

flwr.supernode.cli.flower_supernode = serve
node.GOODBYE_SECONDS = 0.5
report = os.open(os.devnull, os.O_WRONLY)
node.main(["--wait", "1", "--report", str(report), "--parent", str(os.getppid())])
"""
KILLED_AGENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE)
while child.stdout.readline() != b"started\\n":
    pass
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("polite", "goodbye"), ("stubborn", "")])
def test_a_node_whose_agent_is_killed_says_goodbye_and_does_not_stay(how: str, said: str) -> None:
    """A node that is gone without a word is turned away for a minute when its device is back."""
    agent = subprocess.run(
        [sys.executable, "-c", KILLED_AGENT, FAREWELL, how], capture_output=True, text=True, timeout=50, check=False
    )  # fmt: skip
    assert agent.stderr == said  # its end is open as long as the node lives
    wait_for_end(int(agent.stdout))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_node_whose_agent_is_gone_already_does_not_start() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN, "1"], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_modules_of_flower_have_what_is_replaced() -> None:
    for name in ("time", "get_fused_config_from_fab", "_pull_and_store_message"):
        assert hasattr(start_client_internal, name)
    assert hasattr(fleet_http_connection.FleetHttpClient, "_unary_unary")
