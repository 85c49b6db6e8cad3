"""Tables of the report: wrapped on a desktop, one card per row on a phone, whole in print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedinfer.report.figures import (
    ABSENT,
    bound,
    count,
    data_size,
    decimal,
    finite,
    lower_bound,
    rows,
    seconds,
    section,
    significant,
    whole,
    words,
)
from fedinfer.report.markup import Child, Markup, join, tag
from fedinfer.types import Json

MOST_SHOWN = 200
"""Windows in the table; a watch may go on for ever."""
Show = Callable[[Any], str]
Column = tuple[str, str, Show]
"""Heading, key of the row, and how the value is written."""


def _status(value: object) -> str:
    """The status of a round with a sign, so that it can be seen without reading."""
    return {"released": "\u2713 released", "aborted": "\u2715 aborted"}.get(words(value), words(value))


def _figures(value: object) -> str:
    """Figures of the canary evaluation of a wave: mean, standard deviation of the noise, verdict."""
    named = value.items() if isinstance(value, dict) else ()
    parts = [
        f"{name.replace('_', ' ')} {decimal(figure['mean'])} ± {decimal(figure['noise_std'])} ({figure['verdict']})"
        for name, figure in named
    ]
    return ", ".join(parts) or "no canary evaluation"


def _moved(value: object) -> str:
    """Bins that moved, with direction and the interval after noise."""
    changes = value if isinstance(value, list | tuple) else []
    parts = [
        f"{change['bin']} {change['change']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})" for change in changes
    ]
    return ", ".join(parts) or ABSENT


def _accuracy(value: object) -> str:
    """An accuracy with its interval."""
    found = value if isinstance(value, dict) else {}
    figures = [finite(found.get(name)) for name in ("accuracy", "low", "high")]
    if None in figures:
        return ABSENT
    return f"{decimal(figures[0])} ({decimal(figures[1])} to {decimal(figures[2])})"


def _decided(value: object) -> str:
    """What the watch decided about a window, and why."""
    decision = value if isinstance(value, dict) else {}
    action = words(decision.get("action")).replace("_", " ")
    return f"{action}: {words(decision.get('reason'))}" if decision.get("reason") else action


def _pushed(value: object) -> str:
    """What a push cost a device, and how many devices got it by which transfer mode."""
    pushed = value if isinstance(value, dict) else {}
    if not pushed:
        return ABSENT
    counts = f"{whole(pushed.get('whole'))} whole, {whole(pushed.get('patch'))} by patch"
    refused = f", {whole(pushed.get('both'))} whole after a refused patch" if pushed.get("both") else ""
    return f"{data_size(pushed.get('model_bytes'))}, {data_size(pushed.get('bytes'))} with metadata ({counts}{refused})"


def _compression(reported: object) -> str:
    if not isinstance(reported, dict):
        return words(None)
    if not reported.get("pushed"):
        return f"not pushed: {reported.get('reason', '')}"
    zeros, before, after = reported.get("sparsity"), reported.get("plain_zstd_bytes"), reported.get("zstd_bytes")
    return f"{decimal(zeros)} zeros, download {data_size(after)} instead of {data_size(before)}"


ROUNDS: tuple[Column, ...] = (
    ("Round", "round", words),
    ("Reason", "reason", words),
    ("Status", "status", _status),
    ("Cohort", "cohort", whole),
    ("Survivors", "survivors", whole),
    ("Metric", "metric", decimal),
    ("Loss", "loss", decimal),
    ("Epsilon after", "epsilon", bound),
    ("Up per device", "bytes_up_per_device", data_size),
    ("Down per device", "bytes_down_per_device", data_size),
    ("Time", "seconds", seconds),
)
MODELS: tuple[Column, ...] = (
    ("Version", "version", words),
    ("Quantization", "recipe", words),
    ("Metric, float", "float_metric", decimal),
    ("Metric, quantized", "quantized_metric", decimal),
    ("Size, float", "float_bytes", data_size),
    ("Size, quantized", "quantized_bytes", data_size),
    ("Sent per device, median", "pushed", _pushed),
    ("Compressed file", "slimming", _compression),
    ("Devices", "devices_active", whole),
    ("SHA-256", "sha256", lambda value: words(value)[:12]),
)
ALARMS: tuple[Column, ...] = (
    ("Window", "window", words),
    ("Channel", "channel", words),
    ("p-value", "p_value", significant),
    ("What moved (share of rows, interval)", "moved", _moved),
)
WINDOWS: tuple[Column, ...] = (
    ("Window", "window", words),
    ("Reports", "reporters", whole),
    ("Accuracy by confidence", "estimated", _accuracy),
    ("Accuracy by labels", "labelled", _accuracy),
    ("Decision", "decision", _decided),
)
WAVES: tuple[Column, ...] = (
    ("Version", "version", words),
    ("Wave", "wave", words),
    ("Installed", "installed", whole),
    ("Failed", "failed", whole),
    ("First failure", "first_failure", words),
    ("Evaluated by", "judged", whole),
    ("Figures, mean ± noise", "figures", _figures),
    ("Then", "state", words),
)
BLAMED: tuple[Column, ...] = (
    ("Round", "round", words),
    ("Device", "device", words),
    ("Reason", "reason", words),
)
LONG = frozenset({_figures, _moved, _accuracy, _decided, _pushed})
"""Texts that need the whole width of a phone."""
NUMERIC = frozenset({bound, lower_bound, decimal, significant, whole, data_size, seconds})


def rounds_table(run: Json) -> Markup:
    """Every round: cohort, survivors, status, figures, bytes.

    Args:
        run: run.json, schema 1.
    """
    return table(
        "One row per round; epsilon is what all releases so far cost together",
        ROUNDS,
        rows(run, "rounds"),
        "No round was run.",
    )


def models_table(run: Json) -> Markup:
    """Every published model: float against quantized.

    Args:
        run: run.json, schema 1.
    """
    return table("One row per published version", MODELS, rows(run, "models"), "No model was published.")


def waves_table(run: Json) -> Markup | None:
    """Every wave of every rollout and what was decided after it; None when the run kept none.

    Args:
        run: run.json, schema 1.
    """
    waves = [wave for model in rows(run, "models") for wave in rows(model, "waves")]
    return table("Rollout waves", WAVES, waves, "") if waves else None


def blamed_table(events: Sequence[Json]) -> Markup | None:
    """Devices whose messages broke the protocol; None when there were none.

    Args:
        events: of events.jsonl, in order.
    """
    blamed = [event for event in events if event.get("event") == "blamed"]
    return table("Devices blamed for false messages", BLAMED, blamed, "") if blamed else None


def alarms_table(run: Json) -> Markup:
    """Every alarm of the drift monitor.

    Args:
        run: run.json, schema 1.
    """
    return table("Alarms", ALARMS, rows(section(run, "drift"), "alarms"), "No alarm was raised.")


def windows_table(run: Json) -> Markup:
    """What each window said about the fleet, and what was decided.

    Args:
        run: run.json, schema 1.
    """
    lines = rows(section(run, "drift"), "timeline")
    caption = "Windows" if len(lines) <= MOST_SHOWN else f"The last {MOST_SHOWN} of {len(lines)} windows"
    return table(caption, WINDOWS, lines[-MOST_SHOWN:], "No window was recorded.")


def table(caption: str, columns: Sequence[Column], lines: Sequence[Json], empty: str) -> Markup:
    """A table of rows, or a sentence when there are none.

    Args:
        caption: above the rows.
        columns: heading, key of the row, and how its value is shown; a column without any value is left out.
        lines: one object per row.
        empty: sentence that stands for a table without rows.
    """
    if not lines:
        return tag("p", empty, class_="empty")
    used = [column for column in columns if any(line.get(column[1]) is not None for line in lines)] or list(columns)
    head = tag("tr", *(tag("th", name, scope="col", class_=_align(show)) for name, _, show in used))
    body = [tag("tr", *_cells(used, line)) for line in lines]
    return boxed(caption, tag("thead", head), tag("tbody", *body))


def pairs(lines: Sequence[tuple[str, Child]]) -> Markup:
    """Names and values, two columns.

    Args:
        lines: name and value, in order.
    """
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in lines))


def devices_pairs(run: Json) -> Markup:
    """What devices did besides answering.

    Args:
        run: run.json, schema 1.
    """
    devices, inference = section(run, "devices"), section(run, "inference")
    return pairs(
        (
            ("Devices enrolled", whole(run.get("population"))),
            ("Refusals by a device's own budget", whole(devices.get("refused"))),
            ("Drop-outs during rounds", whole(devices.get("dropped"))),
            ("Predictions on devices", whole(inference.get("predictions"))),
            ("Accuracy of those predictions", decimal(inference.get("metric"))),
        )
    )


def bytes_saved(model: Json) -> str:
    """How much smaller the quantized file is, in words; empty when it is not.

    Args:
        model: one of `models` in run.json.
    """
    before, after = finite(model.get("float_bytes")), finite(model.get("quantized_bytes"))
    if not before or not after or before < 1.1 * after:
        return ""
    return f"{before / after:.1f} times smaller than the float model"


def survivors_share(run: Json) -> str:
    """Mean share of the cohort that answered in time.

    Args:
        run: run.json, schema 1.
    """
    both = [(count(row.get("survivors")), count(row.get("cohort"))) for row in rows(run, "rounds")]
    shares = [survivors / cohort for survivors, cohort in both if survivors is not None and cohort]
    return f"{100 * sum(shares) / len(shares):.0f}\u202f%" if shares else ABSENT


def _cells(columns: Sequence[Column], line: Json) -> list[Markup]:
    return [
        tag(
            "th" if place == 0 else "td",
            show(line.get(key)),
            class_=_align(show),
            scope="row" if place == 0 else None,
            data_label=name,
        )
        for place, (name, key, show) in enumerate(columns)
    ]


def _align(show: Show) -> str | None:
    return "num" if show in NUMERIC else "wide-cell" if show in LONG else None


def boxed(caption: str, *parts: Markup, kind: str = "list") -> Markup:
    """A table in a box of its own, which scrolls when a page cannot be as wide.

    Args:
        caption: above the rows.
        parts: head and body.
        kind: CSS class: a `list` becomes one card per row on a phone, a `matrix` stays a matrix.
    """
    return tag(
        "div",
        tag("table", tag("caption", caption), *parts, class_=kind),
        class_="box",
        tabindex=0.0,
        role="region",
        aria_label=caption,
    )
