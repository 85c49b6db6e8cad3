"""Drawings of an additive model's functions."""

from fedinfer.report.shapes import shape_charts

NUMBER = {
    "columns": ["hour"], "kind": "number", "at": [0.0, 12.0, 24.0], "values": [[-1.0], [2.0], [0.5]],
    "missing": [0.0], "band": [0.1, 0.2, 0.1],
}  # fmt: skip
LEVELS = {
    "columns": ["day"],
    "kind": "levels",
    "at": ["<Mon>", "missing"],
    "values": [[0.4], [0.0]],
    "band": [0.1, 0.1],
}
PAIR = {"columns": ["hour", "day"], "kind": "pair", "at": [[0, 1], ["a"]], "values": [[1.0], [2.0]], "band": None}
TASK = {"kind": "regression", "label": "load", "unit": "kW", "classes": []}


def test_every_function_is_drawn_with_its_band_and_escaped():
    page = shape_charts({"task": TASK, "shapes": [NUMBER, LEVELS, PAIR]})
    assert page is not None
    assert page.count("<figure>") == 2
    assert page.count("<polyline") == 1
    assert page.count("<polygon") == 1
    assert "in kW" in page
    assert "hour x day" in page
    assert "&lt;Mon&gt;" in page
    assert "<Mon>" not in page
    assert "2 standard deviations" in page


def test_without_a_known_noise_no_band_is_claimed():
    page = shape_charts({"task": TASK, "shapes": [{**NUMBER, "band": None}]})
    assert page is not None
    assert "<polygon" not in page
    assert "standard deviations" not in page


def test_two_classes_speak_of_log_odds():
    page = shape_charts({"task": {"kind": "classification", "classes": ["no", "yes"]}, "shapes": [NUMBER]})
    assert page is not None
    assert "log-odds of yes" in page


def test_other_models_have_no_such_section():
    assert shape_charts({"task": TASK}) is None
    assert shape_charts({"shapes": []}) is None
