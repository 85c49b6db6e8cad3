"""The page of a sweep: what was found, against epsilon, for whom, at what price, and what is trusted."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.report.figures import (
    bound,
    data_size,
    decimal,
    finite,
    number,
    rows,
    seconds,
    section,
    significant,
    words,
)
from fedinfer.report.layout import WIDE, both
from fedinfer.report.markup import Markup, tag
from fedinfer.report.page import document
from fedinfer.report.sweep_charts import MOST_PANELS, chart, panels
from fedinfer.report.tables import Column, table
from fedinfer.report.verdict import metric_words, plural
from fedinfer.types import Json

TRUSTED = {
    "local": (
        "nobody else",
        "Every device adds all of the noise itself. Server, other devices and network may all be dishonest.",
        "most noise: one full share per device",
    ),
    "distributed": (
        "enough honest devices",
        "Devices add shares of the noise inside a secure sum. The server, with up to the assumed part of corrupt "
        "devices (corruption_rate), learns the noisy sum alone; with more of them than assumed epsilon is larger.",
        "little more noise than central, and the bytes of secure aggregation",
    ),
    "central": (
        "the server",
        "The server adds the noise to the sum and is trusted to do it and to keep nothing else. Whoever gets the "
        "models may be dishonest.",
        "least noise",
    ),
}
"""Who is trusted, what that means, and its price, by kind of trust."""


def render_sweep(sweep: Json) -> str:
    """The page as text.

    Args:
        sweep: sweep.json.

    Returns:
        HTML, one self-contained document.
    """
    name = words(sweep.get("scenario"), "unnamed")
    settings = rows(sweep, "settings")
    seeds = plural(len(sweep.get("seeds") or ()), "seed")
    header = tag(
        "header",
        tag("p", "fedinfer sweep", class_="brand"),
        tag("h1", name),
        tag("p", words(sweep.get("description")), class_="about") if sweep.get("description") else None,
        tag(
            "p",
            f"{plural(len(settings), 'setting')} \u00b7 {seeds} each \u00b7 {_whose(sweep)} \u00b7 "
            f"judged by {metric_words(sweep.get('metric'))}",
            class_="facts",
        ),
    )
    main = tag(
        "main",
        _short(sweep),
        _curves(sweep, "utility", "Utility against epsilon", UTILITY),
        _curves(sweep, "worst_group", "The worst group against epsilon", FAIRNESS),
        _trust(sweep),
        _table(sweep, settings),
        _refused(settings),
    )
    return document(f"fedinfer sweep: {name}", tag("body", header, main))


UTILITY = (
    "Points are means over the seeds on held-out rows, bars and bands their 95 % intervals (Student's t: few seeds "
    "give wide ones). Another seed is another split of the rows, other start weights and other noise. Epsilons of "
    "different units protect different things and cannot be compared."
)
FAIRNESS = (
    "The figure of the group, or else device, that fares worst, among those with at least 20 held-out rows. The worst "
    "of several is lower than their mean by chance alone; the gap in the table is best minus worst."
)


def _short(sweep: Json) -> Markup:
    advice = [f"Recommended for unit {each['unit']}: {each['reason']}" for each in rows(sweep, "advice")]
    if not advice:
        advice = ["No private setting has a figure, so none is recommended."]
    return tag("section", tag("h2", "In short"), tag("div", *(tag("p", line) for line in [*advice, *honest(sweep)]),
               class_="lead"))  # fmt: skip


def honest(sweep: Json) -> list[str]:
    """What having chosen costs, in sentences.

    Args:
        sweep: sweep.json.
    """
    found = section(sweep, "looking")
    if not found.get("private"):
        return [
            f"The runs used {_whose(sweep)}, so having looked at all of them costs nobody privacy. A run with the "
            "chosen setting on the private rows costs its own epsilon and nothing more."
        ]
    sums = [
        f"epsilon {bound(epsilon)} at delta {bound(section(found, 'delta').get(unit))} for unit {unit}"
        for unit, epsilon in section(found, "epsilon").items()
    ]
    unprotected = int(finite(found.get("unprotected")) or 0)
    lines = [
        "Choosing the best of many runs on private rows costs privacy: the choice, and every figure on this page, "
        "depend on the rows. Held-out figures here have no noise at all."
    ]
    if sums:
        lines.append(
            f"Whoever sees the models of all private runs has {' and '.join(sums)} (basic composition over "
            f"{plural(int(finite(found.get('runs')) or 0) - unprotected, 'run')})."
        )
    if unprotected:
        lines.append(f"{plural(unprotected, 'run')} without privacy protected nobody: show their figures to nobody.")
    lines.append(
        "If the rows are of real people, tune with --rows public or --rows synthetic, or let --private-selection "
        "charge for the choice."
    )
    return lines


def _whose(sweep: Json) -> str:
    return {"public": "public rows only", "synthetic": "made rows only"}.get(words(sweep.get("rows")), "its own rows")


def _curves(sweep: Json, figure: str, title: str, how: str) -> Markup | None:
    found = panels(sweep, figure)
    if not found:
        return None
    metric = words(sweep.get("metric"))
    more = (
        tag("p", f"The first {MOST_PANELS} combinations are drawn; the table has all.", class_="how")
        if len(found) == MOST_PANELS
        else None
    )
    charts = (both(lambda width, panel=panel: chart(panel, metric, width), WIDE) for panel in found)  # type: ignore[misc]  # a default binds the panel
    return tag("section", tag("h2", title), tag("p", how, class_="how"), *charts, more)


def _trust(sweep: Json) -> Markup:
    kinds = list(dict.fromkeys(words(each.get("trust")) for each in rows(sweep, "settings")))
    lines = [(kind, *TRUSTED[kind]) for kind in TRUSTED if kind in kinds]
    heads = ("trust", "who is trusted", "what that means", "price")
    return tag("section", tag("h2", "What is trusted"), _html_table(heads, lines, 2))


def _table(sweep: Json, settings: Sequence[Json]) -> Markup:
    how = (
        "Bytes are those of one device over all training rounds, seconds those of a whole run with export, gates and "
        "push while others ran beside it. Energy is an estimate, CPU seconds times "
        f"{significant(sweep.get('core_watts'))} W for a busy core (--core-watts): nothing was metered."
    )
    names = [str(name) for name in sweep["columns"]]
    lines = [each | {"seeds": f"{each['runs']} of {each['asked']}", "error": _error(each)} for each in settings]
    columns = [*((name, name, _setting) for name in names), *COLUMNS]
    found = table("Means over the seeds", columns, lines, "Nothing was asked for.")
    return tag("section", tag("h2", "All settings"), tag("p", how, class_="how"), found)


def _setting(value: object) -> str:
    return significant(value) if number(value) is not None else words(value)


def _error(setting: Json) -> float | None:
    if finite(setting.get("utility")) is None or setting["runs"] < 2:
        return None
    return (float(setting["utility_high"]) - float(setting["utility_low"])) / 2


def _joules(value: object) -> str:
    return f"{significant(value)}\u202fJ"


COLUMNS: tuple[Column, ...] = (
    ("Seeds", "seeds", words),
    ("Mean", "utility", decimal),
    ("\u00b1 (95 %)", "error", decimal),
    ("Worst group", "worst_group", decimal),
    ("Gap", "group_gap", decimal),
    ("Epsilon spent", "epsilon_spent", bound),
    ("Noise z", "noise_multiplier", significant),
    ("Bytes up", "bytes_up_per_device", data_size),
    ("Bytes down", "bytes_down_per_device", data_size),
    ("Time", "seconds", seconds),
    ("Energy", "energy_joules", _joules),
)


def _refused(settings: Sequence[Json]) -> Markup | None:
    lines = [
        (", ".join(f"{name} {_setting(each[name])}" for name in ("epsilon", "unit", "trust")), reason)
        for each in settings
        for reason in each.get("reasons") or ()
    ]
    if not lines:
        return None
    grouped: dict[str, list[str]] = {}
    for where, reason in lines:
        grouped.setdefault(reason, []).append(where)
    body = [("; ".join(dict.fromkeys(where)), reason) for reason, where in grouped.items()]
    return tag("section", tag("h2", "What could not run"), _html_table(("setting", "reason"), body, 1))


def _html_table(heads: Sequence[str], lines: Sequence[Sequence[str]], long: int = -1) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", title) for title in heads)))
    body = (
        tag("tr", *(tag("td", cell, class_="long" if place == long else None) for place, cell in enumerate(line)))
        for line in lines
    )
    return tag("div", tag("table", head, tag("tbody", *body)), class_="box", tabindex="0")
