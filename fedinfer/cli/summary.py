"""The end of a run in words that a clinician's IT lead understands."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from fedinfer.cli.output import shortened, stdout
from fedinfer.privacy import at_most, exactly
from fedinfer.report import found_classes, metric_words, one_more, parts, plural, pooled, verdict
from fedinfer.types import Json

TRUST = {
    "local": "nobody (each device adds all the noise itself)",
    "distributed": "enough honest devices (the noise is added under the masks)",
    "central": "the server (it adds the noise after the sum)",
}
UNMASKED = "enough honest devices, and the server not to look: without masks it sees what each device sends"

SHOWN = ("accuracy", "balanced_accuracy", "auc", "average_precision", "f1", "log_loss", "rmse", "mae", "r2")


def print_summary(record: Json, folder: Path, *, verbose: bool = False) -> None:
    """Print what the run reached, what it cost, and where everything is.

    Args:
        record: run.json, schema 1.
        folder: of the run.
        verbose: warnings in full.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in _lines(record):
        table.add_row(name, Text(text))
    stdout.print()
    stdout.print(table)
    for warning in record["warnings"]:
        stdout.print(Text(f"warning: {warning if verbose else shortened(warning)}", style="yellow"))
    stdout.print(Text(f"run folder: {folder}"), soft_wrap=True)
    stdout.print(Text(f"report:     {folder / 'report.html'}"), soft_wrap=True)


def _lines(record: Json) -> list[tuple[str, str]]:
    lines = [("status", f"{record['status']} after {record['seconds']:.0f} s")]
    lines += [(name, text) for name, text in _judged(record) if text]
    lines.append(("privacy", _privacy(record)))
    if against := one_more(record.get("statement", {})):
        lines.append(("against", against))
    lines.append(("aggregation", _aggregation(record)))
    if record["models"]:
        model = record["models"][-1]
        lines.append(
            (
                "model",
                f"version {model['version']} ({model['recipe']}, {model['quantized_bytes']:,} bytes) runs on "
                f"{model['devices_active']} of {record['population']} devices",
            )
        )
        lines.append(("pushes", "; ".join(_pushed(model) for model in record["models"] if "pushed" in model)))
    lines += [("rollout", text) for text in _rollouts(record["models"])]
    inference, drift = record["inference"], record["drift"]
    if inference["predictions"]:
        median = inference["latency_us"]["p50"]
        lines.append(("inference", f"{inference['predictions']:,} predictions on the devices, median {median:.0f} us"))
    if drift["windows"]:
        lines.append(("drift", _drift(drift, record["task"]["metric"])))
    return lines


def _pushed(model: Json) -> str:
    """What a version cost a device on the wire."""
    pushed = model["pushed"]
    refused = f", {pushed['both']} whole after a refused patch" if pushed["both"] else ""
    return (
        f"version {model['version']}: {pushed['model_bytes']:,} bytes of model per device, {pushed['bytes']:,} with "
        f"signed metadata (median; {pushed['whole']} whole, {pushed['patch']} by patch{refused})"
    )


def _rollouts(models: list[Json]) -> list[str]:
    """Rollouts in which something had to be decided; one that simply reached everybody needs no line."""
    texts = []
    for model in models:
        for held in model.get("proceeded", []):
            texts.append(
                f"version {held['version']}: wave {held['wave']} was held and went on as [rollout] on_hold says; "
                f"{held['reason']}"
            )
        if model.get("rollout", "done") != "done":
            last = model["waves"][-1]
            reason = " ".join(part for part in (last["reason"], last.get("detail", "")) if part)
            texts.append(f"version {model['version']} was {model['rollout']} in wave {last['wave']}: {reason}")
    return texts


def _judged(record: Json) -> list[tuple[str, str]]:
    """What the model is worth, worst news first; figures alone where it was not judged."""
    if not record.get("judgement"):
        return [("figures", _figures(record["metrics"], "last weights"))] if record["rounds"] else []
    return [
        ("judgement", verdict(record)),
        ("classes", found_classes(record)),
        ("figures", _figures(record["judgement"]["scores"], record["judgement"]["on"])),
        ("pooled", pooled(record)),
        *(("parts", text) for text in parts(record)),
    ]


def _figures(scores: Json, where: str) -> str:
    shown = [f"{metric_words(name)} {value:.3f}" for name, value in scores.items() if name in SHOWN]
    return f"{', '.join(shown)}; {where}" if shown else "unknown: this server holds no labelled rows"


def _privacy(record: Json) -> str:
    privacy, mode = record["privacy"], record["secure_aggregation"]["mode"]
    if not privacy["private"]:
        return "NONE: this run added no noise"
    trusted = UNMASKED if privacy["trust"] == "distributed" and mode == "off" else TRUST[privacy["trust"]]
    return (
        f"epsilon {at_most(privacy['epsilon'])} of {exactly(privacy['budget'])} spent at delta "
        f"{at_most(privacy['delta'], 6)}, per "
        f"{privacy['unit']} ({privacy['relation']}, accountant {privacy['accountant']}); "
        f"trusted to add noise: {trusted}"
    )


def _aggregation(record: Json) -> str:
    sums, rounds = record["secure_aggregation"], record["rounds"]
    done = sum(1 for row in rounds if row["status"] == "released")
    text = (
        f"{done} of {len(rounds)} rounds released, mode {sums['mode']}, at least {sums['threshold']} devices in a sum"
    )
    if sums.get("groups", 1) > 1:
        text += f"; {sums['groups']} groups of {sums['group_size']}"
    if record["devices"]["dropped"] or record["devices"]["refused"]:
        dropped, refused = record["devices"]["dropped"], record["devices"]["refused"]
        text += f"; {plural(dropped, 'dropout')}, {plural(refused, 'refusal')}"
    return text


def _drift(drift: Json, metric: str) -> str:
    text = f"{plural(drift['windows'], 'window')}, {plural(len(drift['alarms']), 'alarm')}"
    if drift["triggered_rounds"]:
        text += f", new rounds {plural(drift['triggered_rounds'], 'time')}"
    text += _seen(drift)
    if drift["metric_after"] is not None and drift["changed_at"] is not None:
        before, during, after = (_number(drift[f"metric_{when}"]) for when in ("before", "during", "after"))
        name = metric_words(metric)
        text += f"; {name} on devices {before} before, {during} during, {after} after"
    return text


def _seen(drift: Json) -> str:
    """What silence is worth."""
    if drift["alarms"] or "compared" not in drift:  # a record of an older release does not say
        return ""
    if not drift["compared"]:
        return "; none was compared with another, so no change could be seen"
    if drift["least_seen"] is None:
        return "; the noise hides any change of the answers"
    return f"; {drift['compared']} compared, a change of {drift['least_seen']:.0%} of the answers would be seen"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
