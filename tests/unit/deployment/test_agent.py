"""The agent of a device: when a node is started again, and what the owner's settings make of Flower's options."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from fedinfer.deployment.agent import (
    EARLY_PAUSE,
    FIRST_PAUSE,
    LOCK,
    LONGEST_PAUSE,
    AgentSettings,
    Worker,
    _one_node,
    agent_words,
    keep_node,
    main,
    node_arguments,
    pause_after,
    serve_node,
)
from fedinfer.deployment.loopback import SECRET_BYTES, make_loopback
from fedinfer.deployment.loopback_files import Loopback
from fedinfer.deployment.signs import Signs
from fedinfer.deployment.worker import check_agent
from fedinfer.errors import ConfigError, StoreError, TransportError
from fedinfer.flower.node import CONTACT, MESSAGE
from fedinfer.flower.service import Stopped
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import FrozenClock, SystemClock, SystemEntropy
from tests.protocol.fleet import enrolled

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 5.0


class Waiting:
    """Tasks that wait; each call of `answer_next` takes one."""

    def __init__(self, count: int = 0, *, awake: bool = True) -> None:
        self.count, self.asked, self.lost, self.awake, self.rested = count, 0, False, awake, 0

    def rest(self) -> None:
        self.rested += 1

    def answer_next(self) -> bool:
        self.asked += 1
        if self.lost:
            raise TransportError("the node's Runtime API: gone")
        self.count -= 1
        return self.count >= 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def running(evaluations: int, then: Callable[[], object] = lambda: None) -> Callable[[], bool]:
    """A process that is there for so many looks."""
    left = [evaluations]

    def evaluate_canaries() -> bool:
        left[0] -= 1
        then()
        return left[0] >= 0

    return evaluate_canaries


def test_messages_are_answered_when_the_node_reports_one(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], CONTACT + MESSAGE)
    tasks = Waiting(2)
    signs = Signs(pipe[0], SystemClock())
    assert serve_node(running(1, lambda: os.write(pipe[1], MESSAGE)), signs, tasks, LIMIT) == "it ended"
    assert tasks.asked == 3


def test_nothing_is_asked_of_a_node_that_has_not_reached_its_superlink(pipe: tuple[int, int]) -> None:
    tasks = Waiting(1)
    os.write(pipe[1], MESSAGE)
    signs = Signs(pipe[0], SystemClock())
    assert serve_node(running(1, lambda: os.write(pipe[1], MESSAGE)), signs, tasks, LIMIT) == "it ended"
    assert tasks.asked == 0


def test_a_node_that_is_alive_but_offline_is_given_up(pipe: tuple[int, int]) -> None:
    clock = SystemClock()
    os.write(pipe[1], CONTACT)
    signs = Signs(pipe[0], clock)
    reason = serve_node(running(3), signs, Waiting(), 0.0)
    assert reason.startswith("the SuperLink did not answer for")


def test_a_node_that_hears_of_its_superlink_is_kept(pipe: tuple[int, int]) -> None:
    clock = FrozenClock(NOW)
    signs = Signs(pipe[0], clock)
    clock.advance(2 * LIMIT)
    os.write(pipe[1], CONTACT + MESSAGE)
    evaluations = running(1, lambda: os.write(pipe[1], CONTACT + MESSAGE))
    assert serve_node(evaluations, signs, Waiting(), LIMIT) == "it ended"


def test_a_message_that_is_still_on_its_way_is_not_asked_for(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender may have been killed: the agent would wait for the rest and then give up a node that is well."""
    monkeypatch.setattr("fedinfer.deployment.agent.LOOK_SECONDS", 0.001)
    os.write(pipe[1], CONTACT)
    tasks = Waiting(1)
    assert serve_node(running(100), Signs(pipe[0], SystemClock()), tasks, LIMIT) == "it ended"
    assert tasks.asked == 0


def test_nobody_is_woken_without_a_report(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedinfer.deployment.agent.LOOK_SECONDS", 0.001)
    os.write(pipe[1], CONTACT)
    tasks = Waiting(1, awake=False)
    assert serve_node(running(30), Signs(pipe[0], SystemClock()), tasks, LIMIT) == "it ended"
    assert (tasks.asked, tasks.rested) == (0, 30)
    os.write(pipe[1], MESSAGE)
    assert serve_node(running(1), connected(pipe[0]), tasks, LIMIT) == "it ended"
    assert tasks.asked == 2


def connected(descriptor: int) -> Signs:
    signs = Signs(descriptor, SystemClock())
    signs.connected = True
    return signs


ANSWERS = """
import os, sys
replies = os.fdopen(int(sys.argv[-1]), "wb", 0)
for number, question in enumerate(sys.stdin.buffer):
    replies.write([b"answered\\n", b"nothing\\n", b"the node is gone\\n"][number] if number < 3 else sys.exit(7))
"""


def worker(clock: FrozenClock, program: str = ANSWERS) -> Worker:
    return Worker([sys.executable, "-c", program], os.environ, clock, 60.0)


def test_a_worker_answers_until_the_node_or_the_worker_is_gone() -> None:
    tasks = worker(FrozenClock(NOW))
    assert [tasks.awake, tasks.answer_next(), tasks.answer_next(), tasks.awake] == [False, True, False, True]
    with pytest.raises(TransportError, match="the node is gone"):
        tasks.answer_next()
    with pytest.raises(TransportError, match="ended over a message"):
        tasks.answer_next()
    tasks.close()
    assert tasks.answer_next()  # another process
    tasks.close()


def test_a_worker_ends_with_its_agent_also_in_the_middle_of_a_message() -> None:
    """The worker's own module, whose parent is gone before it has read a word."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait(30)
    words = ["--store", "s", "--folder", "f", "--api", "a", "--reply", "1", "--parent", str(gone.pid)]
    done = subprocess.run([sys.executable, "-m", "fedinfer.cli.worker", *words], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    said = worker(FrozenClock(NOW), "import os, sys; os.write(int(sys.argv[-1]), f'{sys.argv[1:3]}'.encode())")
    with pytest.raises(TransportError, match=rf"'--parent', '{os.getpid()}'"):
        said.answer_next()
    said.close()


def test_a_worker_ends_when_nothing_came_for_a_while() -> None:
    clock = FrozenClock(NOW)
    tasks = worker(clock)
    tasks.answer_next()
    process = tasks._process
    assert process is not None
    clock.advance(60)
    tasks.rest()
    assert tasks.awake
    clock.advance(1)
    tasks.rest()
    assert (tasks.awake, process.poll() is None) == (False, False)


def test_an_agent_that_waits_has_loaded_nothing_that_it_does_not_wait_with() -> None:
    program = (
        "import sys, fedinfer.deployment.agent; "
        "print(sorted({'numpy', 'flwr', 'cryptography', 'torch', 'onnxruntime', 'scipy', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_arguments_of_an_agent_say_what_its_owner_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr("fedinfer.deployment.agent.keep_node", lambda *said: kept.extend(said[:-1]))
    monkeypatch.setattr("fedinfer.deployment.agent.log_to_stderr", lambda: None)
    for key in (None, tmp_path / "node.key"):
        settings, files = AgentSettings("host:1", tmp_path / "ca.crt", key, 0.25, 80.0), Loopback(tmp_path)
        kept.clear()
        main(agent_words(tmp_path, settings, files, ["python", "-m", "x", "--store", "s"]))
        assert kept == [tmp_path, settings, files, ["python", "-m", "x", "--store", "s"]]


def test_a_node_that_lost_a_message_is_started_again(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], CONTACT + MESSAGE)
    tasks = Waiting()
    tasks.lost = True
    assert serve_node(lambda: True, Signs(pipe[0], SystemClock()), tasks, LIMIT).endswith("gone")


def test_starts_that_fail_come_later_each_time_up_to_a_minute() -> None:
    pauses = [pause_after(failed) for failed in range(40)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pauses[1] == 1.0
    assert pauses[3] == 4.0
    assert max(pauses) == pause_after(100_000) == LONGEST_PAUSE


def test_a_node_that_the_superlink_takes_for_connected_for_a_while_comes_back_soon_after() -> None:
    starts = list(itertools.accumulate(pause_after(failed) for failed in range(1, 20)))
    for held in range(1, 151):
        assert next(start for start in starts if start >= held) - held <= EARLY_PAUSE


def loopback(folder: Path) -> Loopback:
    return make_loopback(folder, SystemEntropy(), NOW)


def test_flowers_node_understands_the_arguments_and_runs_no_app(tmp_path: Path) -> None:
    settings = AgentSettings("server.example:9500", tmp_path / "ca.crt", tmp_path / "node.key", 0.2)
    arguments = node_arguments(settings, loopback(tmp_path), 9601)
    known = _parse_args_run_supernode().parse_args(arguments)
    assert known.isolation == "process"
    assert known.superexec_auth_secret_file == str(tmp_path / "runtime.secret")
    assert (known.host, known.port, known.insecure) == ("127.0.0.1", 9601, False)
    assert known.root_certificates == str(tmp_path / "ca.crt")
    assert known.auth_supernode_private_key == str(tmp_path / "node.key")
    assert known.ssl_certfile == known.ssl_ca_certfile == str(tmp_path / "runtime.crt")
    assert known.node_config is None, "the node has no need to know where the store is"


def test_the_secret_and_the_key_of_the_loopback_are_the_users_alone(tmp_path: Path) -> None:
    made = loopback(tmp_path)
    secret = made.secret_file.read_bytes()
    assert len(secret) == SECRET_BYTES
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made.key, made.secret_file)] == [0o600, 0o600]
    other = tmp_path / "other"
    other.mkdir()
    assert loopback(other).secret_file.read_bytes() != secret


def keep(store: Path) -> Path:
    """As the agent's own process does; the folder that goes with it."""
    settings, folder = AgentSettings("127.0.0.1:1", store / "authority.pub", None, 0.2), store / "files"
    folder.mkdir()
    keep_node(store, settings, Loopback(folder), [], SystemClock())
    return folder


def test_an_owner_who_agreed_to_nothing_takes_part_in_nothing(tmp_path: Path) -> None:
    store = enrolled(tmp_path, 1, Budget(2.0, 1e-5))[0]
    with pytest.raises(ConfigError, match="names no task") as caught:
        check_agent(store)
    assert '"tasks"' in caught.value.hint


def test_a_node_that_was_given_up_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = enrolled(tmp_path, 1, Budget(2.0, 1e-5))[0]
    text = (store / "device.json").read_text()
    (store / "device.json").write_text(text.replace('"tasks": []', '"tasks": ["heart"]'))
    reasons = ["it ended", "the SuperLink did not answer for 91 s"]
    pauses: list[float] = []

    def one_node(*_: object) -> str:
        if not reasons:
            raise Stopped
        return reasons.pop()

    monkeypatch.setattr("fedinfer.deployment.agent._one_node", one_node)
    monkeypatch.setattr("fedinfer.deployment.agent.time.sleep", pauses.append)
    assert not keep(store).exists()
    assert reasons == []
    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE]


@pytest.mark.slow
def test_a_node_that_never_reached_its_server_says_what_to_look_at(tmp_path: Path) -> None:
    """Flower's own word for a wrong key is a number."""
    nobody = AgentSettings("127.0.0.1:1", tmp_path / "ca.crt", None, 0.2, offline_seconds=0.5)
    reason = _one_node(nobody, loopback(tmp_path), ["true"], SystemClock())
    assert ", and was not let in: `fedinfer preflight STORE` says" in reason


def test_a_device_has_one_agent(tmp_path: Path) -> None:
    store = enrolled(tmp_path, 1, Budget(2.0, 1e-5))[0]
    text = (store / "device.json").read_text()
    (store / "device.json").write_text(text.replace('"tasks": []', '"tasks": ["heart"]'))
    with subprocess.Popen(["flock", str(store / LOCK), "sh", "-c", "echo held; read line"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="is running already, as process"):
            check_agent(store)
        with pytest.raises(StoreError, match="is running already, as process"):
            keep(store)
        other.communicate(b"\n")
