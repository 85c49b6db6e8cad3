"""The alert rules and the dashboard ask for metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedinfer.console.metrics import server_metrics
from fedinfer.console.snapshot import read_snapshot
from fedinfer.inference.serve.prometheus import metrics_text
from fedinfer.inference.serve.telemetry import EDGES_SECONDS, VersionFigures
from tests.unit.console.test_console import folder  # noqa: F401
from tests.unit.rollout.test_rollout_requests import moment

MONITORING = Path(__file__).parents[3] / "server" / "monitoring"
TESTS = MONITORING / "alerts.test.yaml"
WITH_PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
NAME = re.compile(r"fedinfer_[a-z_]+[a-z]")


def expressions() -> list[str]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_phases_that_exist(folder: Path, expression: str) -> None:  # noqa: F811
    said = server_metrics(read_snapshot(folder), moment()) + metrics_text([], 1, 1.0, {200: 1})
    known = set(re.findall(r"^# TYPE (\S+)", said, re.MULTILINE)) | {"fedinfer_prediction_seconds_bucket"}
    named = set(NAME.findall(expression))
    assert named <= known
    assert named or "up{" in expression
    for phases in re.findall(r'phase=~"([^"]+)"', expression):
        for phase in phases.split("|"):
            assert f'phase="{phase}"' in said


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*words: object, said: str = "") -> str:
    done = subprocess.run(["promtool", *map(str, words)], input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_alert_is_shown_raised_and_not_raised() -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    raised = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert raised == quiet == {rule["alert"] for rule in rules()}


@pytest.mark.promtool
@WITH_PROMTOOL
def test_each_alert_is_raised_by_what_it_is_about_and_by_nothing_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)
    assert f"{len(rules())} rules found" in promtool("check", "rules", MONITORING / "alerts.yaml")


@pytest.mark.promtool
@WITH_PROMTOOL
@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_the_tests_of_an_alert_miss_it_when_it_is_gone(tmp_path: Path, rule: dict[str, Any]) -> None:
    document = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    for group in document["groups"]:
        group["rules"] = [each for each in group["rules"] if each["alert"] != rule["alert"]]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / TESTS.name).write_bytes(TESTS.read_bytes())
    done = subprocess.run(["promtool", "test", "rules", str(tmp_path / TESTS.name)], capture_output=True, check=False)
    assert done.returncode == 1


@pytest.mark.promtool
@WITH_PROMTOOL
def test_promtool_finds_nothing_against_what_server_and_device_say(folder: Path) -> None:  # noqa: F811
    buckets = (3,) * (len(EDGES_SECONDS) + 1)
    hostile = VersionFigures(1, sum(buckets), 0.5, buckets, {'a"\n\\b': 2}, unknown={'colour "x"': 4})
    for said in (
        server_metrics(read_snapshot(folder), moment()),
        server_metrics(read_snapshot(folder / "empty"), moment()),
        metrics_text([hostile], 1, 1.0, {200: 1}),
        metrics_text([], 0, None),
    ):
        assert promtool("check", "metrics", said=said) == ""


@pytest.mark.promtool
@WITH_PROMTOOL
def test_every_expression_of_the_dashboard_is_one(tmp_path: Path) -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    group = {"name": "d", "rules": [{"record": f"panel:{n}", "expr": each} for n, each in enumerate(asked)]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", tmp_path / "rules.yaml")
