"""What an alarm leads to in a whole run: rounds, a rollback first, a person who is asked, or a reason why nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedinfer.cli.live import RunView
from fedinfer.cli.main import app
from fedinfer.config import Scenario
from fedinfer.coordinator.drift_actions import ANSWER, SUGGESTED
from fedinfer.drift import channels
from fedinfer.errors import ConfigError
from fedinfer.inference import Slots
from fedinfer.messages import Kind
from tests.protocol.fleet import settings
from tests.protocol.test_loop_stories import whole_run
from tests.protocol.test_trial_channel import Weather

QUICK = 'privacy.unit = "none"\ntraining.rounds = 1\ndrift.rounds = 1\ndrift.reference_windows = 1\n'


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    trial = Weather()
    monkeypatch.setattr(channels, "REPORT", (*channels.REPORT, trial.channel))
    return trial


def quick(extra: str, folder: Path) -> Scenario:
    return settings(QUICK + extra, folder)


def by_window(weather: Weather, days: dict[int, int], then: Callable[[int], None] = lambda window: None) -> Any:
    """The weather of each window, from the one on that is named; `then` is called once at each window's begin."""
    seen: set[int] = set()

    def passing(node: int, asked: str, reply: Any) -> list[Any]:
        if asked == Kind.WINDOW:
            weather.windows += 1
            window = (weather.windows - 1) // 8 + 1
            # A reply comes after its device has counted: what is set here is the weather of the next window.
            weather.today = days[max(day for day in days if day <= (weather.windows) // 8 + 1)]
            if window not in seen:
                seen.add(window)
                then(window)
        return [reply]

    return passing


def decisions(record: dict[str, Any]) -> list[str]:
    return [row["decision"]["action"] for row in record["drift"]["timeline"]]


def test_an_alarm_soon_after_a_push_goes_back_first_and_costs_nothing(weather: Weather, tmp_path: Path) -> None:
    scenario = quick("drift.windows = 3\ndrift.after_windows = 5\ndrift.rollback_windows = 4", tmp_path)
    view = RunView(tmp_path)
    record, failure = whole_run(tmp_path, scenario, by_window(weather, {1: 0, 3: 1, 5: 2}), listen=view.take)
    assert failure is None
    assert ("roll-back", "to version 1 on 8 devices") in view.recent
    actions = decisions(record)
    assert actions[2] == "round"
    assert "rollback" in actions[3:]
    at = actions.index("rollback")
    assert "going back to the model before" in record["drift"]["timeline"][at]["decision"]["reason"]
    assert versions_on_devices(tmp_path) == {1}
    assert record["drift"]["triggered_rounds"] == 1
    (alarm, *_) = record["drift"]["alarms"]
    assert {change["bin"] for change in alarm["moved"]} <= {f"bin {place} of 3" for place in (1, 2, 3)}
    assert all(change["low"] <= change["change"] <= change["high"] for change in alarm["moved"])


def versions_on_devices(folder: Path) -> set[int]:
    slots = [Slots(folder / "devices" / f"d{number:02d}" / "slots", lambda _: None) for number in range(8)]
    return {slot.active().version for slot in slots}


def test_a_world_that_comes_back_gets_its_version_back_and_costs_no_training(weather: Weather, tmp_path: Path) -> None:
    scenario = quick("drift.windows = 8\ndrift.max_triggers = 1\ndrift.reuse = true", tmp_path)
    view = RunView(tmp_path)
    record, failure = whole_run(tmp_path, scenario, by_window(weather, {1: 0, 3: 1, 6: 0}), listen=view.take)
    assert failure is None
    actions = decisions(record)
    assert actions[2] == "round"
    at = actions.index("reuse")
    decision = record["drift"]["timeline"][at]["decision"]
    assert decision["version"] == 1
    assert "the world of version 1 may be back" in decision["reason"]
    assert set(actions[at + 1 :]) == {"none"}
    assert [(model["version"], model["reason"]) for model in record["models"]] == [
        (1, "initial"), (2, "drift"), (3, "reuse"),
    ]  # fmt: skip
    assert record["models"][2]["sha256"] == record["models"][0]["sha256"]
    assert record["models"][2]["devices_active"] == 8
    assert versions_on_devices(tmp_path) == {3}
    assert (tmp_path / "checkpoints" / "released").read_text() == "3\n"
    assert record["drift"]["triggered_rounds"] == 1
    # Its own reference is back: the next window is compared at once, not learned.
    after = record["drift"]["timeline"][at + 1]
    assert after["learning"] == []
    assert [channel["channel"] for channel in after["channels"]] == ["predicted_class", "confidence", "weather"]
    assert ("reuse", "version 1 serves again as 3") in view.recent


def test_a_version_that_was_gone_back_to_is_no_earlier_one(weather: Weather, tmp_path: Path) -> None:
    """Going back leaves one version, which serves: when the world changes again, nothing is left to reuse."""
    keys = "drift.windows = 8\ndrift.max_triggers = 2\ndrift.rollback_windows = 3\ndrift.reuse = true"
    record, failure = whole_run(tmp_path, quick(keys, tmp_path), by_window(weather, {1: 0, 3: 1, 5: 2, 7: 0}))
    assert failure is None
    started = [action for action in decisions(record) if action not in ("none", "warn", "defer")]
    assert started[:2] == ["round", "rollback"]
    assert "reuse" not in started


def test_a_version_that_does_not_fit_either_is_followed_by_rounds(weather: Weather, tmp_path: Path) -> None:
    scenario = quick("drift.windows = 8\ndrift.max_triggers = 2\ndrift.reuse = true", tmp_path)
    record, failure = whole_run(tmp_path, scenario, by_window(weather, {1: 0, 3: 1, 6: 2}))
    assert failure is None
    started = [action for action in decisions(record) if action not in ("none", "warn")]
    assert started == ["round", "reuse", "round"]
    assert [model["reason"] for model in record["models"]] == ["initial", "drift", "reuse", "drift"]


@pytest.mark.parametrize("decline", [False, True])
def test_a_suggested_round_waits_for_a_person(weather: Weather, tmp_path: Path, decline: bool) -> None:
    def person(window: int) -> None:
        if (tmp_path / SUGGESTED).exists() and not (tmp_path / ANSWER).exists():
            options = ["--decline"] if decline else []
            result = CliRunner().invoke(app, ["drift", "approve", str(tmp_path), *options, "--json"])
            assert result.exit_code == 0, result.output
            assert json.loads(result.stdout)["approved"] is not decline
            again = CliRunner().invoke(app, ["drift", "approve", str(tmp_path)])
            assert again.exit_code != 0
            assert "was answered" in " ".join(again.output.split())

    scenario = quick('drift.windows = 4\ndrift.after_windows = 1\ndrift.mode = "suggest"', tmp_path)
    record, failure = whole_run(tmp_path, scenario, by_window(weather, {1: 0, 3: 1}, person))
    assert failure is None
    assert decisions(record)[2] == "suggest_round"
    assert record["drift"]["triggered_rounds"] == (0 if decline else 1)
    assert not (tmp_path / SUGGESTED).exists()
    assert not (tmp_path / ANSWER).exists()


def test_a_suggestion_that_nobody_answers_starts_nothing(weather: Weather, tmp_path: Path) -> None:
    scenario = quick('drift.windows = 4\ndrift.mode = "suggest"', tmp_path)
    record, failure = whole_run(tmp_path, scenario, by_window(weather, {1: 0, 3: 1}))
    assert failure is None
    assert decisions(record)[2:] == ["suggest_round", "none"]
    assert record["drift"]["triggered_rounds"] == 0
    assert (tmp_path / SUGGESTED).exists()


def test_nothing_to_approve_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["drift", "approve", str(tmp_path)])
    assert result.exit_code != 0
    assert "no round waits for an answer" in " ".join(result.output.split())


def test_a_rollback_that_could_never_happen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raise no alarm"):
        quick("drift.rollback_windows = 1", tmp_path)
