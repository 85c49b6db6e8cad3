"""`fedinfer fleet`: its folder, its summary, its page, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedinfer.cli.main import app
from fedinfer.report import render_fleet, virtual_time
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
