"""The agent of a device: when a node is started again, and what the owner's settings make of Flower's options."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from fedinfer.deployment.agent import (
    FIRST_PAUSE,
    LOCK,
    LONGEST_PAUSE,
    LOOKS_PER_QUESTION,
    AgentSettings,
    Signs,
    node_arguments,
    pause_after,
    run_agent,
    serve_node,
)
from fedinfer.deployment.loopback import SECRET_BYTES, Loopback, make_loopback
from fedinfer.errors import ConfigError, StoreError, TransportError
from fedinfer.flower.node import CONTACT, MESSAGE
from fedinfer.flower.node_tasks import Handler, RunFacts
from fedinfer.flower.service import Stopped
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import FrozenClock, SystemClock, SystemEntropy
from tests.protocol.fleet import enrolled

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 5.0


def unused(_message: Message, _context: Context, _run: RunFacts) -> Message:
    raise AssertionError("no message was expected")


class Waiting:
    """Tasks that wait; each call of `answer_next` takes one."""

    def __init__(self, count: int = 0) -> None:
        self.count, self.asked, self.lost = count, 0, False

    def answer_next(self, handle: Handler) -> bool:
        assert handle is unused
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


def running(evaluations: int, then: Callable[[], None] = lambda: None) -> Callable[[], bool]:
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
    assert serve_node(running(1, lambda: os.write(pipe[1], MESSAGE)), signs, tasks, unused, LIMIT) == "it ended"
    assert tasks.asked == 3


def test_nothing_is_asked_of_a_node_that_has_not_reached_its_superlink(pipe: tuple[int, int]) -> None:
    tasks = Waiting(1)
    os.write(pipe[1], MESSAGE)
    signs = Signs(pipe[0], SystemClock())
    assert serve_node(running(1, lambda: os.write(pipe[1], MESSAGE)), signs, tasks, unused, LIMIT) == "it ended"
    assert tasks.asked == 0


def test_a_node_that_is_alive_but_offline_is_given_up(pipe: tuple[int, int]) -> None:
    clock = SystemClock()
    os.write(pipe[1], CONTACT)
    signs = Signs(pipe[0], clock)
    reason = serve_node(running(3), signs, Waiting(), unused, 0.0)
    assert reason.startswith("the SuperLink did not answer for")


def test_a_node_that_hears_of_its_superlink_is_kept(pipe: tuple[int, int]) -> None:
    clock = FrozenClock(NOW)
    signs = Signs(pipe[0], clock)
    clock.advance(2 * LIMIT)
    os.write(pipe[1], CONTACT + MESSAGE)
    evaluations = running(1, lambda: os.write(pipe[1], CONTACT + MESSAGE))
    assert serve_node(evaluations, signs, Waiting(), unused, LIMIT) == "it ended"


def test_a_report_that_got_lost_is_made_good_for(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A node would wait for ever for an answer to a message that the agent does not know of."""
    monkeypatch.setattr("fedinfer.deployment.agent.LOOK_SECONDS", 0.001)
    os.write(pipe[1], CONTACT)
    tasks = Waiting(1)
    assert serve_node(running(LOOKS_PER_QUESTION), Signs(pipe[0], SystemClock()), tasks, unused, LIMIT) == "it ended"
    assert tasks.count < 1


def test_a_node_that_lost_a_message_is_started_again(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], CONTACT + MESSAGE)
    tasks = Waiting()
    tasks.lost = True
    assert serve_node(lambda: True, Signs(pipe[0], SystemClock()), tasks, unused, LIMIT).endswith("gone")


def test_starts_that_fail_come_later_each_time_up_to_a_minute() -> None:
    pauses = [pause_after(failed) for failed in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pauses[1] == 1.0
    assert pauses[3] == 4.0
    assert max(pauses) == LONGEST_PAUSE


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
    assert len(made.secret) == SECRET_BYTES
    assert made.secret_file.read_bytes() == made.secret
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made.key, made.secret_file)] == [0o600, 0o600]
    other = tmp_path / "other"
    other.mkdir()
    assert loopback(other).secret != made.secret


def start(store: Path) -> None:
    settings = AgentSettings("127.0.0.1:1", store / "authority.pub", None, 0.2)
    run_agent(store, settings, lambda _message, _context: pytest.fail("asked"), SystemClock(), SystemEntropy())


def test_an_owner_who_agreed_to_nothing_takes_part_in_nothing(tmp_path: Path) -> None:
    store = enrolled(tmp_path, 1, Budget(2.0, 1e-5))[0]
    with pytest.raises(ConfigError, match="names no task") as caught:
        start(store)
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
    start(store)
    assert reasons == []
    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE]


def test_a_device_has_one_agent(tmp_path: Path) -> None:
    store = enrolled(tmp_path, 1, Budget(2.0, 1e-5))[0]
    text = (store / "device.json").read_text()
    (store / "device.json").write_text(text.replace('"tasks": []', '"tasks": ["heart"]'))
    with subprocess.Popen(["flock", str(store / LOCK), "sh", "-c", "echo held; read line"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="is running already, as process"):
            start(store)
        other.communicate(b"\n")
