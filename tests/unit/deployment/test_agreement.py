"""Runs that a device's owner did not agree to are refused before any of their messages is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fedinfer.deployment.agreement import MOST_CHARACTERS, UNTOLD, Agreement, agreed_only, read_agreement
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import open_device
from fedinfer.errors import ConfigError, DataError, Misbehaviour
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.node_tasks import RunFacts
from fedinfer.flower.records import read_reply, request_message
from fedinfer.messages import Kind
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.simulation.grid import LocalGrid
from tests.protocol.fleet import enrolled

OURS = RunFacts("fedinfer", "fedinfer", {"deployment": True}, True)
AGREEMENT = Agreement("r00", frozenset({"fedinfer", "clinic"}), frozenset({"heart"}))
STRANGERS = [
    replace(OURS, publisher="nobody", app="stranger"),
    replace(OURS, publisher="nobody"),
    replace(OURS, app="stranger"),
    replace(OURS, publisher="", app=""),
    replace(OURS, publisher="Fedinfer"),
    replace(OURS, config={}),
    replace(OURS, config={"deployment": False}),
    replace(OURS, config={"deployment": "true"}),
    replace(OURS, config={"deployment": 1}),
    replace(OURS, is_client_app=False),
]


@pytest.fixture(autouse=True)
def _task() -> None:
    LocalGrid(CohortClientApp(lambda _context: pytest.fail("asked")), 1, {})  # sets what Message() reads


def message() -> Message:
    return request_message(Ask("r00", Kind.ENROLL, b"", b""), 2, "enroll")


def context() -> Context:
    return Context(1, 2, {"store": "/the/store"}, RecordDict(), {})


@pytest.mark.parametrize("publisher", ["fedinfer", "clinic"])
def test_a_run_of_an_agreed_publisher_is_answered(publisher: str) -> None:
    expected = message()
    handle = agreed_only(AGREEMENT, lambda _message, _context: expected)
    assert handle(message(), context(), replace(OURS, publisher=publisher)) is expected


@pytest.mark.parametrize("run", STRANGERS, ids=str)
def test_any_other_run_gets_a_typed_refusal_and_no_message_of_it_is_read(run: RunFacts) -> None:
    handle = agreed_only(AGREEMENT, lambda _message, _context: pytest.fail("the message was read"))
    answer = read_reply(handle(message(), context(), run))
    assert (answer.device, answer.body, answer.error) == ("r00", b"", "Misbehaviour")


def test_a_strangers_name_is_not_repeated_at_length() -> None:
    with pytest.raises(Misbehaviour) as caught:
        AGREEMENT.check(replace(OURS, publisher="x" * 100_000))
    assert len(str(caught.value)) < 2 * MOST_CHARACTERS + 100


@pytest.mark.parametrize(
    "error", [ConfigError("/home/r00/store"), DataError("cell 17"), KeyError("cell 17"), OSError(2)]
)
def test_what_goes_wrong_inside_is_told_by_the_name_of_its_class(error: Exception) -> None:
    def fail(_message: Message, _context: Context) -> Message:
        raise error

    answer = read_reply(agreed_only(AGREEMENT, fail)(message(), context(), OURS))
    assert (answer.error, answer.detail) == ("FedInferError", f"{type(error).__name__}: {UNTOLD}")


def store_with(folder: Path, **said: Any) -> Path:
    store = enrolled(folder, 1, Budget(2.0, 1e-5))[0]
    file = store / "device.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    return store


def test_the_owner_says_tasks_and_publishers_in_the_store(tmp_path: Path) -> None:
    store = store_with(tmp_path, tasks=["heart", "watch"], publishers=["clinic"])
    agreement = read_agreement(open_device(store))
    assert agreement == Agreement("r00", frozenset({"clinic"}), frozenset({"heart", "watch"}))
    assert open_host(store).policy.tasks == {"heart", "watch"}


def test_all_tasks_have_to_be_agreed_to_by_a_star(tmp_path: Path) -> None:
    store = store_with(tmp_path, tasks=["*"])
    assert read_agreement(open_device(store)).tasks == {"*"}
    assert open_host(store).policy.tasks is None


@pytest.mark.parametrize("said", [{"tasks": "heart"}, {"tasks": {"heart": 1}}, {"tasks": ["heart"], "publishers": "x"}])
def test_one_text_is_no_list_of_names(tmp_path: Path, said: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="list of names"):
        open_device(store_with(tmp_path, **said))
