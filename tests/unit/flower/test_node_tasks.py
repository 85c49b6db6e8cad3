"""Tasks of Flower's own node server, over TLS: only who has the secret takes one, and the bundle stays where it is."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from fedinfer.deployment.loopback import make_loopback
from fedinfer.deployment.loopback_files import ADDRESS, Loopback
from fedinfer.errors import TransportError
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.node_tasks import NodeTasks, RunFacts, RuntimeApi
from fedinfer.inference.serve.socket import bind
from fedinfer.simulation.grid import LocalGrid
from fedinfer.system import SystemClock, SystemEntropy

CONFIG = {"deployment": True, "scenario": "heart"}


@dataclass
class Node:
    """Flower's node without a SuperLink: its state, and its Runtime API on a socket."""

    state: Any
    api: RuntimeApi
    bundle: bytes = b"a bundle with another program"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.bundle).hexdigest()

    def receive(self, words: str, kind: str = TaskType.SERVER_APP) -> None:
        """As if a message had come from the SuperLink."""
        run = replace(
            Run.create_empty(7), fab_id="nobody/stranger", fab_hash=self.digest, primary_task_type=kind, series_id=7
        )
        run = replace(run, override_config=dict(CONFIG))
        record = RecordDict({"words": ConfigRecord({"text": words})})
        message = Message(record, dst_node_id=5, message_type="query")
        message.metadata.__dict__.update(_run_id=7, _src_node_id=1)
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        got = start_client_internal._pull_and_store_message(
            state=self.state, object_store=self.state.object_store, node_config={"store": "of the node"},
            receive=lambda: (remove_content_from_message(message), get_object_tree(message)),
            get_run=lambda _run: run, get_fab=lambda *_: Fab(self.digest, self.bundle, {}),
            pull_object=lambda _run, name: objects[name], confirm_message_received=lambda *_: None,
            trusted_entities=None,
        )  # fmt: skip
        assert got == 7

    def replies(self) -> list[Any]:
        return self.state.get_messages_legacy(is_reply=True)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    LocalGrid(CohortClientApp(lambda _context: pytest.fail("asked")), 1, {})  # sets what Message() reads
    monkeypatch.setattr(start_client_internal, "get_fused_config_from_fab", lambda _bundle, run: run.override_config)
    loopback: Loopback = make_loopback(tmp_path, SystemEntropy(), SystemClock().now())
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    state = factory.state()
    state.set_node_id(5)
    listening = bind(ADDRESS, 0)
    config = uvicorn.Config(
        create_app(factory, loopback.secret), ssl_certfile=loopback.certificate, ssl_keyfile=loopback.key,
        log_level="warning",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    address = f"{ADDRESS}:{listening.getsockname()[1]}"
    yield Node(state, RuntimeApi(address, loopback.certificate, loopback.secret))
    server.should_exit = True
    thread.join()
    listening.close()


def answer(message: Message, context: Context, run: RunFacts) -> Message:
    words = str(message.content["words"]["text"])
    facts = {"words": words, "store": str(context.node_config["store"]), "publisher": run.publisher, "app": run.app}
    assert run.config == context.run_config == CONFIG
    return Message(RecordDict({"said": ConfigRecord({**facts, "client": run.is_client_app})}), reply_to=message)


def test_a_message_is_answered_by_the_given_app_with_the_owners_configuration(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "FLWR_HOME", "TMPDIR"):  # wherever a bundle might be put, it would be seen
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    tasks = NodeTasks(node.api, {"store": "of the owner"})
    seen: list[dict[str, Any]] = []

    def handle(message: Message, context: Context, run: RunFacts) -> Message:
        reply = answer(message, context, run)
        seen.append(dict(reply.content["said"]))
        return reply

    node.receive("hello")
    assert tasks.answer_next(handle)
    assert not tasks.answer_next(handle)
    tasks.close()
    expected = {"words": "hello", "store": "of the owner", "publisher": "nobody", "app": "stranger", "client": True}
    assert seen == [expected]
    assert len(node.replies()) == 1
    assert set(tmp_path.rglob("*")) == before


def test_an_agent_app_is_taken_too_so_that_the_node_does_not_wait_for_ever(node: Node) -> None:
    tasks = NodeTasks(node.api, {"store": "s"})
    kinds: list[bool] = []

    def handle(message: Message, context: Context, run: RunFacts) -> Message:
        kinds.append(run.is_client_app)
        return answer(message, context, run)

    node.receive("hello", TaskType.AGENT_APP)
    assert tasks.answer_next(handle)
    tasks.close()
    assert kinds == [False]
    assert len(node.replies()) == 1


def test_without_the_secret_nobody_takes_a_task(node: Node) -> None:
    node.receive("hello")
    for secret in (b"x", b"y" * 32):
        thief = NodeTasks(replace(node.api, secret=secret), {})
        with pytest.raises(TransportError, match=r"401|403"):
            thief.answer_next(answer)
        thief.close()
    owner = NodeTasks(node.api, {"store": "s"})
    assert owner.answer_next(answer)
    owner.close()


def test_another_program_on_the_port_is_not_taken_for_the_node(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    forged = make_loopback(other, SystemEntropy(), SystemClock().now())
    tasks = NodeTasks(replace(node.api, root_certificate=forged.certificate), {})
    with pytest.raises(TransportError, match=r"(?i)certificate"):
        tasks.answer_next(answer)
    tasks.close()


def test_a_handler_that_is_interrupted_leaves_the_message_unanswered(node: Node) -> None:
    tasks = NodeTasks(node.api, {"store": "s"})
    node.receive("hello")

    def stop(_message: Message, _context: Context, _run: RunFacts) -> Message:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.answer_next(stop)
    tasks.close()
    assert node.replies() == []
