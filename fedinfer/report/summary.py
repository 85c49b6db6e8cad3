"""The top of the report: what happened, for a reader who reads nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.report.figures import (
    ABSENT,
    bound,
    count,
    data_size,
    decimal,
    exact_figure,
    finite,
    microseconds,
    number,
    percent,
    rows,
    section,
    whole,
    words,
)
from fedinfer.report.statement import is_private, unit_words
from fedinfer.report.verdict import found_classes, metric_words, plural, verdict
from fedinfer.types import Json

STATUS = {
    "completed": ("\u2713", "Completed", "good"),
    "budget_exhausted": ("\u25a0", "Stopped: privacy budget used up", "warn"),
    "aborted": ("\u2715", "Aborted", "bad"),
}
EXPLAINED = {
    "budget_exhausted": (
        "The ledger refused the next release because it would have gone over the budget. Nothing that was released is "
        "in doubt, and the devices keep the last model. To train on, agree on a larger budget first: what was spent "
        "does not come back."
    ),
    "aborted": (
        "Rounds ended without a release because too few devices answered. Devices keep the last model that they "
        "installed. What the ledger reserved for these rounds stays spent."
    ),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure: name, value, a remark, and optionally how full a meter is, in [0, 1]."""

    name: str
    value: str
    remark: str
    share: float | None = None


def status(run: Json) -> tuple[str, str, str]:
    """Sign, words and style of the run's status; the sign and the words say it without the colour.

    Args:
        run: run.json, schema 1.
    """
    return STATUS.get(str(run.get("status")), ("?", words(run.get("status"), "status unknown"), "bad"))


def headline(run: Json) -> tuple[str, ...]:
    """Plain sentences: what was trained, how good it is, what protects people, what runs on devices, what drifted.

    Args:
        run: run.json, schema 1.
    """
    sentences = [
        verdict(run) or _quality(run),
        found_classes(run),
        _training(run),
        _protection(run),
        _devices(run),
        _drift(run),
    ]
    explained = EXPLAINED.get(str(run.get("status")))
    return tuple(sentence for sentence in (*sentences, explained) if sentence)


def tiles(run: Json) -> tuple[Tile, ...]:
    """The headline figures.

    Args:
        run: run.json, schema 1.
    """
    return (_quality_tile(run), _privacy_tile(run), _model_tile(run), _latency_tile(run), _drift_tile(run))


def last_metric(run: Json) -> float | None:
    """Metric after the last released round.

    Args:
        run: run.json, schema 1.
    """
    released = [finite(row.get("metric")) for row in rows(run, "rounds") if row.get("status") == "released"]
    return next((value for value in reversed(released) if value is not None), None)


def metric_name(run: Json) -> str:
    """Name of the task's metric.

    Args:
        run: run.json, schema 1.
    """
    return metric_words(section(run, "task").get("metric"))


def last_model(run: Json) -> Json:
    """The newest model row; empty when no model was published.

    Args:
        run: run.json, schema 1.
    """
    return dict(next(iter(reversed(rows(run, "models"))), {}))


def _training(run: Json) -> str:
    released = sum(row.get("status") == "released" for row in rows(run, "rounds"))
    aborted = sum(row.get("status") == "aborted" for row in rows(run, "rounds"))
    lost = f", {aborted} aborted" if aborted else ""
    if not released:
        return (
            f"{whole(run.get('population'))} devices were asked to train one model together; no round succeeded{lost}."
        )
    return (
        f"{whole(run.get('population'))} devices trained one model together without any of them sharing a row: "
        f"{plural(released, 'round')} released{lost}."
    )


def _quality(run: Json) -> str:
    value, name = last_metric(run), metric_name(run)
    if value is None:
        return "No round released a model, so there is no figure of quality."
    if name == "accuracy":
        return f"The trained model is right in {100 * value:.0f} of 100 held-out cases (accuracy {decimal(value)})."
    return f"The trained model reaches {name} {decimal(value)} on held-out cases; nothing says how good one answer is."


def _protection(run: Json) -> str:
    privacy = section(run, "privacy")
    if not is_private(privacy):
        return "No differential privacy was in force: what was released may reveal what a device trained on."
    return (
        f"What anyone can learn from the releases about {unit_words(privacy)} is limited to epsilon "
        f"{bound(privacy.get('epsilon'))} of a budget of {exact_figure(privacy.get('budget'))}."
    )


def _devices(run: Json) -> str:
    model = last_model(run)
    if not model:
        return "No model was pushed to a device."
    return (
        f"Model version {words(model.get('version'))} is active on {whole(model.get('devices_active'))} of "
        f"{whole(run.get('population'))} devices and answered {whole(section(run, 'inference').get('predictions'))} "
        "requests there."
    )


def _seen(drift: Json) -> str:
    """What the watch could have found, so that silence is not taken for more than it is."""
    if "compared" not in drift:  # a record of an older release
        return ""
    compared, least = count(drift.get("compared")) or 0, drift.get("least_seen")
    if not compared:
        return (
            "None of them was compared with others: they only made the reference, so a change would not have been seen."
        )
    if not isinstance(least, float):
        return "The noise hides any change of the answers: silence says nothing here."
    return (
        f"{compared} were compared with those before. A change of fewer than {least:.0%} of the answers could well "
        "have stayed unseen."
    )


def _drift(run: Json) -> str:
    drift = section(run, "drift")
    alarms = rows(drift, "alarms")
    windows = count(drift.get("windows")) or 0
    if not windows:
        return ""
    if not alarms:
        watched = f"{plural(windows, 'window')} of inference, watched for drift; no alarm was raised."
        return f"{watched} {_seen(drift)}".rstrip()
    first, later = alarms[0], sum(row.get("reason") == "drift" for row in rows(run, "rounds"))
    again = sum(row.get("reason") == "reuse" for row in rows(run, "models"))
    reuses = f" An earlier version was brought back {plural(again, 'time')}." if again else ""
    followed = f"and {plural(later, 'round')} of training followed.{reuses}"
    return (
        f"{plural(windows, 'window')} of inference, watched for drift. Window {words(first.get('window'))} raised an "
        f"alarm ({words(first.get('channel')).replace('_', ' ')}), {followed}"
    )


def _quality_tile(run: Json) -> Tile:
    value = last_metric(run)
    shown = percent(value) if metric_name(run) == "accuracy" else decimal(value)
    auc = finite(section(run, "metrics").get("auc"))
    constant = finite(section(section(run, "judgement"), "baseline").get("value"))
    remark = "held-out rows, after the last round"
    remark += f"; one constant answer: {decimal(constant)}" if constant is not None else ""
    remark += f"; AUC {decimal(auc)}" if auc is not None and metric_name(run) != "AUC" else ""
    name = metric_name(run)
    return Tile(f"{name[:1].upper()}{name[1:]}", shown, remark)


def _privacy_tile(run: Json) -> Tile:
    privacy = section(run, "privacy")
    if not is_private(privacy):
        return Tile("Privacy spent", "\u221e", "no differential privacy")
    epsilon, budget = number(privacy.get("epsilon")), finite(privacy.get("budget"))
    share = epsilon / budget if epsilon is not None and budget else None
    remark = f"epsilon, of {exact_figure(budget)}; unit: {words(privacy.get('unit'))}"
    return Tile("Privacy spent", bound(epsilon), remark, share if share is None or math.isfinite(share) else None)


def _model_tile(run: Json) -> Tile:
    model = last_model(run)
    if not model:
        return Tile("Model on devices", ABSENT, "nothing was pushed")
    active, population = count(model.get("devices_active")), count(run.get("population"))
    remark = f"version {words(model.get('version'))}, on {whole(active)} of {whole(population)} devices"
    return Tile("Model on devices", data_size(model.get("quantized_bytes")), remark)


def _latency_tile(run: Json) -> Tile:
    latency = section(section(run, "inference"), "latency_us")
    remark = f"median; 99 % within {microseconds(latency.get('p99'))}"
    return Tile("One prediction", microseconds(latency.get("p50")), remark)


def _drift_tile(run: Json) -> Tile:
    drift = section(run, "drift")
    alarms: Sequence[Json] = rows(drift, "alarms")
    windows = {words(alarm.get("window")) for alarm in alarms}
    remark = f"windows with an alarm, of {whole(drift.get('windows'))}"
    return Tile("Drift", whole(len(windows)), remark)
