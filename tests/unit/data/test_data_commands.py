"""`fedinfer scenarios`, `validate`, `doctor`, `version`."""

import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import fedinfer
from fedinfer.cli import doctor as doctor_module
from fedinfer.cli.doctor import doctor
from fedinfer.cli.packages import PACKAGES
from fedinfer.cli.scenarios import scenarios
from fedinfer.cli.validate import validate
from fedinfer.cli.version import version

ROOT = Path(__file__).parents[3]


def run(command: Callable[..., None], *options: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(options), env={"COLUMNS": "200"})


def test_version_in_words_and_json() -> None:
    assert run(version).stdout == f"fedinfer {fedinfer.__version__}\n"
    assert json.loads(run(version, "--json").stdout)["fedinfer"] == fedinfer.__version__


def test_scenarios_lists_all_built_ins() -> None:
    text = run(scenarios).stdout
    for name in ("heart", "digits", "credit"):
        assert name in text
    rows = {row["name"]: row for row in json.loads(run(scenarios, "--json").stdout)}
    assert (rows["heart"]["unit"], rows["heart"]["epsilon"]) == ("example", 1.0)
    assert rows["digits"]["unit"] == "device"


def test_validate_says_what_a_scenario_would_do() -> None:
    summary = json.loads(run(validate, "heart", "--json").stdout)
    assert summary["valid"] is True
    assert summary["data"]["rows"] == 920
    assert summary["data"]["devices"] == 4
    assert summary["data"]["classes"] == {"healthy": 411, "disease": 509}
    assert summary["data"]["rows_per_device"] == {"least": 123, "median": 246.5, "most": 304}
    assert summary["privacy"]["epsilon_budget"] == 1.0
    assert 0.9 < summary["plan"]["epsilon"] <= 1.0
    assert summary["plan"]["noise_multiplier"] > 0
    assert summary["privacy"]["units"] == 920
    assert summary["warnings"] == []
    text = run(validate, "heart", "--set", "privacy.epsilon=3").stdout
    assert "epsilon 3 at delta 1e-05" in text
    assert text.endswith("valid\n")


def test_validate_warns_of_what_is_probably_not_meant() -> None:
    options = ("--set", "drift.inject.at_window=99", "--set", "data.partition.devices=1000")
    result = run(validate, "digits", *options)
    assert result.exit_code == 0
    assert "1000 devices have a single training row" in result.stderr
    assert "at_window = 99 lies after the last of" in result.stderr


def test_validate_without_privacy_plans_an_infinite_epsilon() -> None:
    summary = json.loads(run(validate, "heart", "--json", "--set", "privacy.unit=none").stdout)
    assert summary["privacy"]["epsilon_budget"] == summary["plan"]["epsilon"] == "inf"


def test_validate_works_where_training_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run(validate, "heart")
    assert result.exit_code == 0
    assert "not known: training is not installed" in result.stdout


def test_validate_refuses_a_budget_that_trains_nothing() -> None:
    result = run(validate, "heart", "--set", "privacy.epsilon=0.0001", "--set", "drift.enabled=false")
    assert result.exit_code == 2
    assert "too small to train even one useful round" in result.stderr


def test_doctor_finds_a_working_base() -> None:
    result = run(doctor)
    assert result.exit_code == 0
    assert "the base install works" in result.stdout
    findings = {finding["name"]: finding for finding in json.loads(run(doctor, "--json").stdout)["findings"]}
    assert findings["numpy"]["version"] == importlib.metadata.version("numpy")


def test_doctor_says_what_an_absent_extra_costs_and_still_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "torch")
    result = run(doctor)
    assert result.exit_code == 0
    assert re.search(r"no\s+torch\s+no training", result.stdout)
    assert "pip install 'fedinfer[train]'" in " ".join(result.stdout.split())  # the table wraps at 80 columns


def test_doctor_fails_when_the_base_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "tuf")
    result = run(doctor, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["works"] is False


def test_doctor_reports_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise OSError(f"lib{name}.so: wrong ELF class")

    monkeypatch.setattr(doctor_module.importlib, "import_module", broken)
    result = run(doctor)
    assert result.exit_code == 1
    assert "import failed: libonnxruntime.so" in " ".join(result.stdout.split())


EXTRAS = ("device", "train", "data", "serve", "hsm", "image", "png", "mlflow", "tensorboard")


def test_doctor_knows_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {(package.name, package.extra) for package in PACKAGES}
    groups = {"": project["dependencies"]} | {extra: project["optional-dependencies"][extra] for extra in EXTRAS}
    wanted = {(re.split(r"[\[<>=]", line)[0], extra) for extra, lines in groups.items() for line in lines}
    wanted.discard(("flwr", "train"))  # named once, for what it is for on a device
    assert wanted | {("ray", "ray")} == known


def absent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = importlib.metadata.version

    def version_of(package: str) -> str:
        if package == name:
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(doctor_module.importlib.metadata, "version", version_of)
