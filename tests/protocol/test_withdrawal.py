"""A bad version is withdrawn by the signed repository; the message is a hint, and who misses it learns it later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fedinfer.coordinator.push.withdrawal import withdraw
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.install import slots_of
from fedinfer.errors import Rollback
from fedinfer.inference.install.updater import InstallReport, Updater, UpdateSettings
from fedinfer.inference.predict.session import SessionCache
from fedinfer.messages import Kind, PushReply, PushRequest, WithdrawReply, WithdrawRequest
from fedinfer.ports import Answer, Ask
from fedinfer.system import SystemClock
from fedinfer.wire import decode, encode
from tests.protocol.test_patch_pushes import ALL, World, make_world

DEVICE = ALL[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    world.push()
    return world


def withdrawn(world: World) -> None:
    server = world.server
    withdraw(server.repository, server.fleet, server.emit, 1, ALL)


def hint(world: World, files: Mapping[str, bytes], version: int = 1) -> WithdrawReply:
    ask = Ask(DEVICE, Kind.WITHDRAW, encode(WithdrawRequest(version, dict(files))))
    answer = DeviceResponder(world.host).answer([ask])[0]
    assert not answer.error, answer
    return decode(WithdrawReply, answer.body)


def poll(world: World, device: str = DEVICE) -> InstallReport:
    """What the device does by itself: look into the repository, without any message."""
    clock, folder = SystemClock(), world.host.folder(device)
    settings = UpdateSettings(most_latency_us=1e6, stale_after_seconds=3600.0)
    root = world.server.repository.trusted_root()
    updater = Updater(slots_of(world.host, device), root, folder / "metadata", settings, clock, SessionCache(1))
    return updater.install(world.server.repository.fetch, clock.now())


def serving(world: World) -> dict[str, int]:
    found = {device: slots_of(world.host, device).active() for device in ALL}
    return {device: active.version for device, active in found.items() if active is not None}


def test_a_signed_withdrawal_takes_the_first_version_from_everybody(world: World) -> None:
    withdrawn(world)
    assert world.wire.events[-1] == ("withdrawn", {"version": 1, "devices": len(ALL), "failed": {}})
    assert serving(world) == {}
    assert all(slots_of(world.host, device).pointer().withdrawn == (1,) for device in ALL)


@pytest.mark.parametrize("with_metadata", [False, True])
def test_an_unsigned_hint_does_nothing(world: World, with_metadata: bool) -> None:
    """Whoever can write messages sends the hint alone, or with everything that is signed: no list names version 1."""
    reply = hint(world, world.server.repository.metadata() if with_metadata else {})
    assert not reply.withdrawn
    assert reply.version == 1
    assert ("not in the signed list" if with_metadata else "TransportError") in reply.reason
    assert serving(world) == dict.fromkeys(ALL, 1)
    assert slots_of(world.host, DEVICE).pointer().withdrawn == ()


def test_a_list_that_nobody_signed_is_refused(world: World) -> None:
    """The carrier of the message writes the version into the list; without the key the signature does not fit."""
    world.server.repository.renew()  # the device sees these files for the first time
    files = world.server.repository.metadata()
    name = next(name for name in files if name.endswith("targets.json"))
    document = json.loads(files[name])
    document["signed"]["withdrawn"] = [1]
    reply = hint(world, files | {name: json.dumps(document).encode()})
    assert not reply.withdrawn
    assert "BadSignature" in reply.reason
    assert serving(world) == dict.fromkeys(ALL, 1)


def test_a_hint_that_names_another_version_obeys_the_list(world: World) -> None:
    world.server.repository.withdraw(1)
    reply = hint(world, world.server.repository.metadata(), version=7)
    assert (reply.withdrawn, reply.version) == (False, 0)
    assert reply.reason == "the version is not in the signed list of withdrawn versions"
    assert DEVICE not in serving(world)


def test_an_offline_device_learns_it_when_it_polls(world: World) -> None:
    world.wire.offline = {DEVICE}
    withdrawn(world)
    assert world.wire.events[-1][1]["failed"] == {DEVICE: "no answer"}
    assert serving(world) == {DEVICE: 1}
    report = poll(world)
    assert (report.version, report.installed, report.withdrawn) == (0, False, (1,))
    assert serving(world) == {}
    again = poll(world)
    assert (again.version, again.installed, again.withdrawn) == (0, False, ())


def test_a_device_that_never_had_it_does_not_install_it(world: World) -> None:
    world.server.repository.withdraw(1)
    slots = slots_of(world.host, "newcomer")
    assert poll(world, "newcomer").version == 0
    assert slots.load() is None


def test_an_offline_device_learns_it_with_the_next_push(world: World) -> None:
    world.wire.offline = {DEVICE}
    withdrawn(world)
    world.push()
    assert serving(world) == dict.fromkeys(ALL, 2)
    assert slots_of(world.host, DEVICE).pointer().withdrawn == (1,)
    assert slots_of(world.host, DEVICE).pointer().previous is None, "a failing model cannot bring the bad one back"


def test_a_withdrawn_version_is_nothing_to_go_back_to(world: World) -> None:
    """The next version is the first again: nothing to compare it with, and no old bytes under a new number."""
    withdrawn(world)
    row = world.push()
    assert row["version"] == 2, "numbers grow"
    assert world.server.rollouts.load(f"{world.server.run_id}-v2").previous == ""


def test_replayed_older_metadata_does_not_bring_it_back(world: World) -> None:
    old = world.server.repository.bundle(1)
    before = world.server.repository.metadata()
    withdrawn(world)
    push = Ask(DEVICE, Kind.PUSH, encode(PushRequest(1, old)))
    reply = decode(PushReply, DeviceResponder(world.host).answer([push])[0].body)
    assert (reply.installed, reply.version) == (False, 0)
    assert Rollback.__name__ in reply.reason
    assert Rollback.__name__ in hint(world, before).reason
    assert serving(world) == {}


def test_a_coordinator_that_was_killed_in_between_does_it_again(world: World) -> None:
    """Once signed, and again with the messages; nobody minds hearing it twice."""
    world.server.repository.withdraw(1)
    for _ in range(2):
        withdrawn(world)
        assert world.wire.events[-1][1] == {"version": 1, "devices": len(ALL), "failed": {}}
    assert serving(world) == {}


def test_an_answer_that_was_lost_changes_nothing(world: World) -> None:
    def lost(ask: Ask, answer: Answer) -> Answer:
        return replace(answer, body=b"", error="TransportError", detail="gone") if ask.device == DEVICE else answer

    world.wire.on_answer = lost
    withdrawn(world)
    assert world.wire.events[-1][1]["failed"] == {DEVICE: "TransportError: gone"}
    assert serving(world) == {}
    assert hint(world, world.server.repository.metadata()).withdrawn
