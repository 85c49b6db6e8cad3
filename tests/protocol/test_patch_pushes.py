"""Whole pushes over real devices and a real repository: who gets a patch, who the whole model, and nobody neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fedinfer.coordinator.context import LEDGER_OWNER, Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.publish import publish_version, push_version
from fedinfer.coordinator.run import budget_of, first_progress
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.device.install import slots_of
from fedinfer.device.reported import SENTENCES
from fedinfer.errors import GateFailed, PatchRefused, TransportError
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.inference.install import updater
from fedinfer.inference.install.slots import SlotInfo
from fedinfer.inference.install.tuf_channel import open_channel
from fedinfer.messages import HealthReply, Kind, PushReply, PushRequest
from fedinfer.ports import Answer, Ask, Transport
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from fedinfer.types import Json
from fedinfer.wire import decode, encode
from tests.protocol.fleet import federation, settings

ALL = tuple(f"d{i:02d}" for i in range(8))


@dataclass
class Wire:
    """The transport with a hook at each end; devices in `offline` hear nothing."""

    inner: Transport
    offline: set[str] = field(default_factory=set)
    on_ask: Callable[[Ask], Ask] = lambda ask: ask
    on_answer: Callable[[Ask, Answer], Answer] = lambda ask, answer: answer
    pushes: list[str] = field(default_factory=list)
    bases: dict[str, str] = field(default_factory=dict)
    """What the patch of each device started from; empty: it got the whole model."""
    events: list[tuple[str, Json]] = field(default_factory=list)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> list[Answer]:
        heard = [self.on_ask(ask) for ask in asks if ask.device not in self.offline]
        pushes = [ask for ask in heard if ask.kind == Kind.PUSH]
        self.pushes += [ask.device for ask in pushes]
        self.bases |= {ask.device: decode(PushRequest, ask.common).patch_from for ask in pushes}
        answers = self.inner.ask(heard, timeout_seconds)
        by_device = {ask.device: ask for ask in heard}
        return [self.on_answer(by_device[answer.device], answer) for answer in answers]


@dataclass
class World:
    server: Server
    plan: RunPlan
    progress: Progress
    host: Host
    wire: Wire

    def push(self, *offline: str) -> Json:
        """Publish other weights and bring them to everybody who can hear; the record of the version."""
        self.wire.offline, self.wire.pushes = set(offline), []
        self.progress.weights = self.progress.weights + 0.01 * (1 + self.progress.version)
        publish_version(self.server, self.plan, self.progress)
        push_version(self.server, self.plan, self.progress)
        return self.progress.models[-1].to_json()

    def active(self, device: str) -> SlotInfo:
        found = slots_of(self.host, device).active()
        assert found is not None
        return found

    def versions(self) -> list[int]:
        return [self.active(device).version for device in ALL]

    def check_all_have(self, row: Json) -> None:
        """The very bytes that the repository signed."""
        for device in ALL:
            assert self.active(device).sha256["model.onnx"] == row["sha256"]
            assert slots_of(self.host, device).load() is not None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def make_world(folder: Path, keep: int = 5, waves: str = "[1.0]") -> World:
    extra = f"training.rounds = 1\ndrift.enabled = false\nrollout.keep_versions = {keep}\nrollout.waves = {waves}"
    scenario, clock, rows = settings(extra), SystemClock(), federation()
    host = simulated_host(scenario, rows, folder / "devices", clock, Processes.ONE)
    app = CohortClientApp(lambda context: (ALL[int(context.node_config["partition-id"])], DeviceResponder(host)))
    events: list[tuple[str, Json]] = []
    grid = LocalGrid(app, len(ALL), {})
    server, plan = open_server(
        grid, scenario, rows, folder, "local", clock, lambda name, fields: events.append((name, dict(fields)))
    )
    wire = Wire(server.transport, events=events)
    server = replace(server, transport=wire)
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget_of(scenario))
    return World(server, plan, first_progress(server, plan), host, wire)


def patched(ask: Ask, change: Callable[[PushRequest], PushRequest]) -> Ask:
    """The ask with another push inside, if it is a push with a patch."""
    if ask.kind != Kind.PUSH or not decode(PushRequest, ask.common).patch_from:
        return ask
    return replace(ask, common=encode(change(decode(PushRequest, ask.common))))


def damaged(request: PushRequest) -> PushRequest:
    files = {
        name: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:] if name.endswith(".zst") else data
        for name, data in request.files.items()
    }
    assert files != request.files
    return replace(request, files=files)


@pytest.mark.slow
def test_the_first_version_goes_out_whole_and_the_next_as_a_patch(world: World) -> None:
    first, second = dict(world.push()), world.push()
    assert first["pushed"]["whole"] == 8
    assert {way: second["pushed"][way] for way in ("whole", "patch", "both")} == {"whole": 0, "patch": 8, "both": 0}
    assert second["pushed"]["model_bytes"] < first["pushed"]["model_bytes"] / 2
    assert second["pushed"]["bytes"] > second["pushed"]["model_bytes"]
    assert sorted(world.wire.pushes) == list(ALL)  # one message per device
    world.check_all_have(second)


def test_a_wave_with_three_active_versions_sends_three_patches_and_one_message_each(world: World) -> None:
    world.push()
    world.push("d06", "d07")
    world.push("d04", "d05", "d06", "d07")
    assert world.versions() == [3, 3, 3, 3, 2, 2, 1, 1]
    before = {device: world.active(device).sha256["model.onnx"] for device in ALL}
    row = world.push()
    assert world.versions() == [4] * 8
    world.check_all_have(row)
    assert sorted(world.wire.pushes) == list(ALL)
    assert world.wire.bases == before
    assert len(set(before.values())) == 3
    assert row["pushed"]["patch"] == sum(group["devices"] for group in row["waves"][0]["pushed"]) == 8
    manifest = world.server.repository.manifest(4)
    assert len([delta for delta in manifest.deltas if delta.from_sha256]) == 3


def test_a_patch_for_another_base_is_refused_by_name_and_the_whole_model_follows(world: World) -> None:
    """A device that names a version it does not have: a liar, a restored backup, a model of another server."""
    world.push()
    world.push("d03")

    def lie(ask: Ask, answer: Answer) -> Answer:
        honest = ask.kind != Kind.HEALTH or ask.device != "d03"
        return answer if honest else replace(answer, body=encode(HealthReply(2, "a", 0)))

    replies: list[PushReply] = []

    def lie_and_listen(ask: Ask, answer: Answer) -> Answer:
        if ask.kind == Kind.PUSH and ask.device == "d03":
            replies.append(decode(PushReply, answer.body))
        return lie(ask, answer)

    world.wire.on_answer = lie_and_listen
    row = world.push()
    assert replies[0].reason == f"{PatchRefused.__name__}: {SENTENCES[PatchRefused.__name__]}"
    assert (replies[0].installed, replies[0].whole, replies[0].version) == (False, True, 1)
    assert replies[1].installed
    assert (row["pushed"]["patch"], row["pushed"]["both"]) == (7, 1)
    assert sorted(world.wire.pushes) == sorted([*ALL, "d03"])  # one message more, for the one that needed it
    assert row["waves"][0]["failed"] == 0
    world.check_all_have(row)


def test_a_patch_that_was_tampered_with_is_refused_and_the_whole_model_follows(world: World) -> None:
    world.push()
    world.wire.on_ask = lambda ask: patched(ask, damaged) if ask.device == "d05" else ask
    row = world.push()
    assert (row["pushed"]["patch"], row["pushed"]["both"]) == (7, 1)
    assert row["devices_active"] == 8
    world.check_all_have(row)


@pytest.mark.slow
def test_simulated_stores_in_one_state_are_verified_once_and_real_ones_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def counting(root: bytes, folder: Path, *more: Any) -> Any:
        opened.append(folder)
        return open_channel(root, folder, *more)

    monkeypatch.setattr(updater, "open_channel", counting)
    world.check_all_have(world.push())
    assert len(opened) == 1
    world.push("d02", "d05")
    assert len(opened) == 2
    world.check_all_have(world.push())
    assert len(opened) == 4, "those that missed a version are in another state"
    world.host.policy = replace(world.host.policy, reveals_simulation=False)
    world.check_all_have(world.push())
    assert sorted(folder.parent.name for folder in opened[4:]) == sorted(ALL)


@pytest.mark.slow
def test_a_device_that_lost_its_model_file_gets_the_whole_one(world: World) -> None:
    world.push()
    folder = slots_of(world.host, "d01").folder
    file = folder / world.active("d01").slot / "model.onnx"
    file.unlink()  # equal stores of a simulation share their files
    file.write_bytes(b"rotten")
    row = world.push()
    assert (row["pushed"]["patch"], row["pushed"]["both"]) == (7, 1)
    world.check_all_have(row)


@pytest.mark.slow
def test_a_device_that_rolled_back_gets_a_patch_from_what_it_went_back_to(world: World) -> None:
    world.push()
    world.push()
    slots_of(world.host, "d02").rollback()
    before = {device: world.active(device).sha256["model.onnx"] for device in ALL}
    row = world.push()
    assert row["pushed"]["patch"] == 8
    assert world.wire.bases == before
    assert before["d02"] != before["d01"]
    world.check_all_have(row)


@pytest.mark.slow
def test_when_the_whole_model_does_not_arrive_either_the_device_keeps_the_old_one(world: World) -> None:
    world.push()
    before = world.active("d00")
    seen: list[str] = []

    def lose_the_second(ask: Ask) -> Ask:
        if ask.kind != Kind.PUSH or ask.device != "d00":
            return ask
        seen.append(ask.device)
        changed = patched(ask, damaged)
        return changed if len(seen) == 1 else replace(ask, common=encode(PushRequest(2, {})))

    world.wire.on_ask = lose_the_second
    row = world.push()
    assert row["waves"][0]["failed"] == 1
    assert TransportError.__name__ in row["waves"][0]["first_failure"]
    assert world.active("d00") == before
    assert slots_of(world.host, "d00").load() is not None


@pytest.mark.slow
def test_who_asks_for_the_whole_model_again_and_again_gets_it_once(world: World) -> None:
    def greedy(ask: Ask, answer: Answer) -> Answer:
        asked = ask.kind == Kind.PUSH and ask.device == "d07"
        return replace(answer, body=encode(PushReply(False, 0, "more", True))) if asked else answer

    world.push()
    world.wire.on_answer = greedy
    world.push()
    assert world.wire.pushes.count("d07") == 2
    world.push()
    assert world.wire.pushes.count("d07") <= 2


@pytest.mark.slow
@pytest.mark.parametrize("version", [-1, 0, 99, 2**62])
def test_a_version_that_nobody_published_gets_the_whole_model(world: World, version: int) -> None:
    world.push()
    body = encode(HealthReply(version, "a", 0))
    world.wire.on_answer = lambda ask, answer: replace(answer, body=body) if ask.kind == Kind.HEALTH else answer
    row = world.push()
    assert (row["pushed"]["whole"], row["pushed"]["both"]) == (8, 0)
    world.check_all_have(row)


@pytest.mark.slow
def test_an_answer_about_health_that_nobody_can_read_gets_the_whole_model(world: World) -> None:
    world.push()
    world.wire.on_answer = lambda ask, answer: replace(answer, body=b"?") if ask.kind == Kind.HEALTH else answer
    assert world.push()["pushed"]["whole"] == 8


# --- old versions ---


@pytest.mark.slow
def test_the_repository_does_not_grow_and_who_was_away_gets_the_whole_newest(tmp_path: Path) -> None:
    world = make_world(tmp_path, keep=2)
    world.push()
    for _ in range(5):
        world.push("d07")
        assert len(world.server.repository.versions()) <= 3
    assert world.active("d07").version == 1
    assert 1 not in world.server.repository.versions()
    row = world.push()
    assert (row["pushed"]["whole"], row["pushed"]["patch"]) == (1, 7)
    world.check_all_have(row)
    assert world.server.repository.versions() == (6, 7)
    names = [path.name for path in (tmp_path / "artifacts" / "targets" / "model").iterdir()]
    assert not [name for name in names if name.split(".")[1] not in ("6", "7", "current")]


@pytest.mark.slow
def test_a_version_that_a_device_reports_is_kept(tmp_path: Path) -> None:
    """It takes no update, for whatever reason, and still runs version 1: that stays, the others in between go."""
    world = make_world(tmp_path, keep=1)
    world.push()

    def stubborn(ask: Ask) -> Ask:
        deaf = ask.kind == Kind.PUSH and ask.device == "d04"
        return replace(ask, common=encode(PushRequest(9, {}))) if deaf else ask

    world.wire.on_ask = stubborn
    for _ in range(3):
        world.push()
    assert world.active("d04").version == 1
    assert world.server.repository.versions() == (1, 3, 4)
    world.wire.on_ask = lambda ask: ask
    assert world.push()["pushed"]["patch"] == 8


@pytest.mark.slow
def test_a_bad_version_is_taken_back_after_pruning_and_by_patches(tmp_path: Path) -> None:
    world = make_world(tmp_path, keep=1, waves="[0.5, 1.0]")
    for _ in range(3):
        good = dict(world.push())
    assert world.server.repository.versions() == (2, 3)

    def sick(ask: Ask, answer: Answer) -> Answer:
        bad = ask.kind == Kind.PUSH and decode(PushReply, answer.body).version == 4 and ask.device in sorted(hit)[:2]
        return replace(answer, body=encode(PushReply(False, 4, "GateFailed: slow"))) if bad else answer

    hit: set[str] = set()

    def watch(ask: Ask) -> Ask:
        hit.update([ask.device] if ask.kind == Kind.PUSH else [])
        return ask

    world.wire.on_ask, world.wire.on_answer = watch, sick
    with pytest.raises(GateFailed, match="rolled_back"):
        world.push()
    back: Any = [fields for name, fields in world.wire.events if name == "rolled_back"][-1]
    assert (back["to"], back["as"], back["devices"]) == (3, 5, 2)
    assert [(group["way"], group["devices"]) for group in back["pushed"]] == [("patch", 2)]
    gone_back = [device for device in ALL if world.active(device).version == 5]
    assert {world.active(device).sha256["model.onnx"] for device in gone_back} == {good["sha256"]}
    assert sorted(world.versions()) == [3] * 4 + [4] * 2 + [5] * 2
