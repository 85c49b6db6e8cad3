"""run.json, schema 1: what a run did, in figures.

The same scenario and seed give the same record apart from times and bytes per device.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from fedinfer.config import PrivacySection, Scenario, SecureAggregationSection
from fedinfer.coordinator.canaries import canaries_of
from fedinfer.coordinator.context import Progress, Rows, Server
from fedinfer.coordinator.drift import least_seen
from fedinfer.coordinator.given import KIND
from fedinfer.coordinator.plan.correlation import describe
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.shapes import shapes_of
from fedinfer.errors import StoreError
from fedinfer.metrics import JudgedBy
from fedinfer.private_files import only_owner, private_folder
from fedinfer.schema import Schema
from fedinfer.types import Json, Unit

if TYPE_CHECKING:
    from fedinfer.artifact import Repository
    from fedinfer.training import Trainer

SCHEMA = 1
UNFINISHED = "unfinished"
"""Status of a run that is not over: it runs, or its process was killed and another one may go on with it."""


def opening(server: Server, plan: RunPlan) -> Json:
    """What is known before the first round: the `started` event.

    Args:
        server: wiring of the run.
        plan: of the run.
    """
    scenario = server.scenario
    return {
        "scenario": scenario.scenario.name,
        "description": scenario.scenario.description,
        "seed": scenario.scenario.seed,
        "population": len(server.devices),
        "rounds": plan.rounds,
        "retrain_rounds": plan.retrain_rounds,
        "windows": plan.windows,
        "task": task_of(server.judged_by, server.schema),
        "model": {"kind": KIND if server.given else str(scenario.model.kind), "parameters": server.trainer.dimension},
        "privacy": privacy_of(server.scenario.privacy, plan),
        "statement": server.statement.to_json(),
        "secure_aggregation": secure_aggregation_of(server.scenario.secure_aggregation, plan),
        "signing": signing_of(server.repository),
        "warnings": list(plan.warnings),
    }


def task_of(chosen: JudgedBy, schema: Schema) -> Json:
    """What is predicted, and by which figure it is judged, with the reason.

    Args:
        chosen: the figure of the task.
        schema: of the task.
    """
    judged = {"metric": str(chosen.metric), "why": chosen.why, "higher_is_better": chosen.metric.higher_is_better}
    if schema.label_range is None:
        return {"kind": "classification", **judged, "classes": list(schema.labels)}
    number = {"label": schema.label, "range": [*schema.label_range], "unit": schema.label_unit}
    return {"kind": "regression", **judged, "classes": [], **number}


def closing(server: Server, plan: RunPlan, progress: Progress, status: str, seconds: float) -> Json:
    """The whole record, schema 1.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: what the run has reached.
        status: how it ended: completed, budget_exhausted or aborted; or UNFINISHED.
        seconds: that it took.
    """
    start = opening(server, plan)
    latencies = np.asarray(progress.latencies_us or [0.0])
    canaries = canaries_of(server, plan, progress)
    found = shapes_of(server.trainer, server.scenario, server.rows, plan, progress, server.generator)
    return {
        "schema": SCHEMA,
        "run_id": server.run_id,
        "scenario": start["scenario"],
        "description": start["description"],
        "seed": start["seed"],
        "engine": plan.engine,
        "status": status,
        "seconds": seconds,
        "task": start["task"],
        "model": start["model"],
        "population": start["population"],
        "metrics": _last_figures(server.trainer, server.judged, progress),
        "start": progress.start,
        "judgement": progress.judgement,
        "pooled": progress.pooled,
        "rounds": [row.to_json() for row in progress.rounds],
        "privacy": start["privacy"] | {"epsilon": server.account.spent().epsilon},
        "statement": start["statement"],
        "secure_aggregation": start["secure_aggregation"],
        "signing": start["signing"],
        "models": [row.to_json() for row in progress.models],
        "inference": {
            "predictions": progress.predictions,
            "latency_us": {"p50": float(np.quantile(latencies, 0.5)), "p99": float(np.quantile(latencies, 0.99))},
            "metric": progress.correct / progress.predictions if progress.predictions else None,
        },
        **({"shapes": found} if found else {}),
        **({"canaries": canaries} if canaries else {}),
        "drift": _drift(server.scenario, len(server.devices), plan, progress),
        "devices": {"refused": progress.refused, "dropped": progress.dropped},
        "warnings": [*start["warnings"], *progress.notices],
    }


def _last_figures(trainer: Trainer, judged: Callable[[int], Rows], progress: Progress) -> Json:
    """Of the weights after the last round; a run that ended early may have left them out (`evaluate_every`)."""
    if not progress.rounds:
        return {}
    found = progress.rounds[-1].metrics
    return dict(found or trainer.evaluate(progress.weights, *judged(progress.window)))


def write(folder: Path, record: Json) -> None:
    """Write run.json in one step: readers see the old file or the new one.

    Args:
        folder: of the run.
        record: see `closing`; infinities and NaN are written as `plain` says.

    Raises:
        StoreError: when the folder cannot be written.
    """
    temporary = folder / "run.json.part"
    try:
        with open(temporary, "w", encoding="utf-8", opener=only_owner) as file:
            file.write(json.dumps(plain(record), indent=2, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / "run.json")
    except OSError as error:
        raise StoreError(f"{folder / 'run.json'}: {error}", hint="check free space and permissions") from error


def write_unfinished(server: Server, plan: RunPlan, progress: Progress, seconds: float) -> None:
    """Write run.json of a run that is not over; the record of another run in the folder is kept under its name.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: what the run has reached.
        seconds: that it took so far.

    Raises:
        StoreError: when the folder cannot be written.
    """
    set_aside(server.folder, server.run_id)
    write(server.folder, closing(server, plan, progress, UNFINISHED, seconds))


def set_aside(folder: Path, run_id: str) -> None:
    """Keep the record of an earlier run of the folder as `runs/<run id>.json`.

    Args:
        folder: of the runs.
        run_id: of the run whose record stays run.json.

    Raises:
        StoreError: when the folder cannot be written.
    """
    path = folder / "run.json"
    try:
        earlier = (
            str(json.loads(path.read_text(encoding="utf-8")).get("run_id", "earlier")) if path.exists() else run_id
        )
        if earlier != run_id:
            private_folder(folder / "runs")
            path.replace(folder / "runs" / f"{quote(earlier, safe='')}.json")
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: {error}", hint="it is no record of a run; move it away") from error


def signing_of(repository: Repository) -> Json:
    """Where the root keys are that devices trust in the end: `thrown away` says that this process made them for itself.

    A simulation makes all keys of its repository and keeps none, so its models are signed by nobody.

    Args:
        repository: of the run.
    """
    return {
        "root_keys": "thrown away" if repository.holds_root_keys else "offline",
        "root_version": repository.root_version,
    }


def privacy_of(privacy: PrivacySection, plan: RunPlan) -> Json:
    """The promise beside every epsilon: unit, relation, sampling, accountant, trust.

    Args:
        privacy: what was asked for.
        plan: what was planned for it.
    """
    return {
        "unit": str(privacy.unit),
        "trust": str(privacy.trust),
        "epsilon": 0.0,
        "delta": privacy.delta,
        "budget": privacy.epsilon,
        "planned_epsilon": plan.planned.epsilon if plan.planned else None,
        "drift_epsilon": plan.drift_epsilon,
        "accountant": plan.planned.accountant if plan.planned else "none",
        "relation": str(plan.relation),
        "sampling": plan.sampling,
        "clipping": privacy.clipping,
        "clipping_norm": privacy.clipping_norm,
        "noise_multiplier": plan.noise_multiplier,
        "correlation": describe(plan.factorization),
        "drift_noise_multiplier": plan.drift_noise_multiplier,
        "gate_epsilon": plan.gate_epsilon,
        "gate_noise_multiplier": plan.gate_noise_multiplier,
        "threshold_epsilon": plan.threshold_epsilon,
        "threshold_noise_multiplier": plan.threshold_noise_multiplier,
        "mechanism": privacy.mechanism if privacy.trust == "distributed" else "gaussian",
        "guaranteed_noise_contributors": plan.train.mechanism.contributors,
        "private": privacy.unit is not Unit.NONE,
    }


def secure_aggregation_of(section: SecureAggregationSection, plan: RunPlan) -> Json:
    """Mode and parameters of secure aggregation.

    Args:
        section: what was asked for.
        plan: of the run; the parameters are those of a training round's sum.
    """
    train = plan.train
    return {
        "mode": str(section.mode),
        "threshold": train.min_survivors,
        "shares_threshold": train.threshold,
        "neighbors": train.degree,
        "bits": train.mechanism.bits,
        "dimension": train.mechanism.padded,
        "dropout_rate": section.dropout_rate,
        "corruption_rate": section.corruption_rate,
        "groups": train.groups,
        "group_size": plan.group_size,
        "corrupt_per_group": train.corrupt,
        "drift_groups": plan.drift.groups if plan.drift else 0,
        "robust": str(plan.rule.kind),
    }


def _drift(scenario: Scenario, devices: int, plan: RunPlan, progress: Progress) -> Json:
    """Windows, alarms and the metric before, during and after the data distribution changed (simulations know when)."""
    inject = scenario.drift.inject
    least = least_seen(scenario, devices, plan)
    metrics = [row.metric for row in progress.windows]
    change = inject.at_window if inject is not None and inject.kind != "none" else None
    healed = next((m.window for m in progress.models if m.reason == "drift"), None)
    before = [m for i, m in enumerate(metrics, 1) if change is None or i < change]
    during = [m for i, m in enumerate(metrics, 1) if change is not None and i >= change and (not healed or i <= healed)]
    after = [m for i, m in enumerate(metrics, 1) if healed is not None and i > healed]
    return {
        "windows": len(progress.windows),
        "compared": sum(
            bool(row.report and row.report.result and row.report.result.channels) for row in progress.windows
        ),
        "least_seen": least if math.isfinite(least) else None,
        "changed_at": change,
        "alarms": [row.to_json() for row in progress.alarms],
        "triggered_rounds": progress.triggered,
        "metric_before": _mean(before),
        "metric_during": _mean(during),
        "metric_after": _mean(after),
        "timeline": [row.to_json() for row in progress.windows],
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: an infinite epsilon (no privacy) becomes "inf", what is unknown becomes null.

    Args:
        value: made of dictionaries, lists, tuples, numbers, texts, booleans and None.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
