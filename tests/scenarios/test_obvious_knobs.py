"""The knobs that everybody turns first, on every built-in scenario: a run works, or it ends at once with exit code 2.

The text then names what would work. Never a traceback, never a run that is held because of its own noise.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.config import load_scenario, scenario_names
from fedinfer.errors import ConfigError
from fedinfer.simulation.engine import prepare_local

COUNTS = (2, 3, 5, 10, 40, 100)
QUICK = ("drift.windows=1", "drift.max_triggers=0", "training.pretrain_epochs=2", "secure_aggregation.mode=ideal")
OWN_DEVICES = {"heart": 4, "watch": 10, "ratings": 2972, "churn": 51}
"""Scenarios whose table names its devices."""


def run(out: Path, scenario: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["run", scenario, "--quiet", "--out", str(out), *options])


def said(result: Result) -> str:
    return re.sub(r"\s+", " ", result.output)


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def refused_at_once(result: Result, out: Path) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "ConfigError" in result.output
    assert not out.exists()


@pytest.mark.parametrize("devices", COUNTS)
@pytest.mark.parametrize("name", scenario_names())
def test_any_number_of_devices_has_a_plan_or_an_error_with_a_number_that_has(name: str, devices: int) -> None:
    """Only data and plan: nothing is trained."""
    try:
        scenario = load_scenario(name, [f"data.partition.devices={devices}"])
        found = len(prepare_local(scenario).federation.devices)
        assert found == devices or found == OWN_DEVICES[name]
    except ConfigError as error:
        hint = error.hint
        if name in OWN_DEVICES:
            assert f"{OWN_DEVICES[name]} devices" in hint
        elif "training.cohort" in hint:
            assert f"training.cohort = 0 asks all {devices}" in hint
        else:
            enough = re.search(r"(\d+) devices", hint)
            assert enough is not None, hint
            prepare_local(load_scenario(name, [f"data.partition.devices={enough[1]}"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices"),
    [("credit", 3), ("credit", 10), ("reviews", 3), ("reviews", 40), ("digits", 10), ("digits", 40), ("digits", 160)],
)
def test_a_plan_that_is_accepted_runs_to_its_end(tmp_path: Path, name: str, devices: int) -> None:
    out = tmp_path / "run"
    result = run(out, name, "--devices", str(devices), "--rounds", "2", *sets(*QUICK))
    assert result.exit_code == 0, result.output
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["models"][0]["devices_active"] == devices
    canary_answers = "judged" in record["models"][0]["waves"][0]
    assert canary_answers == (name == "digits" and devices == 160)
    assert any("no canary evaluation of new models" in text for text in record["warnings"]) == (
        name == "digits" and devices < 160
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--devices", "10"], "names the devices"),
        (["--rounds", "-1"], "greater than or equal to 0"),
        (["--seed", "99999999999999999999"], "seed"),
        (sets("privacy.epsilon=0.001"), "too small to train even one useful round"),
        (sets("privacy.epsilon=0"), "greater than 0"),
        (sets("privacy.epsilon=abc"), "valid number"),
        (sets("privacy.unit=device", "drift.epsilon=0.2"), "it would do, barely, with"),
        (sets("privacy.unit=device"), "set it to 0.2 for instance"),
        (sets("privacy.unit=person"), "unit"),
        (sets("drift.epsilon=0.00001"), "raise drift.epsilon"),
        (sets("training.rounds=2.5"), "valid integer"),
        (sets("artifact.quantisation=float"), "did you mean 'quantization'"),
        (sets("rollout.min_judged=50"), "could never pass"),
        (sets("rollout.canary_epsilon=0.1"), "rollout.unjudgeable = acknowledge"),
        (sets("fleet.dropout=1.0"), "less than 1"),
        (sets("secure_aggregation.bits=8"), "unknown key"),
        (sets("foo"), "expected section.key=value"),
        (sets("foo.bar=1"), "unknown section"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_a_knob_that_cannot_work_is_refused_before_anything_runs(
    tmp_path: Path, options: list[str], words: str
) -> None:
    out = tmp_path / "run"
    result = run(out, "heart", *options)
    refused_at_once(result, out)
    assert words in said(result)


def test_data_that_names_its_devices_takes_no_other_number(tmp_path: Path) -> None:
    for devices in ("3", "40"):
        result = run(tmp_path / "run", "watch", "--devices", devices)
        refused_at_once(result, tmp_path / "run")
        assert "10 devices" in said(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("training.rounds=0",), "a model that nobody trained"),
        (("training.rounds=1",), ""),
        (("privacy.epsilon=100", "training.rounds=2"), ""),
        (("privacy.unit=none", "training.rounds=2"), "NONE: this run added no noise"),
        (("secure_aggregation.mode=off", "training.rounds=2"), "says nothing against this server"),
        (("secure_aggregation.mode=ideal", "training.rounds=2"), ""),
        (("drift.enabled=false", "training.rounds=2"), ""),
        (("fleet.dropout=0.5", "training.rounds=8"), "devices must stay"),
        (("artifact.quantization=float", "training.rounds=2"), "(float,"),
        (
            ("rollout.canary_epsilon=0.1", "rollout.unjudgeable=acknowledge", "training.rounds=2"),
            "no canary evaluation of new models",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_knob_that_works_says_what_it_did(tmp_path: Path, overrides: tuple[str, ...], words: str) -> None:
    result = run(tmp_path / "run", "heart", *sets("drift.windows=1", *overrides))
    assert result.exit_code == 0, result.output
    assert words in said(result)


@pytest.mark.slow
def test_a_first_release_that_is_held_says_what_to_change(tmp_path: Path) -> None:
    overrides = sets(*QUICK, "rollout.unjudgeable=hold", "fleet.dropout=0")
    result = run(tmp_path / "run", "digits", "--devices", "40", "--rounds", "1", *overrides)
    assert result.exit_code == 5, result.output
    text = said(result)
    assert "version 1 was held in wave 1" in text
    assert "will often hold a good model" in text
    assert "rollout.unjudgeable" in text
    assert re.search(r"It would do with \d+ devices", text)
