"""`fedinfer drift plan`: figures before anybody spends."""

import json

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["drift", "plan", *arguments])
    return result.exit_code, result.output


def test_a_large_fleet_sees_the_change_and_a_small_one_is_told_what_would_do() -> None:
    code, text = called("--devices", "1000", "--epsilon", "4", "--json")
    assert code == 0
    large = json.loads(text)
    assert [row["channel"] for row in large["channels"]] == ["predicted_class", "confidence"]
    assert all(row["seen"][-1]["probability"] >= 0.9 for row in large["channels"])
    assert large["false_alarm_rate_simulated"] <= 0.08
    assert "every stated change is seen" in large["advice"]
    code, text = called("--devices", "300", "--epsilon", "1", "--json")
    assert code == 0
    assert "devices, or epsilon" in json.loads(text)["advice"]


def test_a_scenario_is_told_in_words() -> None:
    code, text = called("heart")
    assert code == 0
    words = " ".join(text.split())
    assert "4 devices" in words
    assert "predicted_class" in words
    assert "not every stated change is seen" in words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "make no watch"), (("--devices", "1", "--epsilon", "1"), "make no watch"),
        (("--devices", "9", "--epsilon", "1", "--shift", "0"), "must be in (0, 3]"),
        (("heart", "--set", "drift.enabled=false"), "watches nothing"),
        (("heart", "--set", "drift.channels=[\"input:weather\"]"), "names no numeric or categorical column"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(arguments: tuple[str, ...], says: str) -> None:
    code, text = called(*arguments)
    assert code != 0
    assert says in " ".join(text.split())


def test_validate_warns_when_reports_are_paid_for_and_nothing_would_be_seen() -> None:
    text = {}
    for epsilon in ("0.01", "0.9"):
        options = ["--set", f"drift.epsilon={epsilon}", "--set", "drift.window=1"]
        result = CliRunner().invoke(app, ["validate", "heart", *options, "--json"])
        assert result.exit_code == 0, result.output
        text[epsilon] = json.loads(result.stdout)["warnings"]
    assert any("no change of the answers would be seen" in warning for warning in text["0.01"])
    result = CliRunner().invoke(app, ["validate", "heart", "--set", "drift.enabled=false", "--json"])
    assert not any("would be seen" in warning for warning in json.loads(result.stdout)["warnings"])
