"""Is the model worth anything? The answer in sentences, beside always giving one answer; for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.report.figures import count, decimal, finite, matrix, names, percent, rows, section, significant, words
from fedinfer.types import Json

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "log_loss": "log loss",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "r2": "R\u00b2",
}
FEWEST = 20
"""Devices with fewer judged rows are not named as the worst or the best."""


def plural(number: int | None, word: str, none: str = "no") -> str:
    """A count with its noun in the right form.

    Args:
        number: how many; None counts as none.
        word: singular, with a regular plural.
        none: how none is written.

    Examples:
        >>> plural(1, "alarm"), plural(1200, "row"), plural(0, "window"), plural(0, "class", "0"), plural(2, "category")
        ('1 alarm', '1,200 rows', 'no windows', '0 classes', '2 categories')
    """
    shown = f"{number:,}" if number else none
    several = f"{word}es" if word.endswith("s") else f"{word[:-1]}ies" if word.endswith("ry") else f"{word}s"
    return f"{shown} {word if number == 1 else several}"


def metric_words(name: object) -> str:
    """A metric as people write it.

    Args:
        name: of the metric, as in run.json.
    """
    return METRICS.get(str(name), words(name, "metric").replace("_", " "))


def verdict(run: Json) -> str:
    """Better than a constant answer or not; empty where nothing was judged.

    Args:
        run: run.json, schema 1.
    """
    found = section(run, "judgement")
    baseline = section(found, "baseline")
    if not found:
        return ""
    constant, right = f'always answering "{words(baseline.get("answer"))}"', section(baseline, "scores").get("accuracy")
    if right is None and finite(baseline.get("answer")) is not None:
        better = "Better" if found.get("better") is True else "No better"
        mean = significant(baseline.get("answer"))
        return f"{better} than always answering the mean, {mean}, on the {_rows(found)}. {_compared(found, baseline)}"
    if found.get("better") is not True:
        nothing_else = ", and the model answers nothing else" if found.get("answers") == 1 else ""
        return (
            f"No better than {constant}: that is right for {percent(right)} of the {_rows(found)}{nothing_else}. "
            f"{_compared(found, baseline)}"
        )
    return f"Better than {constant}, which is right for {percent(right)} of the {_rows(found)}. " + _compared(
        found, baseline
    )


def _compared(found: Json, baseline: Json) -> str:
    name = metric_words(found.get("metric"))
    without = "the mean has" if section(baseline, "scores").get("accuracy") is None else "without any knowledge"
    return (
        f"{name[:1].upper()}{name[1:]} {decimal(found.get('value'))}{_interval(found)}; {without} "
        f"{decimal(baseline.get('value'))}."
    )


def _interval(found: Json) -> str:
    ends = found.get("interval")
    low, high = (finite(end) for end in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return "" if low is None or high is None else f" (95 % interval {decimal(low)} to {decimal(high)})"


def _rows(found: Json) -> str:
    kind = "held-out" if found.get("simulation_knowledge") else "public"
    return f"{count(found.get('rows')) or 0:,} {kind} rows"


def found_classes(run: Json) -> str:
    """How many rows of the class that matters are found, and how often its name is right; empty where it is not known.

    Of two classes it is the rarer one, of more the one that is found worst.

    Args:
        run: run.json, schema 1.
    """
    found = section(run, "judgement")
    labels = names(found, "labels")
    confused = matrix(found, "confusion", len(labels))
    support = [sum(line) for line in confused]
    occurring = [number for number in range(len(support)) if support[number]]
    if not occurring:
        return ""
    if len(labels) == 2:
        chosen = min(occurring, key=lambda number: support[number])
    else:
        chosen = min(occurring, key=lambda number: confused[number][number] / support[number])
    hits, answered = confused[chosen][chosen], sum(line[chosen] for line in confused)
    name = f'"{labels[chosen]}"'
    which = "" if len(labels) == 2 else ", the class that is found worst"
    recall = (
        f"Finds {hits} of {plural(support[chosen], 'row')} of {name}{which} (recall {decimal(hits / support[chosen])})"
    )
    if not answered:
        return f"{recall}; it never answers {name}."
    verb = "is" if hits == 1 else "are"
    share = decimal(hits / answered)
    return f"{recall}; of its {plural(answered, 'answer')} {name} {hits} {verb} right (precision {share})."


def pooled(run: Json) -> str:
    """What the same model reaches on pooled rows without noise; empty where that was not tried.

    Args:
        run: run.json, schema 1.
    """
    found = section(run, "pooled")
    if finite(found.get("value")) is None:
        return ""
    return (
        f"The same model trained on all {count(found.get('rows')) or 0:,} rows in one place, without noise, has "
        f"{metric_words(section(run, 'task').get('metric'))} {decimal(found.get('value'))}; it knows every row, which "
        "only a simulation can show."
    )


def parts(run: Json) -> tuple[str, ...]:
    """One sentence on how far devices are apart, and one for each attribute whose groups were compared.

    Args:
        run: run.json, schema 1.
    """
    found = section(run, "judgement")
    return (*_devices(found), *(_attribute(attribute) for attribute in rows(found, "groups")))


def _devices(found: Json) -> tuple[str, ...]:
    large = [row for row in rows(found, "devices") if (count(row.get("rows")) or 0) >= FEWEST]
    named = [
        (accuracy, words(row.get("name"))) for row in large if (accuracy := finite(row.get("accuracy"))) is not None
    ]
    if len(named) < 2:
        return _number_devices(large)
    (low, worst), (high, best) = min(named), max(named)
    return (f"Accuracy is {decimal(low)} on the worst device ({worst}) and {decimal(high)} on the best ({best}).",)


def _number_devices(large: Sequence[Json]) -> tuple[str, ...]:
    named = [(error, words(row.get("name"))) for row in large if (error := finite(row.get("rmse"))) is not None]
    if len(named) < 2:
        return ()
    (low, best), (high, worst) = min(named), max(named)
    name = metric_words("rmse")
    return (
        f"{name[:1].upper()}{name[1:]} is {decimal(high)} on the worst device ({worst}) and {decimal(low)} on the best "
        f"({best}).",
    )


def _attribute(attribute: Json) -> str:
    name, worst = words(attribute.get("attribute")), words(attribute.get("worst"), "")
    if not worst:
        return f"{name}: fewer than two groups have {FEWEST} rows, so they are not compared."
    return (
        f'{name}: worst for "{worst}", {decimal(attribute.get("gap"))} of {metric_words(attribute.get("figure"))} '
        "behind the best group."
    )
