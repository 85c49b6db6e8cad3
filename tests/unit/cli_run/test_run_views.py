"""What a person sees of a run: one line per event, a screen on a terminal, and a summary in plain words."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedinfer.cli import live, summary
from fedinfer.cli.live import RunView, live_view
from fedinfer.cli.main import app
from fedinfer.cli.run import QUIET_ENVIRONMENT
from fedinfer.cli.summary import print_summary
from fedinfer.system import FrozenClock

STARTED = {
    "task": {"metric": "accuracy"},
    "scenario": "heart", "seed": 3, "population": 4, "rounds": 2, "windows": 1, "warnings": ["ranges are guessed"],
    "privacy": {"private": True, "unit": "example", "trust": "distributed", "budget": 1.0, "delta": 1e-5},
    "secure_aggregation": {"mode": "protocol", "threshold": 3, "bits": 23},
}  # fmt: skip
ROUND = {
    "round": 1, "survivors": 3, "cohort": 4, "metric": 0.8, "loss": 0.5, "epsilon": 0.25, "status": "released",
    "reason": "initial", "detail": "",
}  # fmt: skip
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("started", STARTED),
    ("round", ROUND),
    ("round", ROUND | {"round": 2, "status": "aborted", "detail": "2 survivors, threshold 3"}),
    ("built", {"version": 1, "recipe": "int8", "quantized_bytes": 400, "float_bytes": 900, "quantized_metric": 0.79,
               "float_metric": 0.8, "metric": "accuracy"}),
    ("wave", {"wave": 1, "installed": 4, "failed": 0}),
    ("pushed", {"version": 1, "devices_active": 4}),
    ("window", {"window": 1, "state": "alarm", "metric": None, "reporters": 4, "latency_us": 17.0, "epsilon": 0.3}),
    ("alarm", {"window": 1, "channel": "confidence", "p_value": 0.0004}),
    ("triggered", {"window": 1, "reason": "confidence", "rounds": 5, "windows": 2}),
    ("stopped", {"error": "TooFewSurvivors", "message": "nobody is left", "hint": ""}),
    ("an event of the future", {"anything": 1}),
]  # fmt: skip


def record(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "status": "completed", "seconds": 12.3, "population": 4, "warnings": [], "task": {"metric": "accuracy"},
        "metrics": {"accuracy": 0.81234, "auc": 0.9}, "rounds": [ROUND],
        "privacy": {"private": True, "epsilon": 0.92, "budget": 1.0, "delta": 1e-5, "unit": "example",
                    "relation": "zero-out-one", "accountant": "rdp", "trust": "distributed"},
        "secure_aggregation": {"mode": "protocol", "threshold": 3},
        "models": [{"version": 1, "recipe": "int8", "quantized_bytes": 4351, "devices_active": 4}],
        "inference": {"predictions": 960, "latency_us": {"p50": 17.6, "p99": 200.0}},
        "drift": {"windows": 5, "alarms": [], "triggered_rounds": 0, "metric_after": None, "changed_at": None},
        "devices": {"dropped": 4, "refused": 1},
    }  # fmt: skip
    return base | changes


def printed(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(summary, "stdout", console)
    print_summary(record(**changes), Path("runs/x"))
    return console.export_text()


def lines(monkeypatch: pytest.MonkeyPatch, width: int = 40) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(live, "stderr", console)
    clock = FrozenClock(datetime(2026, 1, 1, tzinfo=UTC))
    with live_view(Path("runs/x"), clock, show=True) as listener:
        for name, fields in EVENTS:
            listener(name, fields)
            clock.advance(1.0)
    return console.export_text().splitlines()


def test_without_a_terminal_every_event_is_one_line_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = lines(monkeypatch)
    assert len(reported) == 9
    assert "ranges are guessed" in reported[0]
    assert "3 of 4 survived" in reported[1]
    assert "epsilon 0.25" in reported[1]
    assert "aborted: 2 survivors, threshold 3" in reported[2]
    assert "unknown" in reported[5]
    assert "nobody is left" in reported[-1]
    assert reported[1].startswith("    1.0 s")


def test_without_show_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, file=io.StringIO())
    monkeypatch.setattr(live, "stderr", console)
    with live_view(Path("x"), FrozenClock(datetime(2026, 1, 1, tzinfo=UTC)), show=False) as listener:
        for name, fields in EVENTS:
            listener(name, fields)
    assert console.export_text() == ""


def test_the_screen_shows_the_state_of_everything() -> None:
    view = RunView(Path("runs/x"))
    for name, fields in EVENTS:
        view.take(name, fields)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view)
    text = console.export_text()
    for wanted in (
        "heart: 4 devices, seed 3", "runs/x", "budget epsilon 1 at delta 1e-05", "at least 3 survivors", "0.3",
        "accuracy 0.800, loss 0.500", "v1 on 4 devices", "17 us per row", "ALARM", "new rounds", "3/10",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_texts_of_devices_are_not_taken_for_markup() -> None:
    view = RunView(Path("x"))
    view.take("stopped", {"message": "[bold]device [/nonsense] says[/]"})
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view)
    assert "[bold]device [/nonsense] says[/]" in console.export_text()


def test_the_summary_says_what_was_reached_and_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch)
    for wanted in (
        "completed after 12 s", "accuracy 0.812, AUC 0.900; last weights",
        "epsilon 0.92 of 1 spent at delta 1e-05, per example",
        "enough honest devices", "1 of 1 rounds released", "4 dropouts, 1 refusal", "4,351 bytes", "4 of 4 devices",
        "960 predictions", "median 18 us", "5 windows, no alarms", "runs/x/report.html",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_the_summary_says_first_that_a_model_is_worth_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    judgement = {
        "metric": "average_precision", "rows": 600, "value": 0.011, "interval": [0.006, 0.039], "better": False,
        "simulation_knowledge": True, "on": "held-out rows of all simulated devices", "answers": 1,
        "baseline": {"answer": "0", "value": 0.008, "scores": {"accuracy": 0.9917}}, "labels": ["0", "1"],
        "scores": {"accuracy": 0.992, "average_precision": 0.011}, "confusion": [[595, 0], [5, 0]],
        "devices": [{"name": "a", "rows": 40, "accuracy": 0.9}, {"name": "b", "rows": 40, "accuracy": 1.0}],
        "groups": [{"attribute": "sex", "worst": "F", "gap": 0.25, "figure": "accuracy"}],
    }  # fmt: skip
    pooled = {"value": 0.012, "rows": 1400}
    text = printed(monkeypatch, judgement=judgement, pooled=pooled, task={"metric": "average_precision"})
    second = text.strip().splitlines()[1]
    assert second.startswith("judgement")
    assert 'No better than always answering "0": that is right for 99.2' in second
    for wanted in (
        "and the model answers nothing else", 'Finds 0 of 5 rows of "1" (recall 0.000); it never answers "1".',
        "1,400 rows in one place, without noise, has average precision 0.012", "0.900 on the worst device (a)",
        'worst for "F", 0.250 of accuracy behind',
    ):  # fmt: skip
        assert wanted in " ".join(text.split()), wanted


def test_one_alarm_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = {"windows": 1, "alarms": [{}], "triggered_rounds": 1, "metric_after": None, "changed_at": None}
    assert re.search(r"1 window, 1 alarm, new rounds 1 time *\n", printed(monkeypatch, drift=drift))


def test_a_run_without_noise_says_so_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NONE: this run added no noise" in printed(monkeypatch, privacy={"private": False})


def test_the_summary_repeats_warnings_and_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = {
        "windows": 8, "alarms": [{}], "triggered_rounds": 1, "changed_at": 4, "metric_before": 0.9,
        "metric_during": 0.4, "metric_after": 0.88,
    }  # fmt: skip
    text = printed(monkeypatch, warnings=["ranges are guessed"], drift=drift)
    assert "warning: ranges are guessed" in text
    assert "0.900 before, 0.400 during, 0.880 after" in text


def test_a_run_that_released_nothing_has_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"predictions": 0, "latency_us": {"p50": 0.0, "p99": 0.0}}
    text = printed(monkeypatch, status="aborted", rounds=[], models=[], inference=nothing)
    assert "aborted" in text
    assert "0 of 0 rounds released" in text


def test_a_number_of_devices_is_refused_where_a_column_names_them(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", "heart", "--devices", "10", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "--devices 10: the column 'dataset' names the devices" in " ".join(result.stderr.split())
    assert not (tmp_path / "x").exists()


def test_short_options_are_overrides_and_the_last_word_wins(tmp_path: Path) -> None:
    words = ["run", "digits", "--rounds", "1", "--seed", "5", "--devices", "6", "--json", "--out", str(tmp_path / "x")]
    small = ["training.rounds=9", "drift.enabled=false", "rollout.canary_epsilon=0.0", "training.pretrain_epochs=2"]
    result = CliRunner().invoke(app, [*words, *(word for text in small for word in ("--set", text))])
    assert result.exit_code in (0, 5), result.output  # six devices learn little; a gate may say so
    reported = json.loads(result.stdout)
    assert (reported["seed"], reported["population"], len(reported["rounds"])) == (5, 6, 1)


def test_nothing_that_is_started_phones_home() -> None:
    assert QUIET_ENVIRONMENT["FLWR_TELEMETRY_ENABLED"] == "0"
    assert QUIET_ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"
