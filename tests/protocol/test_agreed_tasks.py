"""A real device joins the tasks that its owner listed and no other: not by name, not after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedinfer.config import Scenario, to_flat
from fedinfer.data import public_schema
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import read_authority
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.messages import JoinRequest, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.wire import encode
from tests.protocol.fleet import NONCE, enrolled, revocations_of, settings

TASK = settings().scenario.name


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return enrolled(tmp_path / "stores", 1, Budget(8.0, 1e-5))[0]


def agree(store: Path, tasks: list[str]) -> Host:
    file = store / "device.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tasks": tasks}))
    return open_host(store)


def join(host: Host, scenario: Scenario, run_id: str = "run") -> Answer:
    device, member = next(iter(host.members.items()))
    authority = read_authority(host.folder(device).parent / "authority.key")
    texts = json.dumps(to_flat(scenario)), json.dumps(public_schema(scenario).to_json())
    keys = (device,), (member.identity.public_bytes,), (member.certificate,)
    request = JoinRequest(run_id, NONCE, *texts, *keys, revocations_of(authority), b"root")
    return DeviceResponder(host).answer([Ask(device, Kind.JOIN, encode(request))])[0]


def test_a_task_that_the_owner_did_not_list_is_not_joined(store: Path) -> None:
    host = agree(store, ["another", TASK.upper()])
    answer = join(host, settings())
    assert answer.error == "Misbehaviour"
    assert repr(TASK) in answer.detail
    assert host.task is None
    assert open_host(store).task is None


@pytest.mark.parametrize("tasks", [[TASK], ["another", TASK], ["*"]])
def test_a_task_that_the_owner_listed_is_joined(store: Path, tasks: list[str]) -> None:
    assert not join(agree(store, tasks), settings()).error


def test_an_owner_who_changes_his_mind_leaves_the_task_at_the_next_start(store: Path) -> None:
    assert not join(agree(store, [TASK]), settings()).error
    assert open_host(store).task is not None
    assert agree(store, ["another"]).task is None
