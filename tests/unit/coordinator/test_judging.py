"""By what a run judges, which rows belong to which group, and what a record of a judgement holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import parse_scenario
from fedinfer.coordinator.judging import judgement_basis, members
from fedinfer.data.checks import check_judging
from fedinfer.errors import ConfigError
from fedinfer.metrics import Metric
from fedinfer.schema import Categorical, Numeric, Schema

SCHEMA = Schema((Numeric("age", 0.0, 80.0), Categorical("sex", ("F", "M"))), "ill", ("no", "yes"))


def scenario(text: str = ""):
    return parse_scenario(f'[scenario]\nname = "x"\n{text}', Path(), "test")


def rows(positives: int, total: int = 100) -> tuple[np.ndarray, np.ndarray]:
    y = np.zeros(total, np.int64)
    y[:positives] = 1
    return np.zeros((total, 2), np.float32), y


@pytest.mark.parametrize(
    ("text", "positives", "metric"),
    [
        ("", 2, Metric.AVERAGE_PRECISION),
        ("", 50, Metric.ACCURACY),
        ('[training]\nmetric = "auc"', 50, Metric.AUC),
        ("[training.prior]\nno = 0.97\nyes = 0.03", 50, Metric.AVERAGE_PRECISION),
        ("[training.prior]\nno = 0.5\nyes = 0.5", 2, Metric.ACCURACY),
    ],
)
def test_the_figure_is_asked_for_stated_or_seen(text: str, positives: int, metric: Metric) -> None:
    assert judgement_basis(scenario(text), SCHEMA, rows(positives)).metric is metric


def test_a_server_without_rows_says_so() -> None:
    found = judgement_basis(scenario(), SCHEMA, rows(0, 0))
    assert (found.metric, "no labelled rows" in found.why) == (Metric.ACCURACY, True)


def test_groups_of_a_category_and_of_a_number() -> None:
    x = np.array([[5, 0], [20, 1], [79, 1], [np.nan, np.nan], [80, 0]], np.float32)
    sex, age = members(SCHEMA, "sex", x), members(SCHEMA, "age", x)
    assert {name: found.nonzero()[0].tolist() for name, found in sex.items()} == {
        "F": [0, 4], "M": [1, 2], "missing": [3],
    }  # fmt: skip
    assert {name: found.nonzero()[0].tolist() for name, found in age.items()} == {
        "0 to 20": [0], "20 to 40": [1], "40 to 60": [], "60 to 80": [2, 4], "missing": [3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[training]\nmetric = "rmse"', "a class"),
        ('[training]\nthreshold = "public"', "do not hold both classes"),
        ("[training.prior]\nno = 0.5\nmaybe = 0.5", "prior names"),
        ('[report]\ngroups = ["race"]', "'race' is no input column"),
    ],
)
def test_what_does_not_fit_the_table_is_refused_before_a_run(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_judging(scenario(text), SCHEMA, np.zeros(5, np.int64))


def test_a_threshold_is_for_two_classes() -> None:
    three = Schema(SCHEMA.columns, "ill", ("a", "b", "c"))
    with pytest.raises(ConfigError, match="3 classes"):
        check_judging(scenario("[training]\nthreshold = 0.2"), three, np.zeros(5, np.int64))
    check_judging(scenario('[training]\nthreshold = "public"'), SCHEMA, np.array([0, 1]))


@pytest.mark.parametrize(
    "text",
    ["[training]\nthreshold = 1.0", '[training]\nthreshold = "best"', '[training]\nmetric = "gini"',
     "[training.prior]\nno = 0.5\nyes = 0.6"],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        scenario(text)
