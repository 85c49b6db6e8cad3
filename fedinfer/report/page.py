"""Everything put together: one HTML file with its style and drawings inside, and no request to anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fedinfer.errors import StoreError
from fedinfer.private_files import only_owner
from fedinfer.report import summary, tables
from fedinfer.report.figures import count, decimal, finite, rows, seconds, section, words
from fedinfer.report.judged import judged_section, loss_section
from fedinfer.report.layout import WIDE, both
from fedinfer.report.ledger import ledger_tables
from fedinfer.report.legend import loop_legend
from fedinfer.report.loop_chart import loop_chart
from fedinfer.report.markup import Child, Markup, join, tag
from fedinfer.report.reading import RunFiles, read_run
from fedinfer.report.shapes import shape_charts
from fedinfer.report.small_charts import bars, latency_chart, meter
from fedinfer.report.statement import statement
from fedinfer.report.timeline import steps
from fedinfer.types import Json

NAME = "report.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(run_dir: Path) -> Path:
    """Write report.html into a run folder, whole or not at all.

    Args:
        run_dir: folder with run.json; events.jsonl and ledger.sqlite are used when they are there.

    Returns:
        Path of the page.

    Raises:
        ConfigError: when run.json is missing, malformed or of another schema.
        StoreError: when the page cannot be written.
    """
    page = render(read_run(run_dir))
    target, part = run_dir / NAME, run_dir / (NAME + ".part")
    try:
        with open(part, "w", encoding="utf-8", opener=only_owner) as file:
            file.write(page)
        os.replace(part, target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error}") from error
    return target


def render(found: RunFiles) -> str:
    """The page as text.

    Args:
        found: what was read of a run folder.

    Returns:
        HTML, one self-contained document.
    """
    run = found.run
    title = f"fedinfer report: {words(run.get('scenario'), 'unnamed')}"
    body = tag("body", _header(found), tag("main", *_sections(found)), _footer(run))
    return document(title, body)


def document(title: str, body: Markup) -> str:
    """One self-contained HTML document in the style of all reports.

    Args:
        title: of the window.
        body: its element.

    Returns:
        Text of the document.
    """
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Markup(_style("style.css") + _style("dark.css"))),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _sections(found: RunFiles) -> tuple[Markup | None, ...]:
    run = found.run
    return (
        _warnings(found),
        _summary(run),
        judged_section(run),
        _loop(found),
        _section("Rounds", loss_section(run), tables.rounds_table(run)),
        _drift(run),
        _models(run),
        _shapes(run),
        _devices(found),
        _privacy(run),
        _section("Privacy ledger", ledger_tables(found.ledger)),
    )


def _header(found: RunFiles) -> Markup:
    run = found.run
    sign, meaning, style = summary.status(run)
    privacy = section(run, "privacy")
    facts = (
        f"seed {words(run.get('seed'))}",
        f"engine {words(run.get('engine'))}",
        f"{words(run.get('population'))} devices",
        f"unit {words(privacy.get('unit'))}",
        f"trust {words(privacy.get('trust'))}",
        f"took {seconds(run.get('seconds'))}",
    )
    return tag(
        "header",
        tag("p", "fedinfer run report", class_="brand"),
        tag("h1", words(run.get("scenario"), "unnamed")),
        tag("p", words(run.get("description")), class_="about") if run.get("description") else None,
        tag("p", tag("span", f"{sign} {meaning}", class_=f"status {style}"), class_="state"),
        _stopped(found),
        tag("p", " \u00b7 ".join(facts), class_="facts"),
    )


def _stopped(found: RunFiles) -> Markup | None:
    """Why a run ended early, in the program's own words."""
    event = next((event for event in reversed(found.events) if event.get("event") == "stopped"), None)
    if event is None:
        return None
    hint = f" Hint: {words(event.get('hint'))}." if event.get("hint") else ""
    return tag("p", f"{words(event.get('message'))}.{hint}", class_="about")


def _warnings(found: RunFiles) -> Markup | None:
    given = found.run.get("warnings")
    lines = [words(line) for line in given] if isinstance(given, list) else []
    lines += found.notes
    if not lines:
        return None
    items = tag("ul", *(tag("li", line) for line in lines))
    return tag("section", tag("h2", "\u26a0 Warnings"), items, class_="warnings")


def _summary(run: Json) -> Markup:
    sentences = tag("div", *(tag("p", sentence) for sentence in summary.headline(run)), class_="lead")
    return _section("In short", sentences, tag("div", *(_tile(tile) for tile in summary.tiles(run)), class_="tiles"))


def _tile(tile: summary.Tile) -> Markup:
    gauge = None if tile.share is None else meter(tile.share, f"{100 * tile.share:.0f} percent of the budget is spent")
    return tag(
        "div",
        tag("p", tile.name, class_="name"),
        tag("p", tile.value, class_="value"),
        gauge,
        tag("p", tile.remark, class_="remark"),
        class_="tile",
    )


def _loop(found: RunFiles) -> Markup:
    sequence = steps(found.run, found.events)
    if not sequence:
        return _section("The loop over time", tag("p", "No round and no drift window was recorded.", class_="empty"))
    metric = summary.metric_name(found.run)
    budget = finite(section(found.run, "privacy").get("budget"))
    words_ = (
        "Steps from left to right: r is a training round, w a window of inference on the devices. In a window without "
        "a drift point the monitor was learning what is normal, or too few devices reported."
    )
    return _section(
        "The loop over time",
        tag("p", words_, class_="how"),
        loop_legend(sequence),
        both(lambda width: loop_chart(sequence, metric, budget, width), WIDE),
    )


def loop_of(folder: Path, width: float) -> Markup:
    """The drawing of the loop alone, with its style in it, as an SVG document.

    Args:
        folder: run folder.
        width: pixels.

    Raises:
        ConfigError: run.json is missing or malformed.
    """
    found = read_run(folder)
    budget = finite(section(found.run, "privacy").get("budget"))
    chart = loop_chart(steps(found.run, found.events), summary.metric_name(found.run), budget, width)
    opening, end, rest = chart.partition(">")
    namespace = "" if "xmlns=" in opening else ' xmlns="http://www.w3.org/2000/svg"'
    return Markup(opening + namespace + end + tag("style", Markup(_style("style.css"))) + rest)


def _drift(run: Json) -> Markup:
    drift = section(run, "drift")
    if not count(drift.get("windows")):
        return _section("Drift", tag("p", "Drift was not watched in this run.", class_="empty"))
    how = tag(
        "p",
        "Accuracy by confidence needs no labels and is blind to a changed meaning of the same inputs; accuracy by "
        "labels is that of rows whose label came in the window. Both with the interval that noise and sampling leave.",
        class_="how",
    )
    return _section("Drift", _drift_story(run, drift), tables.alarms_table(run), how, tables.windows_table(run))


def _drift_story(run: Json, drift: Json) -> Markup | None:
    """The metric of the devices' own streams before, during and after; one figure alone is a sentence."""
    names = (("before", "#0072B2"), ("during", "#D55E00"), ("after", "#009E73"))
    found = [(name, finite(drift.get(f"metric_{name}")), colour) for name, colour in names]
    values = [(name, value, colour) for name, value, colour in found if value is not None]
    lead = f"{summary.metric_name(run).capitalize()} on the devices' own streams"
    if not values:
        return None
    if len(values) == 1:
        return tag("p", f"{lead}: {decimal(values[0][1])}.", class_="how")
    chart = both(lambda width: bars("Metric before, during and after drift", values, width), 460.0)
    return join(tag("p", f"{lead}:", class_="how"), chart)


def _models(run: Json) -> Markup:
    saved = tables.bytes_saved(summary.last_model(run))
    words_ = f"The newest artifact is {saved}." if saved else None
    return _section(
        "Models", tag("p", words_, class_="how") if words_ else None, tables.models_table(run), tables.waves_table(run)
    )


def _shapes(run: Json) -> Markup | None:
    charts = shape_charts(run)
    return None if charts is None else _section("What the model has learned", charts)


def _devices(found: RunFiles) -> Markup:
    run = found.run
    latency = section(section(run, "inference"), "latency_us")
    p50, p99 = finite(latency.get("p50")), finite(latency.get("p99"))
    chart = None
    if p50 is not None and p99 is not None:
        chart = join(
            tag("p", "Latency of one prediction, on the machine that ran the devices:", class_="how"),
            both(lambda width: latency_chart(p50, p99, width), 460.0),
        )
    lost = f"On average {tables.survivors_share(run)} of a cohort answered." if rows(run, "rounds") else None
    return _section(
        "Devices",
        chart,
        tables.devices_pairs(run),
        tag("p", lost, class_="how") if lost else None,
        tables.blamed_table(found.events),
    )


def _privacy(run: Json) -> Markup:
    items = [
        tag("div", tag("dt", item.component), tag("dd", tag("p", item.value, class_="fact"), tag("p", item.meaning)))
        for item in statement(run)
    ]
    source = "The components follow NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees (2025)."
    return _section("Privacy statement", tag("dl", *items, class_="statement"), tag("p", source, class_="how"))


def _footer(run: Json) -> Markup:
    version = words(run.get("fedinfer"), "")
    words_ = (
        f"Written by fedinfer {version}".rstrip()
        + " from run.json (schema 1), events.jsonl and the ledger of this folder. "
    )
    return tag("footer", tag("p", words_ + "This page loads nothing from the network and runs no script."))


def _section(title: str, *children: Child) -> Markup:
    return tag("section", tag("h2", title), *children)


def _style(name: str) -> str:
    return files("fedinfer.report").joinpath(name).read_text(encoding="utf-8")


__all__: Sequence[str] = ["render", "write_report"]
