"""An operator takes a version back when no run goes on: by command, to a device that fetches its models by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedinfer.artifact.release.delta import add_deltas
from fedinfer.artifact.release.mirror import mirror
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import ROOT_METADATA
from fedinfer.cli import device, rollout, server, standing
from fedinfer.coordinator.released import RELEASED, mark_released, released_version
from fedinfer.deployment import has_work, needs_coordinator
from fedinfer.errors import ConfigError, TransportError
from fedinfer.rollout.controller import Approval, Command, Delivered, Order, Phase, begin
from fedinfer.rollout.gates import Bound, Gate, GateScope, GateSettings
from fedinfer.rollout.state import RolloutStore
from fedinfer.rollout.waves import Wave
from fedinfer.simulation import alone_in
from fedinfer.site.plan import TEMPLATE, SitePlan, read_plan
from fedinfer.site.server import ServerFolder
from fedinfer.system import FrozenClock, SystemClock
from tests.unit.artifact.key_folders import PASSPHRASE, save_new_keys
from tests.unit.inference.device_world import make_manifest, make_model
from tests.unit.inference.test_web_source import Site, files_of

GATES = GateSettings((Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE),), 1, 0.01, 0.01, 1)
FAST = ("--wait", "0")


class Place:
    """A server whose run is over: versions 1 and 2 were signed, and 2 went to everybody."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.keys = folder, folder / "run", folder / "keys" / "online"
        (self.run / "checkpoints").mkdir(parents=True)
        keys, self.clock = save_new_keys(folder / "keys"), SystemClock()
        self.repository = Repository(
            self.run / "artifacts", keys, self.clock, lambda _: None, root=(self.keys / ROOT_METADATA).read_bytes()
        )
        for version in (1, 2):
            model = make_model(seed=version)
            manifest = make_manifest(version, {"float": model})
            before = self.repository.model_files(version - 1)
            self.repository.publish(*add_deltas(manifest, {manifest.chosen.path: model}, manifest.variants, [before]))
        mirror(self.run / "artifacts", self.run / RELEASED)
        mark_released(self.run, 2)
        self.begin("1")

    def begin(self, previous: str, name: str = "pilot-v2") -> None:
        store = RolloutStore(self.run / "rollout.sqlite")
        state = begin(name, "2", previous, {"d": {}}, (Wave(1.0),), GATES, Approval.NONE)
        store.start(state, "coordinator", self.clock.now())
        store.apply(name, Delivered(0, 1, 0), self.clock.now())
        store.close()

    def phase(self) -> Phase:
        store = RolloutStore(self.run / "rollout.sqlite")
        state = store.load(store.names()[-1])
        store.verify(store.head())
        store.close()
        return state.phase

    def order(self, *arguments: str, code: int = 0) -> str:
        return call(rollout.app, arguments[0], str(self.run / "rollout.sqlite"), *arguments[1:], code=code)

    def watch(self) -> str:
        return call(server.app, "watch", str(self.run), "--keys", str(self.keys), "--once")

    def operator(self, name: str, *more: str) -> str:
        call(rollout.app, "operator", str(self.folder / name), "--name", name)
        call(rollout.app, "admit", str(self.run), str(self.folder / name / "operator.json"), *more)
        return str(self.folder / name)


def call(app: Any, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"FEDINFER_PASSPHRASE": PASSPHRASE, "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def site() -> Iterator[Site]:
    own = Site()
    yield own
    own.server.shutdown()
    own.server.server_close()


def test_a_rollback_by_command_reaches_a_device_that_was_away(place: Place, site: Site) -> None:
    root, store = place.folder / "root.json", str(place.folder / "device")
    root.write_bytes(place.repository.trusted_root())
    site.files = files_of(place.run / RELEASED)
    assert "version 2" in call(device.app, "update", "--store", store, "--from", site.url, "--root", str(root))
    ann = place.operator("ann")
    said = place.order("rollback", "--key", ann, "--reason", "wrong labels", *FAST)
    assert "handed in" in said
    assert place.phase() is Phase.DONE  # nobody carried it out yet
    assert "rollback pilot-v2 by ann: carried_out" in place.watch()
    assert place.phase() is Phase.ROLLED_BACK
    site.files = files_of(place.run / RELEASED)
    updated = call(device.app, "update", "--store", store, "--from", site.url)
    assert "version 3" in updated
    assert "before: 2" in updated
    assert released_version(place.run) == 1  # a later run begins with the weights of the version before
    assert place.watch() == ""


def test_a_first_version_is_withdrawn(place: Place) -> None:
    place.begin("", "first")
    place.order("rollback", "--key", place.operator("ann"), *FAST)
    place.watch()
    names = [path.name for path in (place.run / RELEASED / "metadata").iterdir() if path.name.endswith("targets.json")]
    assert '"withdrawn"' in (place.run / RELEASED / "metadata" / max(names)).read_text()
    assert released_version(place.run) == 0


def test_from_the_first_operator_on_only_signed_orders_count(place: Place) -> None:
    assert "no operators" in place.order("pause", "--key", str(place.folder / "ann"), code=2)
    ann = place.operator("ann")
    assert "signed orders only" in place.order("rollback", code=2)
    assert "--by is not for signed orders" in place.order("rollback", "--key", ann, "--by", "ben", code=2)
    assert place.phase() is Phase.DONE


def test_a_refused_order_says_why_and_is_listed(place: Place) -> None:
    ann = place.operator("ann")
    place.order("resume", "--key", ann, *FAST)
    place.watch()
    (request,) = json.loads(place.order("requests", "--json"))["requests"]
    assert (request["by"], request["standing"]) == ("ann", "refused")
    assert "resume is not possible now" in request["why"]
    assert "refused (rollout 'pilot-v2' is done" in place.order("requests")


def test_the_watch_leaves_orders_to_a_coordinator_that_is_at_work(place: Place) -> None:
    place.order("rollback", "--key", place.operator("ann"), *FAST)
    with alone_in(place.run):
        assert place.watch() == ""
    assert place.phase() is Phase.DONE
    assert "carried_out" in place.watch()


def test_a_watch_that_was_killed_after_signing_does_it_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.order("rollback", "--key", place.operator("ann"), *FAST)
    with monkeypatch.context() as patched:
        patched.setattr("fedinfer.deployment.standing.mark_released", _killed)
        with pytest.raises(_Killed):
            CliRunner().invoke(
                server.app,
                ["watch", str(place.run), "--keys", str(place.keys), "--once"],
                env={"FEDINFER_PASSPHRASE": PASSPHRASE},
                catch_exceptions=False,
            )
    assert place.phase() is Phase.ROLLING_BACK
    place.watch()
    assert place.phase() is Phase.ROLLED_BACK
    assert released_version(place.run) == 1


def test_a_start_waits_for_who_reaches_devices_and_the_watch_begins_a_coordinator_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, begun = place.operator("ann"), list[bool]()

    def begin_run(server: ServerFolder, *, orders: bool) -> int:
        begun.append(orders)
        if len(begun) == 1:
            raise TransportError("the server is down")
        return 7

    monkeypatch.setattr(standing, "begin_run", begin_run)
    clock, server = FrozenClock(SystemClock().now()), ServerFolder(place.run.parent, plan_in(place.folder))
    watch = standing.Standby(place.run, lambda: place.repository, server, clock)
    assert watch.look() == []
    place.order("start", "--version", "1", "--key", ann, "--reason", "as it was", *FAST)
    assert "the server is down" in watch.look()[0]
    assert "run 7 begun" in watch.look()[0]
    clock.advance(standing.START_SECONDS + 1)
    assert watch.look() == []  # what one coordinator could not do, the next one cannot either
    assert begun == [True, True]
    assert place.watch() == ""  # without a site it waits
    (request,) = json.loads(place.order("requests", "--json"))["requests"]
    assert (request["order"], request["version"], request["standing"]) == ("start", "1", "submitted")
    assert "start version 1 after pilot-v2 by ann: submitted" in place.order("requests")


def test_a_watch_of_another_site_begins_nothing(place: Place) -> None:
    server = ServerFolder(place.folder / "elsewhere", plan_in(place.folder))
    with pytest.raises(ConfigError, match="is not the run folder"):
        standing.Standby(place.run, lambda: place.repository, server, SystemClock())


def test_a_wave_that_was_ordered_and_not_pushed_needs_a_coordinator(place: Place) -> None:
    place.operator("ann")
    assert not has_work(place.run)
    store = RolloutStore(place.run / "rollout.sqlite")
    state = begin("ordered-v3", "3", "2", {"d": {}}, (Wave(1.0),), GATES, Approval.NONE)
    store.start(state, "ann", place.clock.now())
    assert has_work(place.run)
    assert needs_coordinator(place.run).startswith("ordered-v3")
    store.apply("ordered-v3", Command(Order.PAUSE, "ann", ""), place.clock.now())
    assert not needs_coordinator(place.run)
    store.close()


def test_what_is_started_is_signed_where_operators_are_and_planned_where_none_are(place: Place) -> None:
    rows = place.folder / "devices.csv"
    rows.write_text("device\nd\n")
    assert "a plan and a list" in place.order("start", "--version", "1", code=2)
    ann = place.operator("ann")
    assert "signed orders only" in place.order("start", str(rows), str(rows), code=2)
    assert "signed orders only" in place.order("start", "--version", "1", code=2)
    said = place.order("start", "--version", "1", "--waves", "half", "--key", ann, code=2)
    assert "--waves 'half'" in said
    assert "grow and end at 1" in place.order("start", "--version", "1", "--waves", "0.5", "--key", ann, code=2)


def plan_in(folder: Path) -> SitePlan:
    (folder / "site.toml").write_text(TEMPLATE)
    return read_plan(folder / "site.toml")


class _Killed(BaseException):
    """Stands for kill -9."""


def _killed(*_: object) -> None:
    raise _Killed
