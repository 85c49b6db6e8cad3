"""A server that was killed and started again: it goes on with the run of its folder, and nothing is spent twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedinfer.coordinator.resume import INTERRUPTED
from fedinfer.deployment.coordinate import forget_run, unfinished_run
from fedinfer.errors import ConfigError, TransportError
from fedinfer.privacy.accounting.ledger import Budget, Ledger
from fedinfer.store import read_store
from fedinfer.types import Json
from tests.protocol.fleet import enrolled
from tests.unit.deployment.test_deployment_run import DEVICES, Pilot, use

THREE = "training.rounds = 3\ndrift.windows = 2\nsecure_aggregation.dropout_rate = 0.2"


class Killed(BaseException):
    """Stands for kill -9: nothing on the way catches it."""


class Mortal(Pilot):
    """A pilot whose server dies at a moment."""

    dies: Callable[[str, Json], bool] = staticmethod(lambda event, fields: False)

    def heard(self, event: str, fields: Json) -> None:
        super().heard(event, fields)
        if self.dies(event, fields):
            raise Killed


@pytest.fixture
def pilot(tmp_path: Path) -> Mortal:
    return Mortal(tmp_path, enrolled(tmp_path, DEVICES, Budget(4.0, 1e-5)), [])


def dies_after(name: str, **fields: Any) -> Callable[[str, Json], bool]:
    return lambda event, said: event == name and fields.items() <= said.items()


def ledger(folder: Path) -> Ledger:
    return Ledger(read_store(folder / "server" / "ledger.sqlite"))


def references(folder: Path) -> list[str]:
    return [entry.reference for entry in ledger(folder).entries(None)]


def killed(pilot: Mortal, when: Callable[[str, Json], bool], extra: str = THREE, **named: Any) -> Json:
    """Run until the server dies; what run.json says then, {} when there is none yet."""
    pilot.events.clear()
    pilot.dies = when
    with pytest.raises(Killed):
        pilot.run(extra, **named)
    pilot.dies = lambda event, fields: False
    path = pilot.folder / "server" / "run.json"
    record: Json = json.loads(path.read_text()) if path.exists() else {}
    return record


def rounds_heard(pilot: Mortal) -> list[Json]:
    return [fields for event, fields in pilot.events if event == "round"]


BEFORE_THE_BUILD = dies_after("phase")


def test_a_round_under_way_is_charged_once_and_counts_as_aborted(pilot: Mortal) -> None:
    """The event of round 2 is written before its state is kept."""
    left = killed(pilot, dies_after("round", round=2))
    assert left["status"] == "unfinished"
    assert unfinished_run(pilot.folder / "server") == "pilot"
    killed(pilot, BEFORE_THE_BUILD, name="another")
    assert pilot.events[0][1]["resumed"] == {"round": 1, "window": 0, "version": 0}
    second, third = rounds_heard(pilot)
    assert (second["round"], second["status"], second["detail"]) == (2, "aborted", INTERRUPTED)
    assert (third["round"], third["status"]) == (3, "released")
    assert references(pilot.folder) == ["round-0001", "round-0002", "round-0003"]
    assert {entry.task for entry in ledger(pilot.folder).entries(None)} == {"pilot"}


def test_another_scenario_does_not_go_on_with_the_run_and_spends_nothing(pilot: Mortal) -> None:
    killed(pilot, dies_after("round", round=1))
    before = references(pilot.folder)
    with pytest.raises(ConfigError, match=r"its scenario was another: training\.rounds"):
        pilot.run(THREE.replace("rounds = 3", "rounds = 2"))
    assert references(pilot.folder) == before
    forget_run(pilot.folder / "server")
    record = killed(pilot, dies_after("round", round=1), name="second")
    assert record["run_id"] == "second"
    earlier = json.loads((pilot.folder / "server" / "runs" / "pilot.json").read_text())
    assert (earlier["run_id"], earlier["status"]) == ("pilot", "unfinished")


def test_a_run_whose_devices_are_not_back_yet_waits_for_them(pilot: Mortal) -> None:
    """After a power cut it went on with two of four devices, aborted, and was over."""
    killed(pilot, dies_after("round", round=1))
    before, everybody = references(pilot.folder), list(pilot.stores)
    pilot.stores = everybody[:2]
    with pytest.raises(TransportError, match="2 devices joined, a sum of run pilot needs"):
        pilot.run(THREE)
    assert references(pilot.folder) == before
    assert unfinished_run(pilot.folder / "server") == "pilot"
    pilot.stores = everybody
    killed(pilot, dies_after("round", round=2))


def test_an_upgraded_server_does_not_go_on_with_the_run_of_the_version_before(
    pilot: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(pilot, dies_after("round", round=1))
    monkeypatch.setattr("fedinfer.deployment.coordinate.build_id", lambda: "0.2.0+other")
    with pytest.raises(ConfigError, match=r"was begun by .*, this is 0\.2\.0\+other") as caught:
        pilot.run(THREE)
    assert "resume = false" in caught.value.hint


def test_a_device_that_is_away_at_the_second_start_does_not_change_the_plan(pilot: Mortal) -> None:
    killed(pilot, dies_after("round", round=1))
    planned = pilot.events[0][1]["privacy"]
    pilot.stores.pop()
    killed(pilot, BEFORE_THE_BUILD)
    assert [row["survivors"] for row in rounds_heard(pilot)] == [0, DEVICES - 1, DEVICES - 1]
    assert pilot.events[0][1]["privacy"] == planned


def test_a_server_with_other_signing_keys_is_refused_at_the_join_and_spends_nothing(pilot: Mortal) -> None:
    """Found at the push, it had cost the whole budget of the run."""
    killed(pilot, dies_after("started"))
    for folder in ("server", "keys"):
        shutil.rmtree(pilot.folder / folder)
    with pytest.raises(TransportError, match=r"none of 5 devices joined.*signs models with other keys"):
        pilot.run(THREE, name="second")
    spent = [Ledger(read_store(store / "device.sqlite")).entries(None) for store in pilot.stores]
    assert spent == [[]] * DEVICES
    assert not (pilot.folder / "server" / "ledger.sqlite").exists()


@pytest.mark.slow
def test_a_push_and_a_window_under_way_go_on_and_nothing_is_done_twice(pilot: Mortal) -> None:
    killed(pilot, dies_after("wave", wave=1))
    killed(pilot, dies_after("window", window=1))
    for store in pilot.stores:  # devices predict on
        use(store, pilot.window)
    assert [event for event, _ in pilot.events].count("built") == 0
    record = pilot.run(THREE)
    assert record["status"] == "completed"
    assert [row["version"] for row in record["models"]] == [1]
    assert record["models"][0]["devices_active"] == DEVICES
    assert [row["reporters"] for row in record["drift"]["timeline"]] == [0, DEVICES]
    assert record["drift"]["timeline"][0]["decision"]["reason"] == INTERRUPTED
    assert references(pilot.folder) == ["round-0001", "round-0002", "round-0003", "window-0001", "window-0002"]
    assert unfinished_run(pilot.folder / "server") == ""


@pytest.mark.slow
def test_a_version_that_was_signed_and_not_recorded_is_followed_by_the_next(pilot: Mortal) -> None:
    killed(pilot, dies_after("built"))
    killed(pilot, dies_after("pushed"))
    pushed = pilot.events[-1][1]
    assert (pushed["version"], pushed["devices_active"]) == (2, DEVICES)


@pytest.mark.slow
def test_a_threshold_is_chosen_once_for_a_push_however_often_its_version_is_built(pilot: Mortal) -> None:
    """Chosen by version, each process that died here asked once more than the run's statement says."""
    choosing = "training.threshold = 'private'\ntraining.threshold_epsilon = 0.5\nsecure_aggregation.dropout_rate = 0.2"
    extra = f"training.rounds = 1\ndrift.enabled = false\n{choosing}"
    killed(pilot, dies_after("built", version=1), extra=extra)
    killed(pilot, dies_after("built", version=2), extra=extra)
    record = pilot.run(extra)
    assert [row["version"] for row in record["models"]] == [3]
    assert references(pilot.folder) == ["round-0001", "threshold-0001"]
    assert record["statement"]["thresholds"] == 1
    assert "version 3 answers the likeliest class: no private threshold" in " ".join(record["warnings"])


@pytest.mark.slow
def test_a_later_run_goes_on_from_the_version_that_everybody_got(pilot: Mortal) -> None:
    """Fresh weights once took the public accuracy of a fleet from .663 to .533."""
    pilot.run("training.rounds = 2\ndrift.enabled = false\nsecure_aggregation.dropout_rate = 0.2")
    killed(pilot, dies_after("round"), name="later")
    told = dict(pilot.events)
    assert told["continued"]["start"] == "version 1"
    assert json.loads((pilot.folder / "server" / "runs" / "pilot.json").read_text())["status"] == "completed"
