"""Means, intervals, recommendations, and what looking costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedinfer.report import honest
from fedinfer.sweeps import Wish
from fedinfer.sweeps.advice import advise, looking
from fedinfer.sweeps.figures import FIGURES, fairness_of
from fedinfer.sweeps.statistics import SweepSetting, interval_of, settings_of

NAMES = ("epsilon", "unit", "trust")


def rows(epsilon: float, trust: str, utilities: list[float], unit: str = "example", **more: object) -> list[dict]:
    base = dict.fromkeys(FIGURES)
    return [
        base
        | {"epsilon": epsilon, "unit": unit, "trust": trust, "status": "completed", "utility": value, "delta": 1e-5}
        | {"epsilon_spent": epsilon, "key": f"{epsilon}-{trust}-{unit}-{place}"}
        | more
        for place, value in enumerate(utilities)
    ]


def found(*groups: list[dict]) -> tuple[SweepSetting, ...]:
    return settings_of([row for group in groups for row in group], NAMES)


def test_the_interval_is_students() -> None:
    values = [0.81, 0.84, 0.80, 0.86, 0.83]
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    interval = interval_of(values)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval_of([0.5]).error == 0.0


def test_refused_cells_do_not_count_and_say_why() -> None:
    (setting,) = found([*rows(1.0, "local", [0.7, 0.8]), *rows(1.0, "local", [None], status="refused", reason="no")])
    assert (setting.runs, setting.asked, setting.reasons) == (2, 3, ("no",))
    assert setting.utility is not None
    assert setting.utility.mean == pytest.approx(0.75)


def test_for_a_budget_what_is_as_good_and_trusts_less_is_recommended() -> None:
    settings = found(
        rows(1.0, "central", [0.83, 0.85, 0.84]), rows(2.0, "central", [0.84, 0.86, 0.85]),
        rows(2.0, "local", [0.60, 0.61, 0.62]), rows(1.0, "distributed", [0.83, 0.84, 0.84]),
        rows(8.0, "central", [0.90, 0.90, 0.90]),
    )  # fmt: skip
    (advice,) = advise(settings, Wish(epsilon=2.0), higher_is_better=True)
    assert advice.setting is not None
    assert (advice.setting.settings["trust"], advice.setting.settings["epsilon"]) == ("distributed", 1.0)
    assert "epsilon 2.0, trust central" in advice.reason


def test_for_a_target_the_whole_interval_has_to_reach_it() -> None:
    settings = found(rows(1.0, "central", [0.80, 0.90]), rows(2.0, "central", [0.86, 0.861]))
    (advice,) = advise(settings, Wish(utility=0.84), higher_is_better=True)
    assert advice.setting is not None
    assert advice.setting.settings["epsilon"] == 2.0  # the mean at 1 is above 0.84, but nobody can be sure
    (none,) = advise(settings, Wish(utility=0.95), higher_is_better=True)
    assert none.setting is None
    assert "No setting surely reaches 0.95" in none.reason


def test_errors_are_better_when_they_are_smaller() -> None:
    settings = found(rows(1.0, "central", [9.0, 9.1, 9.0]), rows(2.0, "central", [5.0, 5.1, 5.0]))
    (advice,) = advise(settings, Wish(), higher_is_better=False)
    assert advice.setting is not None
    assert advice.setting.settings["epsilon"] == 2.0
    (target,) = advise(settings, Wish(utility=10.0), higher_is_better=False)
    assert target.setting is not None
    assert target.setting.settings["epsilon"] == 1.0


def test_units_are_never_compared_and_no_privacy_is_never_recommended() -> None:
    settings = found(
        rows(1.0, "central", [0.7, 0.7]), rows(1.0, "central", [0.6, 0.6], unit="device"),
        rows(math.inf, "central", [0.9, 0.9]),
    )  # fmt: skip
    assert [(a.unit, a.setting and a.setting.settings["epsilon"]) for a in advise(settings, Wish(), True)] == [
        ("example", 1.0),
        ("device", 1.0),
    ]


def test_a_setting_that_a_constant_answer_equals_is_not_praised() -> None:
    useless = found(rows(1.0, "central", [0.54, 0.58, 0.56], constant_utility=0.55))
    (advice,) = advise(useless, Wish(), higher_is_better=True)
    assert "not surely better than one constant answer, which has 0.55" in advice.reason
    useful = found(rows(1.0, "central", [0.80, 0.81, 0.80], constant_utility=0.55))
    assert "constant" not in advise(useful, Wish(), higher_is_better=True)[0].reason


def test_looking_at_all_runs_costs_their_sum_and_shared_runs_count_once() -> None:
    private = rows(1.0, "central", [0.7, 0.8])
    shared = [row | {"epsilon_spent": math.inf, "key": "same"} for row in rows(math.inf, "local", [0.9, 0.9])]
    cost = looking([*private, *shared], "own")
    assert cost["epsilon"] == {"example": 2.0}
    assert cost["delta"] == {"example": pytest.approx(2e-5)}
    assert (cost["runs"], cost["unprotected"]) == (3, 1)
    said = " ".join(honest({"looking": cost}))
    assert "epsilon 2 at delta 2e-5 for unit example" in said
    assert "1 run without privacy protected nobody" in said
    assert "costs nobody privacy" in " ".join(honest({"looking": looking(private, "public"), "rows": "public"}))


def test_the_worst_group_is_of_the_first_attribute_and_small_ones_are_left_out() -> None:
    def part(name: str, count: int, value: float) -> dict:
        return {"name": name, "rows": count, "value": value}

    devices = [part("A", 100, 0.9), part("B", 50, 0.7), part("C", 5, 0.1)]
    worst = fairness_of({"devices": devices, "groups": []}, True)
    assert worst == {
        "worst_group": 0.7,
        "worst_group_name": "B",
        "group_gap": pytest.approx(0.2),
        "groups": "devices",
    }
    assert fairness_of({"devices": devices}, False)["worst_group_name"] == "A"
    groups = [{"attribute": "sex", "groups": [part("f", 40, 0.6), part("m", 60, 0.8)]}]
    assert fairness_of({"devices": devices, "groups": groups}, True)["groups"] == "sex"
    assert fairness_of({}, True)["worst_group"] is None
