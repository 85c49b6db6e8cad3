"""The part of the report that says what a model is worth, and the sentences that the terminal shows too."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedinfer.report.page import render
from fedinfer.report.quality_charts import Row, loss_chart, rows_chart, spread_chart
from fedinfer.report.reading import RunFiles
from fedinfer.report.verdict import found_classes, plural, verdict
from tests.unit.report import sample_runs


def page(make: Any) -> str:
    run, events = make()
    return render(RunFiles(run, tuple(events), {}, ()))


def test_a_useless_model_is_called_so_before_anything_else() -> None:
    text = page(sample_runs.rare)
    short = text[text.index("In short") :]
    first = re.findall(r"<p>(.*?)</p>", short)[0]
    assert first.startswith("No better than always answering &quot;no&quot;")
    assert "right in 99 of 100" not in text


def test_every_drawing_and_table_is_there() -> None:
    text = page(sample_runs.heart)
    for wanted in ("ROC curve", "Precision and recall", "Reliability", "Loss per round", "Accuracy per device",
                   "Confusion matrix", "One row per class", "Accuracy by sex",
                   "is answered from a probability of 0.400",
                   "without noise, has accuracy 0.860"):  # fmt: skip
        assert wanted in text, wanted


def test_a_run_that_was_not_judged_has_no_such_section() -> None:
    assert "What the model is worth" not in page(sample_runs.aborted)


def test_an_axis_that_is_cropped_says_so() -> None:
    text = page(sample_runs.heart)
    assert "(0 to 1)" not in text
    assert re.search(r"Accuracy \(axis from 0\.\d+ to 0\.\d+\)", text)
    assert "Loss (axis from" in loss_chart([("1", 0.5), ("2", 0.4)], 300.0)


@pytest.mark.parametrize(
    ("number", "words"), [(0, "no alarms"), (1, "1 alarm"), (2, "2 alarms"), (1200, "1,200 alarms")]
)
def test_plurals_are_real(number: int, words: str) -> None:
    assert plural(number, "alarm") == words


def test_the_rarer_class_of_two_and_the_worst_of_many_are_named() -> None:
    two = {"judgement": {"labels": ["no", "yes"], "confusion": [[80, 10], [4, 6]]}}
    assert found_classes(two) == (
        'Finds 6 of 10 rows of "yes" (recall 0.600); of its 16 answers "yes" 6 are right (precision 0.375).'
    )
    many = {"judgement": {"labels": ["a", "b", "c"], "confusion": [[9, 1, 0], [5, 5, 0], [0, 0, 10]]}}
    assert '"b", the class that is found worst (recall 0.500)' in found_classes(many)


@pytest.mark.parametrize("damage", [{"confusion": [["x", 1], [1, 2]]}, {"labels": "ab"}, {"confusion": None}, {}])
def test_damaged_figures_say_nothing(damage: dict[str, Any]) -> None:
    assert found_classes({"judgement": {"labels": ["a", "b"], "confusion": [[1]]} | damage}) == ""
    assert isinstance(verdict({"judgement": damage}), str)


def test_the_interval_of_few_rows_is_wide_and_known() -> None:
    low, high = Row("d", 0.9, 10).interval
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)  # Wilson, as statsmodels gives it
    assert Row("d", 1.0, 5).interval[1] == pytest.approx(1.0)


def test_names_of_devices_are_escaped_and_shortened() -> None:
    drawn = rows_chart("Accuracy", [Row("<b>a very long name of a device", 0.5, 20), Row("b", 0.7, 3)], 326.0)
    assert "<b>" not in drawn
    assert "\u2026" in drawn
    assert "3 devices" in spread_chart("Accuracy", [Row(str(n), n / 3, 9) for n in range(3)], 326.0)


def regression(**changes: Any) -> tuple[dict[str, Any], list[Any]]:
    run, events = sample_runs.heart()
    parts = [{"rows": 50, "predicted": 10.0 * n, "low": -3.0, "middle": n - 2.0, "high": 4.0} for n in range(5)]
    devices = [{"name": f"d{n}", "rows": 40, "value": 2.0 + n, "rmse": 2.0 + n, "bias": -0.5} for n in range(3)]
    judged = {
        "version": 1, "on": "held-out rows", "simulation_knowledge": True, "metric": "rmse", "rows": 250, "value": 3.0,
        "interval": [2.5, 3.5], "better": True, "baseline": {"answer": 20.0, "value": 9.0, "scores": {"rmse": 9.0}},
        "scores": {"rmse": 3.0}, "devices": devices, "residuals": parts,
    }  # fmt: skip
    task = {"kind": "regression", "metric": "rmse", "why": "the label is a number", "label": "weight", "unit": "kg"}
    return {**run, "task": task, "judgement": {**judged, **changes}}, events


def test_a_regression_shows_its_devices_and_where_its_answers_are_off() -> None:
    text = page(regression)
    assert "Root mean squared error is 4.000 on the worst device (d2) and 2.000 on the best (d0)." in text
    assert "Error per device" in text
    assert "Label minus answer in kg" in text
    assert "Median of label minus answer: -2 at 0, -1 at 10, 0 at 20, 1 at 30, 2 at 40." in text
    assert "answer: weight" in text


def test_a_damaged_record_of_a_regression_is_left_out() -> None:
    damaged = [{"rows": 1, "predicted": None, "low": 1, "middle": 1, "high": 1}, {"rows": "x"}, 3]
    text = page(lambda: regression(residuals=damaged, devices=[{"name": "d0", "rmse": "no"}, 7]))
    assert "Label minus answer" not in text
    assert "Error per device" not in text
