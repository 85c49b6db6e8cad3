"""Run folders as the program writes them, made from a seed: what the tests of the report read."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.manifest import Statement
from fedinfer.metrics import Answers, Metric, attribute_of, judge, part_of
from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.privacy.accounting.ledger_records import Protected
from fedinfer.store import open_store
from fedinfer.types import Relation, Unit

STATEMENT = Statement(
    epsilon="0.999993", delta="1e-05", budget="1", unit="example", relation="zero-out-one",
    parts=(("training", "0.999993"), ("windows", "0.9")), groups=((2, "2.16"), (10, "inf")), mechanism="skellam",
    clipping="fixed", clipping_norm=1.0, noise_multiplier=9.16, correlation="none", accountant="pld",
    sampling="poisson", trust="distributed", devices=4, least=3, corrupt=1, honest=2, missing=((1, "1.48"), (2, "inf")),
    mode="protocol", setting="simulation", confirmed=False, label_bits=0, windows=7, windows_epsilon="0.9",
    evaluations=2, evaluations_epsilon="0.2", earlier=1, over_runs="1.5",
)  # fmt: skip
CHANNELS = ("predicted_class", "confidence")
SHOWN = ("predicted class", "confidence")


def digits(
    initial: int = 12, after: int = 10, windows: int = 12, inject_at: int = 5, seed: int = 7
) -> tuple[Any, list[Any]]:
    """A completed run over 200 devices with a drift story: run.json and events."""
    draw = random.Random(seed)
    rounds = [_round(i, "initial", 0.55 + 0.37 * (1 - math.exp(-i / 3)), draw) for i in range(1, initial + 1)]
    rounds[2] |= {
        "status": "aborted",
        "survivors": 21,
        "metric": rounds[1]["metric"],
        "detail": "21 survivors, threshold 27",
    }
    later = [_round(initial + i, "drift", 0.40 + 0.48 * (1 - math.exp(-i / 3)), draw) for i in range(1, after + 1)]
    alarm_at = inject_at + 1
    calm = [
        _window(w, 0.91 if w < inject_at else 0.39, 0.3 if w < inject_at else 0.6 * 5 ** (2 * (w - inject_at)), draw)
        for w in range(1, alarm_at + 1)
    ]
    rest = [_window(w, 0.87, 0.35, draw) for w in range(alarm_at + 1, windows + 1)]
    _spend([*rounds, *calm, *later, *rest], 7.62)
    alarms = [
        {"window": alarm_at, "channel": channel, "p_value": 3.1e-7 * (place + 1)}
        for place, channel in enumerate(CHANNELS)
    ]
    models = [_model(1, 0.921, 0.919), _model(2, 0.874, 0.873)]
    events = [
        *_events("round", rounds),
        *_events("pushed", models[:1]),
        *_events("window", calm),
        *_events("alarm", alarms),
        *_events("round", later),
        *_events("pushed", models[1:]),
        *_events("window", rest),
    ]
    run = _run("digits", 200, [*rounds, *later], models)
    run["privacy"] |= {
        "unit": "device",
        "epsilon": 7.62,
        "budget": 8.0,
        "relation": "zero-out-one",
        "noise_multiplier": 1.31,
    }
    names = tuple(str(digit) for digit in range(10))
    run["judgement"] = judgement(names, (0.1,) * 10, 2.5, Metric.ACCURACY, devices=200, threshold=None)
    run["drift"] = {
        "windows": windows,
        "alarms": alarms,
        "triggered_rounds": 1,
        "timeline": [*calm, *rest],
        "metric_before": 0.912,
        "metric_during": 0.388,
        "metric_after": 0.871,
    }
    return run, events


def heart() -> tuple[Any, list[Any]]:
    """Four hospitals, unit example, a quiet watch, ranges that nobody confirmed."""
    draw = random.Random(3)
    rounds = [_round(i, "initial", 0.62 + 0.2 * (1 - math.exp(-i / 5)), draw, cohort=4) for i in range(1, 26)]
    windows = [_window(w, 0.80 + 0.01 * draw.random(), 0.4, draw) for w in range(1, 7)]
    _spend([*rounds, *windows], 0.943)
    models = [_model(1, 0.822, 0.818)]
    run = _run("heart", 4, rounds, models)
    run["privacy"] |= {"unit": "example", "epsilon": 0.943, "budget": 1.0}
    run["statement"] = STATEMENT.to_json()
    run["drift"] = {
        "windows": 6,
        "timeline": windows,
        "alarms": [],
        "triggered_rounds": 0,
        "metric_before": 0.81,
        "metric_during": None,
        "metric_after": None,
    }
    run["judgement"] = judgement(("healthy", "disease"), (0.45, 0.55), 2.0, Metric.ACCURACY, devices=4, threshold=0.4)
    run["pooled"] = {"value": 0.86, "rows": 607, "seconds": 1.0}
    run["warnings"] = [
        "12 public ranges were proposed by a program (ranges_confirmed = false). Confirm them before a deployment."
    ]
    return run, [*_events("round", rounds), *_events("pushed", models), *_events("window", windows)]


def aborted() -> tuple[Any, list[Any]]:
    """Every round lost too many devices: no model, no metric, infinities where a figure would stand."""
    rounds = [_round(i, "initial", 0.5, random.Random(i), cohort=4) for i in range(1, 6)]
    for row in rounds:
        row |= {
            "status": "aborted",
            "survivors": 1,
            "metric": None,
            "loss": "nan",
            "detail": "1 survivors, threshold 3",
        }
    _spend(rounds, 0.31)
    run = _run("heart", 4, rounds, []) | {"status": "aborted"}
    run["inference"] = {"predictions": 0, "latency_us": {"p50": None, "p99": "nan"}, "metric": None}
    run["drift"] = {
        "windows": 0,
        "alarms": [],
        "triggered_rounds": 0,
        "metric_before": None,
        "metric_during": None,
        "metric_after": None,
    }
    stop = {"event": "stopped", "error": "TooFewSurvivors", "message": "5 rounds in a row aborted", "hint": "see docs"}
    return run, [*_events("round", rounds), {"event": "blamed", "round": "5", "device": "d2", "reason": "bad"}, stop]


def ledger(path: Path) -> None:
    """A server's ledger with two entries, one of them reserved and never committed."""
    connection = open_store(path, "ledger", LEDGER_MIGRATIONS)
    books = Ledger(connection, Protected(Unit.EXAMPLE, Relation.ZERO_OUT))
    books.open_account("server", "run-1", Budget(1.0, 1e-5))
    for place in (1, 2):
        event = PoissonSampled(0.1, GaussianEvent(4.0))
        now = datetime(2026, 1, 1, 12, place, tzinfo=UTC)
        books.reserve(["server"], "run-1", f"round-{place:04d}", [event], f"train round-{place:04d}", now)
        if place == 1:
            books.commit(["server"], "run-1", "round-0001", now)
    connection.close()


def rare() -> tuple[Any, list[Any]]:
    """A model that never answers the rare class, at ten devices, with groups and a pooled model beside it."""
    run, events = heart()
    run |= {"scenario": "rare"}
    run["task"] |= {
        "metric": "average_precision",
        "why": "the rarer class holds 1 % of the rows",
        "higher_is_better": True,
    }
    run["judgement"] = judgement(
        ("no", "yes"), (0.985, 0.015), 0.1, Metric.AVERAGE_PRECISION, devices=10, threshold=None
    )
    run["pooled"] = {"value": 0.41, "rows": 1400, "seconds": 1.0}
    return run, events


def judgement(
    labels: tuple[str, ...],
    shares: tuple[float, ...],
    signal: float,
    metric: Metric,
    devices: int,
    threshold: float | None,
) -> dict[str, Any]:
    """What the program writes about drawn answers: 1,500 rows, of two groups and of some devices."""
    rng = np.random.default_rng(5)
    y = rng.choice(len(labels), 1500, p=shares)
    logits = np.log(shares) + signal * np.eye(len(labels))[y] + rng.normal(0, 0.7, (1500, len(labels)))
    answers = Answers.of(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), y, threshold)
    owner, first = rng.integers(0, devices, 1500), rng.random(1500) < 0.3
    parts = [part_of(f"device-number-{d}", answers.part(owner == d), metric).to_json() for d in np.unique(owner)]
    group = attribute_of("sex", answers, {"F": first, "M": ~first}, metric)
    return {
        "version": 1, "on": "held-out rows of all simulated devices", "simulation_knowledge": True,
        **judge(metric, answers, threshold, rng).to_json(labels), "devices": parts, "groups": [group.to_json()],
    }  # fmt: skip


def write(folder: Path, run: Any, events: list[Any] | None) -> Path:
    """Write a run folder; without events.jsonl when `events` is None."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run, indent=2))
    if events is not None:
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if not (folder / "ledger.sqlite").exists():
        ledger(folder / "ledger.sqlite")
    return folder


def _run(scenario: str, population: int, rounds: list[Any], models: list[Any]) -> dict[str, Any]:
    return {
        "schema": 1, "scenario": scenario, "description": "a story for tests", "seed": 1,
        "engine": "local", "status": "completed", "seconds": 71.3,
        "task": {"kind": "classification", "metric": "accuracy", "why": "there are 10 classes"},
        "population": population, "rounds": rounds,
        "metrics": {"accuracy": 0.86, "auc": 0.97},
        "privacy": {
            "unit": "example", "trust": "distributed", "epsilon": 0.31, "delta": 1e-5, "budget": 1.0,
            "accountant": "rdp", "relation": "zero-out-one",
            "sampling": "poisson", "clipping_norm": 1.0, "noise_multiplier": 4.2,
        },
        "secure_aggregation": {"mode": "protocol", "threshold": 3, "neighbors": 3, "bits": 20},
        "models": models,
        "inference": {"predictions": 13140, "latency_us": {"p50": 11.4, "p99": 27.9}, "metric": 0.795},
        "devices": {"refused": 2, "dropped": 37},
    }  # fmt: skip


def _round(number: int, reason: str, metric: float, draw: random.Random, cohort: int = 40) -> dict[str, Any]:
    noisy = min(max(metric + draw.uniform(-0.02, 0.02), 0.0), 1.0)
    return {
        "round": number, "reason": reason, "cohort": cohort, "survivors": cohort - draw.randint(0, cohort // 8),
        "status": "released", "metric": round(noisy, 4), "loss": round(1.3 - noisy, 4), "epsilon": None,
        "seconds": round(draw.uniform(0.8, 1.6), 2), "bytes_up_per_device": 4312, "bytes_down_per_device": 11870,
    }  # fmt: skip


def _window(number: int, metric: float, ratio: float, draw: random.Random) -> dict[str, Any]:
    tests = [
        {
            "channel": channel, "statistic": (ratio * draw.uniform(0.6, 1.4) + 0.02 * place) * 11.3, "threshold": 11.3,
            "warning_threshold": 7.1, "p_value": 0.4, "alarm": ratio > 5,
        }
        for place, channel in enumerate(CHANNELS)
    ]  # fmt: skip
    noisy = round(metric + draw.uniform(-0.015, 0.015), 4)
    return {"window": number, "metric": noisy, "reporters": 180, "state": "ok", "epsilon": None, "channels": tests}


def _model(version: int, before: float, after: float) -> dict[str, Any]:
    return {
        "version": version, "sha256": f"{version:02d}" * 32, "float_metric": before, "quantized_metric": after,
        "float_bytes": 41250, "quantized_bytes": 13107, "recipe": "static QDQ S8S8", "devices_active": 197,
        "reason": "initial", "window": 0, "rollout": "done",
        "pushed": {"whole": 3, "patch": 196, "both": 1, "model_bytes": 5120, "bytes": 15360},
        "waves": [
            {"version": version, "wave": 1, "installed": 49, "failed": 1, "first_failure": "BadSignature: truncated",
             "state": "pushing", "reason": ""},
            {"version": version, "wave": 2, "installed": 148, "failed": 2, "first_failure": "", "state": "done",
             "reason": ""},
        ],
    }  # fmt: skip


def _spend(steps: list[dict[str, Any]], total: float) -> None:
    """Epsilon after each step: grows like a square root, ends at `total`."""
    for place, step in enumerate(steps, 1):
        step["epsilon"] = round(total * math.sqrt(place / len(steps)), 4)


def _events(name: str, rows: list[Any]) -> list[Any]:
    return [{"event": name, **row} for row in rows]
