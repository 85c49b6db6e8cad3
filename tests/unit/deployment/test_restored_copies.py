"""An old copy of a server that was put back, in the middle of a run or after it: nothing is spent twice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from flwr.app import Context

from fedinfer.device.dispatch import DeviceResponder
from fedinfer.errors import ConfigError
from fedinfer.flower.client_app import Responder
from fedinfer.messages import HealthReply, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget, Ledger
from fedinfer.store import read_store
from fedinfer.wire import encode
from tests.protocol.fleet import enrolled
from tests.unit.deployment.test_deployment_run import DEVICES
from tests.unit.deployment.test_resumed_runs import THREE, Mortal, dies_after, killed


@pytest.fixture
def pilot(tmp_path: Path) -> Mortal:
    return Mortal(tmp_path, enrolled(tmp_path, DEVICES, Budget(4.0, 1e-5)), [])


def spent(pilot: Mortal) -> dict[str, list[tuple[str, str]]]:
    """By store: task and reference of everything that was paid."""
    stores = {store.name: store / "device.sqlite" for store in pilot.stores}
    stores["server"] = pilot.folder / "server" / "ledger.sqlite"
    return {
        name: [(entry.task, entry.reference) for entry in Ledger(read_store(store)).entries(None)]
        for name, store in stores.items()
    }


def put_back(pilot: Mortal) -> None:
    shutil.rmtree(pilot.folder / "server")
    shutil.copytree(pilot.folder / "copy", pilot.folder / "server")


@pytest.mark.slow
def test_a_server_from_before_the_push_is_refused_before_anything_is_spent(pilot: Mortal) -> None:
    killed(pilot, dies_after("round", round=2))
    shutil.copytree(pilot.folder / "server", pilot.folder / "copy")
    killed(pilot, dies_after("pushed"))
    put_back(pilot)
    before = spent(pilot)
    with pytest.raises(ConfigError, match=r"5 of 5 run a version up to 1, its repository ends at 0"):
        pilot.run(THREE)
    assert spent(pilot) == before


@pytest.mark.slow
def test_a_server_from_the_middle_of_a_run_pays_for_no_round_twice(pilot: Mortal) -> None:
    """No version tells that it is an old copy; what devices have answered they do not answer again."""
    killed(pilot, dies_after("round", round=2))
    shutil.copytree(pilot.folder / "server", pilot.folder / "copy")
    killed(pilot, dies_after("round", round=3))
    before = spent(pilot)
    put_back(pilot)
    killed(pilot, dies_after("built"))
    after = spent(pilot)
    assert after["server"] == before["server"]
    for store in pilot.stores:
        assert after[store.name] == before[store.name]
    rows = [row for event, row in pilot.events if event == "round"]
    assert [row["status"] for row in rows] == ["aborted", "aborted"]
    assert rows[1]["detail"].startswith("0 of 5 devices sent keys")


class Boasting:
    """A device that says that it runs a version which nobody made."""

    def __init__(self, responder: DeviceResponder) -> None:
        self.host, self._true = responder.host, responder

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        if asks[0].kind == Kind.HEALTH:
            return [Answer(ask.device, encode(HealthReply(1_000_000, "a", 0))) for ask in asks]
        return self._true.answer(asks)


def test_one_device_alone_does_not_stop_a_run_by_what_it_says(pilot: Mortal) -> None:
    find = pilot.find

    def one_boasts(context: Context) -> tuple[str, Responder]:
        device, responder = find(context)
        return device, Boasting(responder) if int(context.node_config["partition-id"]) == 0 else responder

    pilot.find = one_boasts  # type: ignore[method-assign, assignment]  # in front of the true one
    killed(pilot, dies_after("round", round=1))
    told = dict(pilot.events)
    assert told["ahead"] == {"devices": ["r00"], "newest": 0}
    assert told["round"]["status"] == "released"
