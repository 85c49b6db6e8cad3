"""Operators order a live deployment about: a coordinator carries their signed requests out while it waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedinfer.coordinator.released import released_version
from fedinfer.deployment.coordinate import run_orders
from fedinfer.deployment.standing import needs_coordinator
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.privacy.accounting.ledger import Budget, Ledger
from fedinfer.rollout import (
    WENT_BACK,
    Order,
    OrderInbox,
    OrderRequest,
    Phase,
    RolloutStore,
    StartRequest,
    admit_operator,
    log,
    read_operators,
    sign_order,
)
from fedinfer.secagg.keys import IdentityKey
from fedinfer.simulation.grid import LocalGrid
from fedinfer.store import read_store
from fedinfer.system import FrozenClock, SystemClock, SystemEntropy
from fedinfer.training import load_checkpoint
from tests.protocol.fleet import enrolled, settings
from tests.unit.deployment.test_deployment_run import DEVICES, SMALL, OneByOne, Pilot

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

    def start(self, version: int, now: FrozenClock, waves: tuple[float, ...] = ()) -> None:
        operators = read_operators(self.folder / "server")
        assert operators is not None
        store, nonce = self.store(), SystemEntropy().take(16)
        at = int(now.now().timestamp())
        asked = StartRequest(operators.server, store.names()[-1], version, waves, "ann", "as told", at, nonce)
        OrderInbox(store).submit(sign_order(asked, KEY.sign), now.now())
        store.close()

    def run_orders(self, clock: FrozenClock) -> str:
        grid = LocalGrid(OneByOne(self.find), len(self.stores), {})
        deployment, scenario = self.deployment("orders"), settings(NO_WINDOWS)
        return run_orders(grid, scenario, deployment, clock, self.heard, self.on_rest)

    def versions(self) -> list[int]:
        return [open_installed(Slots(store / "slots"), SessionCache(1)).manifest.version for store in self.stores]

    def store(self) -> RolloutStore:
        return RolloutStore(self.folder / "server" / "rollout.sqlite")

    def orders(self) -> list[tuple[str, str]]:
        return [(fields["order"], fields["standing"]) for name, fields in self.events if name == "order"]


def entries_of(store: Path) -> int:
    return len(Ledger(read_store(store / "device.sqlite")).entries(store.name))


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
def test_a_version_that_an_operator_starts_reaches_every_device_and_ends_the_run(pilot: Operated) -> None:
    rests: list[float] = []

    def act(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 3:
            pilot.start(1, clock, (0.5, 1.0))

    clock = pilot.prepare(act)
    with pytest.raises(GateFailed, match="an operator started version 2 in place of what this run made; it is done"):
        pilot.run(f"{SMALL}\ndrift.wait_seconds = 3600\ndrift.poll_seconds = 60", clock=clock)
    assert len(rests) == 3  # at once, not at the end of the pause
    assert pilot.orders() == [("start", "carried_out")]
    assert pilot.versions() == [2] * DEVICES
    assert [fields["installed"] for name, fields in pilot.events if name == "wave"][-2:] == [3, 2]
    store, server = pilot.store(), pilot.folder / "server"
    assert store.names()[-1] == "ordered-v2"
    store.verify(store.head())
    store.close()
    assert released_version(server) == 2
    kept = [load_checkpoint(server / "checkpoints" / f"v{version}.npz") for version in (1, 2)]
    assert kept[0].arrays["weights"].tobytes() == kept[1].arrays["weights"].tobytes()  # a later run goes on from it


@pytest.mark.slow
def test_between_runs_a_coordinator_that_trains_nothing_brings_what_was_started(pilot: Operated) -> None:
    clock = pilot.prepare(lambda _: None)
    pilot.run(NO_WINDOWS, clock=clock)
    spent = [entries_of(store) for store in pilot.stores]
    assert pilot.run_orders(clock) == ""  # nobody asked for anything
    pilot.start(9, clock)
    pilot.start(1, clock)
    assert pilot.run_orders(clock) == "ordered-v2"
    assert pilot.orders() == [("start", "refused"), ("start", "carried_out")]
    assert pilot.versions() == [2] * DEVICES
    assert [entries_of(store) for store in pilot.stores] == spent
    pilot.order(Order.ROLLBACK, clock)
    with pytest.raises(GateFailed, match="rolled_back"):
        pilot.run_orders(clock)
    assert pilot.versions() == [3] * DEVICES
    assert released_version(pilot.folder / "server") == 1


@pytest.mark.slow
def test_a_started_rollout_that_was_killed_goes_on_where_it_was(
    pilot: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = pilot.prepare(lambda _: None)
    pilot.run(NO_WINDOWS, clock=clock)
    pilot.start(1, clock, (0.5, 1.0))
    heard = pilot.heard

    def killed(event: str, fields: dict[str, object]) -> None:
        heard(event, fields)
        if event == "wave":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pilot, "heard", killed)
        with pytest.raises(KeyboardInterrupt):
            pilot.run_orders(clock)
    assert sorted(pilot.versions()) == [1, 1, 2, 2, 2]
    assert needs_coordinator(pilot.folder / "server").startswith("ordered-v2")
    assert pilot.run_orders(clock) == "ordered-v2"
    assert pilot.versions() == [2] * DEVICES


@pytest.mark.slow
def test_a_run_that_did_not_end_keeps_a_coordinator_without_training_out(pilot: Operated) -> None:
    clock = pilot.prepare(lambda _: None)
    heard = pilot.heard

    def killed(event: str, fields: dict[str, object]) -> None:
        heard(event, fields)
        if event == "round":
            raise KeyboardInterrupt

    pilot.heard = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pilot.run(NO_WINDOWS, clock=clock)
    with pytest.raises(ConfigError, match="run pilot did not end; it carries out orders itself"):
        pilot.run_orders(clock)


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
