"""The page of an attack: what an attacker finds with and without privacy, beside what the claim allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedinfer.report import axes
from fedinfer.report.figures import bound, decimal, percent, rows, section, words
from fedinfer.report.layout import WIDE, both
from fedinfer.report.legend import line_legend
from fedinfer.report.markup import Markup, tag
from fedinfer.report.page import document
from fedinfer.types import Json

NAME = "attack.html"
LOWEST = 1e-3
"""False alarms and finds below are drawn on the border."""
TOP, BOTTOM, LEFT, RIGHT = 30.0, 40.0, 58.0, 14.0
STRIP = 26.0
VIEWS = {"model": "whoever holds the model", "rounds": "whoever also saw what every round released"}


def render_attack(found: Json) -> str:
    """The page as text.

    Args:
        found: as `fedinfer attack --json` prints it.

    Returns:
        HTML, one self-contained document.
    """
    name = words(found.get("scenario"), "unnamed")
    header = tag(
        "header",
        tag("p", "fedinfer attack report", class_="brand"),
        tag("h1", name),
        tag(
            "p",
            f"{words(found.get('rounds'))} rounds \u00b7 unit {words(found.get('unit'))} \u00b7 trust "
            f"{words(found.get('trust'))} \u00b7 claim epsilon {bound(found.get('epsilon'))} at delta "
            f"{words(found.get('delta'))}",
            class_="facts",
        ),
    )
    main = tag("main", _short(found), _membership(found), _inversion(found))
    return document(f"fedinfer attack: {name}", tag("body", header, main))


def _short(found: Json) -> Markup:
    unit = "row" if words(found.get("unit")) == "example" else "device"
    sentences = [
        f"Could an attacker tell whether one {unit} took part? Everything was run many times with a random half of "
        "them, and a likelihood ratio test was made on each.",
        *(
            f"{VIEWS[view].capitalize()} finds {_found(found, kind, view)} of them at one false alarm in a hundred, "
            f"{kind}."
            for view in VIEWS
            for kind in ("with privacy", "without privacy")
        ),
        f"The claim allows at most {percent(section(found, 'allowed').get('0.01'))}; guessing finds 1 %.",
    ]
    return tag("section", tag("h2", "In short"), tag("div", *(tag("p", line) for line in sentences), class_="lead"))


def _found(found: Json, kind: str, view: str) -> str:
    return percent(section(_curve(found, kind, view), "found").get("0.01"))


def _curve(found: Json, kind: str, view: str) -> Json:
    return section(section(section(found, "membership"), kind), view)


def _membership(found: Json) -> Markup:
    how = (
        "Each line is one attacker. Up: how many that took part are found; to the right: how many that did not are "
        "accused. Both axes are logarithmic, because an attacker who is sure about a few matters more than one who is "
        "a little better than guessing on average. Nothing can lie above the line of the claim but by chance."
    )
    lines = [
        (f"{VIEWS[view]}, {kind}", _points(_curve(found, kind, view)))
        for kind in ("with privacy", "without privacy")
        for view in VIEWS
    ]
    names = [*(name for name, _ in lines), "what the claim allows", "guessing"]
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", title) for title in ("attacker", "area", "0.1 %", "1 %", "10 %")))),
        tag("tbody", *(_row(found, kind, view) for kind in ("with privacy", "without privacy") for view in VIEWS)),
    )
    return tag(
        "section",
        tag("h2", "Who took part?"),
        tag("p", how, class_="how"),
        line_legend([(name, *_style(number)) for number, name in enumerate(names)]),
        both(lambda width: _chart(lines, found, width), 620.0),
        tag("p", "Found at so many false alarms (area 0.5: guessing):", class_="how"),
        tag("div", table, class_="box"),
    )


def _row(found: Json, kind: str, view: str) -> Markup:
    curve = _curve(found, kind, view)
    at = section(curve, "found")
    cells = [decimal(curve.get("area")), *(percent(at.get(rate)) for rate in ("0.001", "0.01", "0.1"))]
    return tag("tr", tag("td", f"{VIEWS[view]}, {kind}"), *(tag("td", cell, class_="num") for cell in cells))


def _points(curve: Json) -> list[tuple[float, float]]:
    given = curve.get("curve")
    return [(float(a), float(b)) for a, b in given] if isinstance(given, list) else []


def _chart(lines: Sequence[tuple[str, list[tuple[float, float]]]], found: Json, width: float) -> Markup:
    height = min(width, 420.0)
    x = axes.Scale(math.log10(LOWEST), 0.0, LEFT, width - RIGHT)
    y = axes.Scale(math.log10(LOWEST), 0.0, height - BOTTOM, TOP)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return x(math.log10(max(point[0], LOWEST))), y(math.log10(max(point[1], LOWEST)))

    rates = [LOWEST * 10 ** (step / 20) for step in range(61)]
    epsilon, delta = _number(found.get("epsilon")), _number(found.get("delta"))
    claim = [place((rate, _allowed(rate, epsilon, delta))) for rate in rates]
    marks = (0.001, 0.01, 0.1, 1.0)
    drawn = [
        axes.path([place(point) for point in points if point[0] >= LOWEST], *_style(number))
        for number, (_, points) in enumerate(lines)
    ]
    grid = [
        part
        for mark in marks
        for at in (place((mark, mark)),)
        for part in (
            axes.line(at[0], TOP, at[0], height - BOTTOM, "grid"),
            axes.line(LEFT, at[1], width - RIGHT, at[1], "grid"),
            axes.label(at[0], height - BOTTOM + 15, f"{100 * mark:g} %", "tick", "end" if mark == 1 else "middle"),
            axes.label(LEFT - 6, at[1] + 4, f"{100 * mark:g} %", "tick", "end"),
        )
    ]
    words_ = "; ".join(f"{name}: {percent(_at(points, 0.01))} at 1 % false alarms" for name, points in lines)
    return axes.drawing(
        width,
        height,
        "Membership inference",
        words_,
        *grid,
        axes.label(0, 14, "\u2191 found", "panel"),
        axes.label(width - RIGHT, height - 6, "accused wrongly \u2192", "panel", "end"),
        axes.path(claim, *_style(len(lines))),
        axes.path([place((rate, rate)) for rate in rates], *_style(len(lines) + 1)),
        *drawn,
    )


def _style(number: int) -> tuple[str, str | None]:
    """Colour by view, dash by kind; the claim and guessing come last."""
    return (
        (axes.PALETTE[0], None),
        (axes.PALETTE[2], None),
        (axes.PALETTE[0], "6 3"),
        (axes.PALETTE[2], "6 3"),
        (axes.PALETTE[1], "8 3 2 3"),
        ("#5b6b7b", "2 3"),
    )[number]


def _at(points: Sequence[tuple[float, float]], rate: float) -> float:
    return max((found for false, found in points if false <= rate), default=0.0)


def _allowed(rate: float, epsilon: float, delta: float) -> float:
    return min(1.0, math.exp(min(epsilon, 700.0)) * rate + delta)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _inversion(found: Json) -> Markup:
    views = rows(found, "inversion")
    note = words(found.get("note"), "")
    if not views:
        return tag("section", tag("h2", "What can be read back?"), tag("p", note, class_="empty"))
    how = (
        "From the gradient of a linear layer the row behind it can be computed. Likeness 1: the row itself; random "
        "numbers show what the nearest of all rows gives by chance."
    )
    rows_shown = any(rows(view, "shown") for view in views)
    cells = (
        "Above: a row of the data, as the model sees it, one cell per input; below: what was recovered. This page has "
        "real rows: keep it as you keep the data."
        if rows_shown
        else "No row of the data is on this page; --show-rows puts a few beside what was recovered."
    )
    return tag(
        "section",
        tag("h2", "What can be read back?"),
        tag("p", how, class_="how"),
        tag("p", cells, class_="how"),
        *(_view(view) for view in views),
    )


def _view(view: Json) -> Markup:
    shown = rows(view, "shown")
    title = f"{words(view.get('view')).capitalize()}: likeness {decimal(view.get('likeness'), 2)}"
    chart = both(lambda width: _strips(title, shown, width), WIDE) if shown else None
    return tag("div", tag("h3", title), chart)


def _strips(title: str, shown: Sequence[Json], width: float) -> Markup:
    parts = []
    for number, pair in enumerate(shown):
        row, found = ([_number(value) for value in pair.get(name) or ()] for name in ("row", "recovered"))
        low, high = min(row, default=0.0), max(row, default=1.0)
        for line, values in enumerate((row, found)):
            top, cell = number * (2 * STRIP + 14) + line * (STRIP + 2), width / max(len(values), 1)
            for place, value in enumerate(values):
                shade = min(max((value - low) / (high - low or 1.0), 0.0), 1.0)
                parts.append(tag("rect", x=place * cell, y=top, width=cell, height=STRIP, fill=_shade(shade)))
    return axes.drawing(
        width, max(len(shown), 1) * (2 * STRIP + 14), title, "Rows of data over what was recovered.", *parts
    )


def _shade(share: float) -> str:
    """From light to the first colour of the palette."""
    ends = ((240, 244, 248), (0, 84, 140))
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends, strict=True))
