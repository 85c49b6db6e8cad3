"""Figures of a regression per device, and its errors along its answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import root_mean_squared_error

from fedinfer.metrics import Metric, part_of_numbers, residuals

RNG = np.random.default_rng(2)
SAID = RNG.uniform(0, 10, 503)
TRUE = SAID + 0.2 * (SAID - 5) ** 2 + RNG.normal(0, 0.5, 503)


def test_figures_of_a_device_are_those_of_scikit_learn() -> None:
    found = part_of_numbers("d1", Metric.MAE, SAID[:50], TRUE[:50])
    assert (found["name"], found["rows"]) == ("d1", 50)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(TRUE[:50], SAID[:50]))
    assert found["value"] == pytest.approx(np.abs(SAID[:50] - TRUE[:50]).mean())
    assert found["bias"] == pytest.approx((SAID[:50] - TRUE[:50]).mean())


def test_errors_along_the_answers_show_what_the_model_does_not_know() -> None:
    parts = residuals(SAID, TRUE)
    assert [part["rows"] for part in parts] == [51, 51, 51] + [50] * 7
    assert [part["predicted"] for part in parts] == sorted(part["predicted"] for part in parts)
    middles = [part["middle"] for part in parts]
    assert middles[0] > 3.0 < middles[-1]
    assert abs(middles[5]) < 0.5
    starts, order, errors = np.cumsum([0, *(part["rows"] for part in parts[:-1])]), np.argsort(SAID), TRUE - SAID
    of_parts = [errors[order[start : start + part["rows"]]] for part, start in zip(parts, starts, strict=True)]
    ranges = zip(parts, of_parts, strict=True)
    inside = sum(((own >= part["low"]) & (own <= part["high"])).sum() for part, own in ranges)
    assert inside / len(SAID) == pytest.approx(0.9, abs=0.03)


def test_few_rows_are_as_many_parts() -> None:
    assert [part["rows"] for part in residuals(np.array([3.0, 1.0]), np.array([1.0, 1.0]))] == [1, 1]
