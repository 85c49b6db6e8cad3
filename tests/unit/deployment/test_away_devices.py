"""Devices that were away during a rollout and its rollback, or during the rollback alone, catch up by themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli import device, server
from fedinfer.inference.install.slots import Slots
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.rollout import Order
from tests.protocol.fleet import enrolled
from tests.unit.artifact.key_folders import PASSPHRASE
from tests.unit.deployment.test_deployment_run import DEVICES
from tests.unit.deployment.test_live_orders import NO_WINDOWS, Operated


def call(app: object, *words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"FEDINFER_PASSPHRASE": PASSPHRASE})  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return done.output


def serves(store: Path) -> tuple[int, str]:
    """Version and digest of the model that a device predicts with."""
    loaded = Slots(store / "slots").load()
    assert loaded is not None
    (model,) = (data for name, data in loaded.files.items() if name.endswith(".onnx"))
    return loaded.info.version, hashlib.sha256(model).hexdigest()


@pytest.mark.slow
def test_a_rollback_reaches_devices_that_were_away_whatever_they_missed(tmp_path: Path) -> None:
    pilot = Operated(tmp_path, enrolled(tmp_path, DEVICES, Budget(40.0, 1e-5)), [])
    clock, everybody = pilot.prepare(lambda _seconds: None), list(pilot.stores)
    missed_both, missed_the_rollback, waits_for_a_push = everybody[4], everybody[3], everybody[0]
    pilot.run(NO_WINDOWS, clock=clock, name="first")
    first = {serves(store) for store in everybody}
    assert {version for version, _ in first} == {1}

    pilot.stores = everybody[:4]
    pilot.run(f"{NO_WINDOWS}\nrollout.max_public_drop = 1.0", clock=clock, name="second")
    assert [serves(store)[0] for store in everybody] == [2, 2, 2, 2, 1]
    pilot.order(Order.ROLLBACK, clock)
    said = call(server.app, "watch", tmp_path / "server", "--keys", tmp_path / "keys" / "online", "--once")
    assert "carried_out" in said
    assert serves(missed_the_rollback)[0] == 2  # nothing has reached it

    for store in (missed_both, missed_the_rollback):
        call(device.app, "update", "--store", store, "--from", tmp_path / "server" / "released")
    ((_, model),) = first
    assert serves(missed_both) == serves(missed_the_rollback) == (3, model)
    assert serves(waits_for_a_push)[0] == 2

    pilot.stores = everybody
    record = pilot.run(f"{NO_WINDOWS}\nrollout.max_public_drop = 1.0", clock=clock, name="third")
    assert record["models"][-1]["devices_active"] == DEVICES
    assert {serves(store) for store in everybody} == {serves(waits_for_a_push)}
    assert serves(waits_for_a_push)[0] == 4
