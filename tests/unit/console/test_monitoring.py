"""The alert rules and the dashboard ask for metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fedinfer.console.metrics import server_metrics
from fedinfer.console.snapshot import read_snapshot
from fedinfer.inference.serve.prometheus import metrics_text
from tests.unit.console.test_console import folder  # noqa: F401
from tests.unit.rollout.test_rollout_requests import moment

MONITORING = Path(__file__).parents[3] / "server" / "monitoring"
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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", str(MONITORING / "alerts.yaml")], check=True)
