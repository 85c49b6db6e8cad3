"""Operators order a live deployment about: a coordinator carries their signed requests out while it waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedinfer.coordinator.released import released_version
from fedinfer.errors import GateFailed
from fedinfer.inference.install.slots import Slots
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.rollout import (
    WENT_BACK,
    Order,
    OrderInbox,
    OrderRequest,
    Phase,
    RolloutStore,
    admit_operator,
    log,
    read_operators,
    sign_order,
)
from fedinfer.secagg.keys import IdentityKey
from fedinfer.system import FrozenClock, SystemClock, SystemEntropy
from tests.protocol.fleet import enrolled
from tests.unit.deployment.test_deployment_run import DEVICES, SMALL, Pilot

NO_WINDOWS = "training.rounds = 2\ndrift.enabled = false\nsecure_aggregation.dropout_rate = 0.2"
KEY = IdentityKey.generate(SystemEntropy())


class Operated(Pilot):
    """A pilot whose server has an operator, who acts while the server rests."""

    def prepare(self, act: Callable[[float], None]) -> FrozenClock:
        clock, self.predicts = FrozenClock(SystemClock().now()), False

        def rest(seconds: float) -> None:
            act(seconds)
            clock.advance(seconds)

        self.on_rest = rest
        folder = self.folder / "server"
        folder.mkdir()
        admit_operator(folder, "ann", KEY.public_bytes, None, SystemEntropy())
        return clock

    def order(self, what: Order, now: FrozenClock) -> None:
        operators = read_operators(self.folder / "server")
        assert operators is not None
        store = self.store()
        name = store.names()[-1]
        wave, at, nonce = store.load(name).wave + 1, int(now.now().timestamp()), SystemEntropy().take(16)
        asked = OrderRequest(operators.server, name, what, wave, "ann", "as told", at, nonce)
        OrderInbox(store).submit(sign_order(asked, KEY.sign), now.now())
        store.close()

    def store(self) -> RolloutStore:
        return RolloutStore(self.folder / "server" / "rollout.sqlite")

    def orders(self) -> list[tuple[str, str]]:
        return [(fields["order"], fields["standing"]) for name, fields in self.events if name == "order"]


@pytest.fixture
def pilot(tmp_path: Path) -> Operated:
    return Operated(tmp_path, enrolled(tmp_path, DEVICES, Budget(4.0, 1e-5)), [])


@pytest.mark.slow
def test_a_version_that_everybody_has_is_taken_back_while_the_server_waits_for_windows(pilot: Operated) -> None:
    rests: list[float] = []

    def act(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 3:
            pilot.order(Order.ROLLBACK, clock)

    clock = pilot.prepare(act)
    with pytest.raises(GateFailed, match="version 1 was rolled_back: rollback by ann: as told"):
        pilot.run(f"{SMALL}\ndrift.wait_seconds = 3600\ndrift.poll_seconds = 60", clock=clock)
    assert len(rests) == 3  # at once, not at the end of the pause
    assert pilot.orders() == [("rollback", "carried_out")]
    assert [Slots(store / "slots").active() for store in pilot.stores] == [None] * DEVICES
    store = pilot.store()
    assert set(store.went_back(store.names()[-1]).values()) == {""}
    assert len(store.went_back(store.names()[-1])) == DEVICES
    waves = [log.entry(line)["body"].get("wave") for line in store.log_lines() if '"acknowledged"' in line]
    assert waves[-1] == WENT_BACK + 1
    store.verify(store.head())
    store.close()
    assert released_version(pilot.folder / "server") == 0
    assert (pilot.folder / "server" / "released" / "metadata" / "timestamp.json").is_file()


@pytest.mark.slow
def test_a_paused_rollout_waits_and_goes_on_when_it_is_told_to(pilot: Operated) -> None:
    phases: list[Phase] = []

    def act(seconds: float) -> None:
        store = pilot.store()
        phases.append(store.load(store.names()[-1]).phase)
        store.close()
        if len(phases) == 4:
            pilot.order(Order.RESUME, clock)

    clock = pilot.prepare(act)
    heard = pilot.heard

    def listening(event: str, fields: dict[str, object]) -> None:
        heard(event, fields)
        if event == "wave" and fields["wave"] == 1:
            pilot.order(Order.PAUSE, clock)

    pilot.heard = listening  # type: ignore[method-assign]
    record = pilot.run(NO_WINDOWS, clock=clock)
    assert record["status"] == "completed"
    assert phases == [Phase.PAUSED] * 4
    assert pilot.orders() == [("pause", "carried_out"), ("resume", "carried_out")]
    assert [name for name, _ in pilot.events].count("asks") == 1
    assert record["models"][0]["devices_active"] == DEVICES
