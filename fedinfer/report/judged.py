"""What the model is worth, as a section of the report: verdict, confusion, curves, calibration, devices, groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedinfer.report import axes, tables
from fedinfer.report.figures import count, decimal, finite, matrix, names, percent, rows, section, whole, words
from fedinfer.report.layout import both
from fedinfer.report.markup import Markup, join, tag
from fedinfer.report.quality_charts import (
    Line,
    Row,
    line_style,
    loss_chart,
    precision_recall_chart,
    reliability_chart,
    residual_chart,
    roc_chart,
    rows_chart,
    spread_chart,
)
from fedinfer.report.small_charts import bars
from fedinfer.report.verdict import metric_words, parts, pooled
from fedinfer.types import Json

HALF, FULL = 420.0, 900.0
MOST_LINES = len(axes.PALETTE)
MOST_CONFUSED = 12
"""A confusion matrix of more classes does not fit a phone; recall and precision say the same by class."""
MOST_ROWS = 24
"""More devices are drawn as one spread."""

CLASSES: tuple[tables.Column, ...] = (
    ("Class", "class", words),
    ("Rows", "support", whole),
    ("Answered", "answered", whole),
    ("Recall: found", "recall", decimal),
    ("Precision: right", "precision", decimal),
)
NUMBER_PARTS: tuple[tables.Column, ...] = (
    ("Device", "name", words),
    ("Rows", "rows", whole),
    ("Root mean squared error", "rmse", decimal),
    ("Too large by", "bias", decimal),
)
PARTS: tuple[tables.Column, ...] = (
    ("Group", "name", words),
    ("Rows", "rows", whole),
    ("Metric", "value", decimal),
    ("Accuracy", "accuracy", decimal),
    ("Recall", "recall", decimal),
    ("Answered 1", "answered", decimal),
)


def judged_section(run: Json) -> Markup | None:
    """The whole section; None where nothing was judged.

    Args:
        run: run.json, schema 1.
    """
    found = section(run, "judgement")
    if not found:
        return None
    sentences = [_decision(found), pooled(run), *parts(run)]
    return tag(
        "section",
        tag("h2", "What the model is worth"),
        tag("p", _basis(run, found), class_="how"),
        tag("div", *(tag("p", sentence) for sentence in sentences if sentence), class_="lead"),
        _beside(run, found),
        _classes(found),
        _confusion(found),
        _curves(found),
        _calibration(run, found),
        _devices(found),
        _number_devices(found),
        _residuals(run, found),
        _groups(found),
    )


def loss_section(run: Json) -> Markup | None:
    """Loss per round; None where no round has one.

    Args:
        run: run.json, schema 1.
    """
    values = [
        (words(row.get("round")), loss)
        for row in rows(run, "rounds")
        if row.get("status") == "released" and (loss := finite(row.get("loss"))) is not None
    ]
    return both(lambda width: loss_chart(values, width), FULL) if values else None


def _basis(run: Json, found: Json) -> str:
    task, name = section(run, "task"), metric_words(found.get("metric"))
    known = (
        "They were held out by simulated devices and pooled: no real server has such rows. The gates and the "
        "temperature of the file used them too; training did not."
        if found.get("simulation_knowledge")
        else "The server holds these rows in public."
    )
    return (
        f"Model version {words(found.get('version'))}, the file that devices run, on "
        f"{count(found.get('rows')) or 0:,} rows ({words(found.get('on'))}). {known} "
        f"Judged by {name}, because {words(task.get('why'))}."
    )


def _decision(found: Json) -> str:
    threshold, labels = finite(found.get("threshold")), names(found, "labels")
    if threshold is None or len(labels) != 2:
        return ""
    return f'"{labels[1]}" is answered from a probability of {decimal(threshold)} on.'


def _beside(run: Json, found: Json) -> Markup | None:
    """Model, constant answer and pooled model as bars, for metrics that are shares."""
    baseline, pool = section(found, "baseline"), section(run, "pooled")
    values = [
        ("one answer", finite(baseline.get("value")), "#5b6b7b"),
        ("this model", finite(found.get("value")), axes.PALETTE[0]),
        ("pooled", finite(pool.get("value")), axes.PALETTE[3]),
    ]
    shown = [(name, value, colour) for name, value, colour in values if value is not None and 0 <= value <= 1]
    if len(shown) < 2 or section(run, "task").get("higher_is_better") is False:
        return None
    title = f"{metric_words(found.get('metric'))} beside a constant answer and a model of pooled rows"
    return join(
        tag("p", f"{title[:1].upper()}{title[1:]}, from 0 to 1:", class_="how"),
        both(lambda width: bars(title, shown, width), 460.0),
    )


def _classes(found: Json) -> Markup | None:
    labels, columns = names(found, "labels"), []
    confused = matrix(found, "confusion", len(labels))
    for key in ("support", "recall", "precision"):
        column = found.get(key)
        if not isinstance(column, list) or len(column) != len(labels):
            return None
        columns.append(column)
    lines = [
        {
            "class": name,
            "support": columns[0][place],
            "recall": columns[1][place],
            "precision": columns[2][place],
            "answered": sum(line[place] for line in confused) if confused else None,
        }
        for place, name in enumerate(labels)
    ]
    return tables.table("One row per class", CLASSES, lines, "") if lines else None


def _confusion(found: Json) -> Markup | None:
    """Rows by class and by answer; the share of a class's rows is the shade of its cell."""
    labels = names(found, "labels")
    confused = matrix(found, "confusion", len(labels))
    if not 2 <= len(confused) <= MOST_CONFUSED:
        return None
    head = tag("tr", tag("th", "Label"), *(tag("th", name, scope="col", class_="num") for name in labels))
    body = [_confused(labels[place], line, place) for place, line in enumerate(confused)]
    return tables.boxed(
        "Confusion matrix: rows by their label (down) and by the answer (across)",
        tag("thead", head),
        tag("tbody", *body),
        kind="matrix",
    )


def _confused(name: str, line: Sequence[int], own: int) -> Markup:
    total = max(sum(line), 1)
    cells = [
        tag(
            "td",
            whole(value),
            class_="num right" if place == own else "num wrong",
            style=f"--share:{100 * value / total:.0f}%",
        )
        for place, value in enumerate(line)
    ]
    return tag("tr", tag("th", name, scope="row"), *cells)


def _curves(found: Json) -> Markup | None:
    curves = sorted(rows(found, "curves"), key=lambda curve: finite(curve.get("auc")) or 0.0)[:MOST_LINES]
    if not curves:
        return None
    one = len(curves) == 1
    roc = [Line(words(curve.get("class")), _points(curve.get("roc"))) for curve in curves]
    precise = [Line(words(curve.get("class")), _points(curve.get("precision_recall"))) for curve in curves]
    share = finite(curves[0].get("share")) if one else None
    at_roc, at_precise = _answers(found) if one else (None, None)
    return join(
        tag("p", _curve_words(curves, one), class_="how"),
        _legend(roc) if not one else None,
        tag(
            "div",
            both(lambda width: roc_chart(roc, at_roc, width), HALF),
            both(lambda width: precision_recall_chart(precise, share, at_precise, width), HALF),
            class_="pair",
        ),
    )


def _curve_words(curves: Sequence[Json], one: bool) -> str:
    if not one:
        return "Each class against all others; of many classes those with the smallest area under the ROC curve."
    curve = curves[0]
    return (
        f'Curves of "{words(curve.get("class"))}", which {percent(curve.get("share"))} of the rows are: area under the '
        f"ROC curve {decimal(curve.get('auc'))}, average precision {decimal(curve.get('average_precision'))}. Dashed: "
        "guessing. Diamond: the answers as they are given."
    )


def _answers(found: Json) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Where two-class answers lie on both curves."""
    confused = matrix(found, "confusion", 2)
    if not confused:
        return None, None
    (right_no, false), (missed, hits) = confused
    recall = hits / max(hits + missed, 1)
    taken = false / max(false + right_no, 1)
    return (taken, recall), ((recall, hits / (hits + false)) if hits + false else None)


def _legend(lines: Sequence[Line]) -> Markup:
    items = []
    for place, line in enumerate(lines):
        colour, dash = line_style(place)
        stroke = axes.path([(0.0, 7.0), (24.0, 7.0)], colour, dash)
        sign = tag("svg", stroke, viewBox="0 0 24 14", width=24.0, height=14.0, aria_hidden="true")
        items.append(tag("li", sign, line.name))
    return tag("ul", *items, class_="legend")


def _calibration(run: Json, found: Json) -> Markup | None:
    calibration = section(found, "calibration")
    bins = [
        (said, seen, count(row.get("rows")) or 1)
        for row in rows(calibration, "bins")
        if (said := finite(row.get("said"))) is not None
        and (seen := finite(row.get("seen"))) is not None
        and (count(row.get("rows")) or 1) > 0
    ]
    if not bins:
        return None
    of = words(calibration.get("of"))
    what = f'"{of}"' if of != "the answer" else "the answer that it gives"
    return join(
        tag(
            "p",
            f"Reliability: how often the probability of {what} comes true; a larger dot stands for more rows. Expected "
            f"calibration error {decimal(calibration.get('error'))}.{_temperature(run, found)}",
            class_="how",
        ),
        both(lambda width: reliability_chart(bins, width), HALF),
    )


def _temperature(run: Json, found: Json) -> str:
    """Why the loss of the pushed file is not that of the last round's weights."""
    models = [model for model in rows(run, "models") if model.get("version") == found.get("version")]
    temperature = finite(models[0].get("temperature")) if models else None
    before, after = finite(section(run, "metrics").get("loss")), finite(section(found, "scores").get("log_loss"))
    if temperature is None or before is None or after is None:
        return ""
    return (
        f" The pushed file divides the model's logits by a temperature of {decimal(temperature, 2)} so that "
        f"probabilities come true: its log loss is {decimal(after)}, that of the last round's weights "
        f"{decimal(before)}."
    )


def _devices(found: Json) -> Markup | None:
    shown = _rows_of(rows(found, "devices"))
    if len(shown) < 2:
        return None
    title = "Accuracy per device"
    few = len(shown) <= MOST_ROWS
    draw: Callable[[float], Markup] = lambda width: (rows_chart if few else spread_chart)(title, shown, width)  # noqa: E731
    words_ = "Held-out rows of each simulated device; lines are 95 % intervals: so much is chance."
    words_ = words_ if few else "Held-out rows of each simulated device, from the worst to the best."
    return join(tag("p", words_, class_="how"), both(draw, FULL))


def _number_devices(found: Json) -> Markup | None:
    shown = [row for row in rows(found, "devices") if finite(row.get("rmse")) is not None]
    if len(shown) < 2:
        return None
    listed = sorted(shown, key=lambda row: -(finite(row.get("rmse")) or 0.0))[:MOST_ROWS]
    which = "each simulated device" if len(listed) == len(shown) else f"the {MOST_ROWS} worst of {len(shown)} devices"
    how = f"Held-out rows of {which}, the worst first. Too large by: how far answers are above labels in the mean."
    return join(tag("p", how, class_="how"), tables.table("Error per device", NUMBER_PARTS, listed, ""))


def _residuals(run: Json, found: Json) -> Markup | None:
    keys = ("predicted", "low", "middle", "high")
    parts_ = [tuple(finite(part.get(key)) for key in keys) for part in rows(found, "residuals")]
    whole_ = [part for part in parts_ if None not in part]
    if len(whole_) < 2:
        return None
    unit, label = words(section(run, "task").get("unit"), ""), words(section(run, "task").get("label"))
    how = (
        f"Label minus answer{f' in {unit}' if unit else ''}, in parts of equally many rows from the smallest answers "
        "to the largest: median, and where nine of ten lie. A line that bends is something the model does not know."
    )
    draw: Callable[[float], Markup] = lambda width: residual_chart(whole_, f"answer: {label}", width)  # type: ignore[arg-type]  # noqa: E731
    return join(tag("p", how, class_="how"), both(draw, FULL))


def _groups(found: Json) -> Markup | None:
    blocks = []
    for attribute in rows(found, "groups"):
        name, groups = words(attribute.get("attribute")), rows(attribute, "groups")
        shown, title = _rows_of(groups), f"Accuracy by {name}"
        if shown:
            blocks.append(both(lambda width, shown=shown, title=title: rows_chart(title, shown, width), FULL))  # type: ignore[misc]
            blocks.append(tables.table(f"Groups of {name}", PARTS, groups, ""))
    return join(*blocks) if blocks else None


def _rows_of(lines: Sequence[Json]) -> list[Row]:
    return [
        Row(words(row.get("name")), accuracy, number)
        for row in lines
        if (accuracy := finite(row.get("accuracy"))) is not None
        and 0 <= accuracy <= 1
        and (number := count(row.get("rows"))) is not None
        and 0 < number < 10**12
    ]


def _points(value: object) -> list[tuple[float, float]]:
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2] if isinstance(value, list) else []
    found = [(finite(x), finite(y)) for x, y in pairs]
    return [(x, y) for x, y in found if x is not None and y is not None]
