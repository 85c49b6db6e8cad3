"""What Prometheus asks a server for (exposition format 0.0.4), from the files of the run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from fedinfer.console.snapshot import Snapshot
from fedinfer.rollout import Phase
from fedinfer.types import Json

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def server_metrics(snapshot: Snapshot, now: datetime) -> str:
    """All metrics of a server.

    Args:
        snapshot: of its run folder.
        now: wall-clock time, timezone-aware.
    """
    run, lines = snapshot.run, list[str]()
    lines += _of("fedinfer_run_info", "gauge", "the newest run", [({"run": str(run.get("run_id", "")),
                 "status": str(run.get("status", "none"))}, 1)])  # fmt: skip
    rounds = Counter(str(row.get("status")) for row in _rows(run, "rounds"))
    lines += _of("fedinfer_rounds", "gauge", "training rounds of the newest run by status",
                 [({"status": status}, rounds[status]) for status in ("released", "aborted")])  # fmt: skip
    for name, text in (("budget", "epsilon that a run may spend"), ("spent", "epsilon that a run has spent")):
        accounts = [
            ({"task": str(row.get("task", ""))}, value)
            for row in _rows(snapshot.ledger, "accounts")
            if isinstance(value := row.get(name), (int, float))
        ]
        lines += _of(f"fedinfer_epsilon_{name}", "gauge", text, accounts)
    windows = [event for event in snapshot.events if event.get("event") == "window"]
    alarms = [event for event in snapshot.events if event.get("event") == "alarm"]
    lines += _of("fedinfer_windows", "gauge", "drift windows of the newest run", [({}, len(windows))])
    lines += _of("fedinfer_alarms", "gauge", "drift alarms of the newest run", [({}, len(alarms))])
    newest = snapshot.rollouts[0] if snapshot.rollouts else None
    phases = [({"phase": str(phase)}, int(newest is not None and newest["phase"] == phase)) for phase in Phase]
    lines += _of("fedinfer_rollout_phase", "gauge", "1 for the phase of the newest rollout", phases)
    versions = Counter(each.version or "none" for each in snapshot.devices)
    lines += _of("fedinfer_devices", "gauge", "devices by the version that they acknowledged last",
                 [({"version": version}, count) for version, count in sorted(versions.items())])  # fmt: skip
    problems = sum(bool(each.problem) for each in snapshot.devices)
    lines += _of("fedinfer_devices_with_problem", "gauge", "devices that could not do what was pushed last",
                 [({}, problems)])  # fmt: skip
    age = _seconds_since(snapshot.events[-1].get("time") if snapshot.events else None, now)
    if age is not None:
        lines += _of("fedinfer_last_event_age_seconds", "gauge", "time since the run did something", [({}, age)])
    return "\n".join(lines) + "\n"


def _of(name: str, kind: str, text: str, values: Sequence[tuple[dict[str, str], float]]) -> list[str]:
    shown = [f"{name}{_labels(labels)} {value:g}" for labels, value in values]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *shown]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _rows(document: Json, name: str) -> list[Json]:
    found = document.get(name)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _seconds_since(time: object, now: datetime) -> float | None:
    try:
        return max((now - datetime.fromisoformat(str(time))).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
