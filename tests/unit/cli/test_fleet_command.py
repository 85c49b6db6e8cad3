"""`fedinfer fleet`: its folder, its summary, its page, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedinfer.cli.main import app
from fedinfer.config import Scenario
from fedinfer.fleet import prepare_fleet
from fedinfer.report import render_fleet, virtual_time
from fedinfer.simulation import EventLog, FleetPlace, begin_fleet
from fedinfer.system import SystemClock
from fedinfer.training import Checkpoint, load_checkpoint, save_checkpoint
from fedinfer.types import Json
from tests.unit.fleet.fleets import SMALL, run, scenario


def fleet(*arguments: str, **others: str) -> Result:
    values = {**{key: str(value) for key, value in SMALL.items()}, **others}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return CliRunner().invoke(app, ["fleet", *arguments, *sets])


@pytest.fixture
def empty(tmp_path: Path) -> str:
    path = tmp_path / "virtual.toml"
    path.write_text("")
    return str(path)


def test_a_run_leaves_record_events_and_page(empty: str, tmp_path: Path) -> None:
    found = fleet(empty, "--out", str(tmp_path / "run"), **{"fleet.clock.target": "0.3"})
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "run" / "fleet.json").read_text())
    assert record["releases"] == run(scenario(fleet__clock__target=0.3))["releases"]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["planned", *["released"] * 6, "finished"]
    page = (tmp_path / "run" / "fleet.html").read_text()
    for part in ("2000 devices", "The target 0.3", "No amplification", "too late", "Gini"):
        assert part in page
    for part in ("6 synchronous sums of 40", "accuracy", "target", "Gini", "epsilon <= 8"):
        assert part in found.output


class Killed(BaseException):
    """Stands for kill -9: nothing on the way catches it."""


def begun(folder: Path, found: Scenario) -> None:
    """A fleet that died after its fourth sum."""
    log = EventLog(folder, SystemClock(), "fleet")

    def mortal(name: str, fields: Json) -> None:
        log(name, fields)
        if name == "released" and fields["release"] == 4:
            raise Killed

    folder.mkdir()
    place = FleetPlace(folder, SystemClock(), None, mortal, lambda record: None, every=0.0)
    with pytest.raises(Killed):
        begin_fleet(prepare_fleet(found), place)


@pytest.mark.parametrize("rounds", ["synchronous", "buffered"])
def test_an_interrupted_fleet_is_finished(tmp_path: Path, rounds: str) -> None:
    found, folder = scenario(fleet__clock__rounds=rounds, fleet__clock__concurrency=60), tmp_path / "run"
    begun(folder, found)
    result = CliRunner().invoke(app, ["fleet", "--resume", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "fleet.json").read_text()) == json.loads(json.dumps(run(found)))
    assert (folder / "fleet.html").exists()
    assert not (folder / "state").exists()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names == ["planned", *["released"] * 4, "resumed", *["released"] * 3, "finished"]
    assert events[5]["lines"] == 4  # the fourth sum was made, and not kept: it happens again
    assert events[4]["metric"] == events[6]["metric"]
    over = CliRunner().invoke(app, ["fleet", "--resume", str(folder)])
    assert (over.exit_code, "this run is over" in over.output) == (2, True)


def test_a_fleet_goes_on_in_the_same_world_alone(tmp_path: Path) -> None:
    trace = tmp_path / "kinds.csv"
    titles = "rows_per_second,download_mbit,upload_mbit,memory_mb,battery_wh\n"
    trace.write_text(titles + "200,20,5,3000,14\n")
    found = scenario(fleet__device__capacity_trace="kinds.csv").model_copy(update={"base": tmp_path})
    begun(tmp_path / "run", found)
    trace.write_text(titles + "100,20,5,3000,14\n")
    result = CliRunner().invoke(app, ["fleet", "--resume", str(tmp_path / "run")])
    assert (result.exit_code, "was begun with other rows" in result.output) == (2, True)
    trace.write_text(titles + "200,20,5,3000,14\n")
    assert CliRunner().invoke(app, ["fleet", "--resume", str(tmp_path / "run")]).exit_code == 0


def test_what_cannot_go_on_is_refused(empty: str, tmp_path: Path) -> None:
    begun(tmp_path / "run", scenario())
    for words, why in (
        ([empty, "--resume", str(tmp_path / "run")], "takes no scenario"),
        (["--resume", str(tmp_path / "run"), "--seed", "2"], "takes no scenario"),
        (["--resume", str(tmp_path)], "no simulation was begun here"),
        ([], "no scenario is named"),
    ):
        result = CliRunner().invoke(app, ["fleet", *words])
        assert (result.exit_code, why in " ".join(result.output.split())) == (2, True), result.output
    other = CliRunner().invoke(app, ["run", "--resume", str(tmp_path / "run")])
    assert "fedinfer fleet --resume" in " ".join(other.output.split())
    state = tmp_path / "run" / "state" / "state.npz"
    kept = load_checkpoint(state)
    facts = json.loads(kept.header["facts"])
    facts["rng"]["bit_generator"] = "MT19937"
    save_checkpoint(state, Checkpoint(kept.arrays, kept.header | {"facts": json.dumps(facts)}))
    result = CliRunner().invoke(app, ["fleet", "--resume", str(tmp_path / "run")])
    assert (result.exit_code, "does not fit this run" in result.output) == (2, True)


def test_json_is_one_document_without_noise_too(empty: str, tmp_path: Path) -> None:
    found = fleet(empty, "--json", "--out", str(tmp_path / "run"), **{"privacy.unit": "none"})
    assert json.loads(found.stdout)["privacy"]["planned_epsilon"] == "inf"
    assert json.loads((tmp_path / "run" / "fleet.json").read_text())["privacy"]["planned_epsilon"] == "inf"
    assert "None: sums carried no noise" in (tmp_path / "run" / "fleet.html").read_text()


def test_an_address_needs_ray_and_a_folder_must_be_empty(empty: str, tmp_path: Path) -> None:
    assert fleet(empty, "--address", "127.0.0.1:1").exit_code == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert fleet(empty, "--out", str(tmp_path / "full")).exit_code == 2


def test_the_page_of_a_record_without_releases_stands() -> None:
    record = run(scenario())
    assert "Nothing was released" in render_fleet(record | {"releases": []})


@pytest.mark.parametrize(("seconds", "text"), [(5, "5.0 s"), (150, "2.5 min"), (9000, "2.5 h"), (216_000, "2.5 days")])
def test_virtual_time_is_told_in_its_unit(seconds: float, text: str) -> None:
    assert virtual_time(seconds) == text
