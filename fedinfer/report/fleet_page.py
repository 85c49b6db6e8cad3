"""fleet.json and fleet.html: what a virtual fleet did, in virtual time, bytes, energy and fairness."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from fedinfer.errors import StoreError
from fedinfer.private_files import only_owner
from fedinfer.report import axes
from fedinfer.report.figures import bound, decimal, finite, percent, rows, section, words
from fedinfer.report.layout import WIDE, both
from fedinfer.report.markup import Markup, tag
from fedinfer.report.page import document
from fedinfer.types import Json

JSON_NAME, PAGE_NAME = "fleet.json", "fleet.html"
TOP, BOTTOM, LEFT, RIGHT, HEIGHT = 16.0, 40.0, 52.0, 14.0, 260.0


def write_fleet(folder: Path, record: Json) -> None:
    """Write fleet.json and fleet.html into a run folder.

    Args:
        folder: of the run.
        record: of `fedinfer.fleet.run_fleet`.

    Raises:
        StoreError: the disk refuses.
    """
    texts = {JSON_NAME: json.dumps(_without_infinity(record), indent=1) + "\n", PAGE_NAME: render_fleet(record)}
    try:
        for name, text in texts.items():
            with open(folder / name, "w", encoding="utf-8", opener=only_owner) as file:
                file.write(text)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}", hint="free space, or choose another --out") from error


def virtual_time(seconds: float) -> str:
    """A span of virtual time for people.

    Args:
        seconds: >= 0.
    """
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def render_fleet(record: Json) -> str:
    """The page as text.

    Args:
        record: as in fleet.json.

    Returns:
        HTML, one self-contained document.
    """
    plan, name = section(record, "plan"), words(record.get("scenario"), "unnamed")
    facts = (
        f"{words(plan.get('devices'))} devices \u00b7 {words(plan.get('rounds'))} \u00b7 "
        f"{words(plan.get('releases'))} sums of {words(plan.get('answers'))} \u00b7 unit {words(plan.get('unit'))} "
        f"\u00b7 trust {words(plan.get('trust'))}"
    )
    header = tag(
        "header",
        tag("p", "fedinfer fleet report", class_="brand"),
        tag("h1", name),
        tag("p", facts, class_="facts"),
    )
    main = tag("main", _short(record), _progress(record), _jobs(record), _participation(record), _privacy(record))
    return document(f"fedinfer fleet: {name}", tag("body", header, main))


def _short(record: Json) -> Markup:
    metric, totals = section(record, "metric"), section(record, "totals")
    traffic = ((finite(totals.get("down_bytes")) or 0) + (finite(totals.get("up_bytes")) or 0)) / 1e6
    sentences = [
        f"In {virtual_time(finite(record.get('seconds')) or 0.0)} of virtual time {words(metric.get('name'))} went "
        f"from {decimal(metric.get('start'))} to {decimal(metric.get('end'))}.",
        f"Devices moved {traffic:.1f} MB and took {decimal(totals.get('watt_hours'))} Wh, "
        f"{decimal(totals.get('wasted_watt_hours'))} Wh of it for answers that are in no sum.",
        *_target(record),
    ]
    return _section("In short", tag("div", *(tag("p", line) for line in sentences), class_="lead"))


def _target(record: Json) -> list[str]:
    target = section(record, "target")
    if not target:
        return []
    when = finite(target.get("seconds"))
    value = decimal(target.get("metric"))
    return [f"The target {value} was {'not reached' if when is None else 'reached after ' + virtual_time(when)}."]


def _progress(record: Json) -> Markup:
    found = [(finite(row.get("seconds")), finite(row.get("metric"))) for row in rows(record, "releases")]
    points = [(seconds / 3600, value) for seconds, value in found if seconds is not None and value is not None]
    name = words(section(record, "metric").get("name"))
    if not points:
        return _section("Progress", tag("p", "Nothing was released.", class_="empty"))
    how = f"{name.capitalize()} on held-out rows after each sum, over virtual hours."
    return _section("Progress", tag("p", how, class_="how"), both(lambda width: _chart(points, name, width), WIDE))


def _chart(points: Sequence[tuple[float, float]], name: str, width: float) -> Markup:
    low, high = axes.padded([value for _, value in points], 0.05)
    x = axes.Scale(0.0, max(points[-1][0], 1e-9), LEFT, width - RIGHT)
    y = axes.Scale(low, high, HEIGHT - BOTTOM, TOP)
    return axes.drawing(
        width,
        HEIGHT,
        f"{name} over virtual time",
        f"From {decimal(points[0][1])} to {decimal(points[-1][1])} in {points[-1][0]:.2f} hours.",
        *(axes.line(LEFT, y(mark), width - RIGHT, y(mark), "grid") for mark in axes.ticks(low, high, 5)),
        *(axes.label(LEFT - 6, y(mark) + 4, decimal(mark), anchor="end") for mark in axes.ticks(low, high, 5)),
        *(
            axes.label(x(mark), HEIGHT - BOTTOM + 16, f"{mark:g}", anchor="middle")
            for mark in axes.ticks(0.0, x.high, 5 if width > 400 else 3)
        ),
        axes.label((LEFT + width - RIGHT) / 2, HEIGHT - 6, "virtual hours", anchor="middle"),
        axes.path([(x(hours), y(value)) for hours, value in points], axes.PALETTE[0]),
    )


def _jobs(record: Json) -> Markup:
    totals = section(record, "totals")
    outcomes = section(totals, "outcomes")
    asked = finite(totals.get("asked")) or 0.0
    still = asked - sum(finite(count) or 0.0 for count in outcomes.values())
    lines = [(name, finite(count) or 0.0) for name, count in sorted(outcomes.items())]
    lines += [("still at work at the end", still)] if still > 0 else []
    return _section(
        "What became of the jobs",
        _table(("end", "jobs", "share"), [(name, f"{count:.0f}", percent(count / asked)) for name, count in lines]),
        tag("p", f"Rounds that released nothing: {words(record.get('failed_rounds'))}.", class_="how"),
    )


def _participation(record: Json) -> Markup:
    part = section(record, "participation")
    found = part.get("histogram")
    histogram = [count for count in found if isinstance(count, int)] if isinstance(found, list) else []
    last = len(histogram) - 1
    lines = [(f"{times}{' or more' if times == last else ''}", str(count)) for times, count in enumerate(histogram)]
    how = (
        f"{percent(part.get('reached'))} of the devices are in at least one sum. Gini coefficient "
        f"{decimal(part.get('gini'))} (0: all took part equally often). Sums per device, by speed: "
        + ", ".join(f"{name} {decimal(mean)}" for name, mean in section(part, "mean_by_speed").items())
        + "."
    )
    return _section("Who took part", tag("p", how, class_="how"), _table(("sums", "devices"), lines))


def _privacy(record: Json) -> Markup:
    plan, privacy = section(record, "plan"), section(record, "privacy")
    if words(plan.get("unit")) == "none":
        return _section("Privacy", tag("p", "None: sums carried no noise (unit none).", class_="how"))
    sentence = (
        f"A device is in at most {words(plan.get('participations'))} sums. One in so many spends epsilon at most "
        f"{bound(privacy.get('planned_epsilon'))} at delta {words(plan.get('delta'))}; the most that anybody spent is "
        f"{bound(privacy.get('most_spent_epsilon'))}. No amplification is claimed: the server sees who works when."
    )
    return _section("Privacy", tag("p", sentence, class_="how"))


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", title) for title in titles)))
    body = (tag("tr", tag("td", line[0]), *(tag("td", cell, class_="num") for cell in line[1:])) for line in lines)
    return tag("div", tag("table", head, tag("tbody", *body)), class_="box")


def _section(title: str, *children: Markup) -> Markup:
    return tag("section", tag("h2", title), *children)


def _without_infinity(value: object) -> object:
    """JSON has no infinity: it becomes the text "inf"."""
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
