"""What the plan says before anything runs: numbers that work, and warnings about knobs turned too far."""

from __future__ import annotations

import re

import pytest

from fedinfer.config import Scenario, load_scenario
from fedinfer.coordinator.plan.advice import MOST_SECONDS, SAMPLES_PER_SECOND, most_rounds
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import RunPlan, make_plan
from fedinfer.errors import ConfigError
from fedinfer.privacy.mechanism.noise import pieces


def plan(scenario: Scenario, population: Population, engine: str = "test") -> RunPlan:
    return make_plan(scenario, population, engine, ())


def fleet(devices: int, dimension: int = 650) -> Population:
    return Population(devices, 5 * devices, 2, dimension, 10)


HOSPITALS = Population(4, 600, 70, 40, 2)


@pytest.mark.parametrize("devices", [3, 4, 5])
def test_a_budget_that_does_not_reach_names_numbers_that_do(devices: int) -> None:
    with pytest.raises(ConfigError, match="too small") as caught:
        plan(load_scenario("digits"), fleet(devices))
    hint = caught.value.hint
    enough = re.search(r"(\d+) devices", hint)
    rounds = re.search(r"(\d+) rounds in all", hint)
    assert enough is not None
    assert rounds is not None
    plan(load_scenario("digits"), fleet(int(enough[1])))
    with pytest.raises(ConfigError):
        plan(load_scenario("digits"), fleet(int(enough[1]) - 1))
    short = ["drift.max_triggers=0", f"training.rounds={rounds[1]}"]
    plan(load_scenario("digits", short), fleet(devices))
    if epsilon := re.search(r"privacy\.epsilon = ([\d.]+)", hint):
        plan(load_scenario("digits", [f"privacy.epsilon={epsilon[1]}"]), fleet(devices))


def test_rounds_are_searched_without_trying_them_all() -> None:
    tried: list[int] = []

    def cost(rounds: int) -> float:
        tried.append(rounds)
        return rounds * 0.5

    assert most_rounds(cost, 1000, 100.2) == 200
    assert len(tried) <= 10
    assert most_rounds(cost, 1000, 0.1) == 0


def test_drift_that_takes_the_whole_budget_says_what_to_set() -> None:
    shared = ["privacy.unit=device", "privacy.epsilon=20", "drift.epsilon=20"]
    with pytest.raises(ConfigError, match=r"\[drift\] epsilon 20.0 leaves nothing") as caught:
        plan(load_scenario("digits", shared), fleet(200))
    assert "4 for instance" in caught.value.hint


def test_windows_whose_rows_are_not_trained_on_have_the_whole_budget_and_no_more() -> None:
    small = plan(load_scenario("heart", ["privacy.epsilon=0.5"]), HOSPITALS)
    assert 0.45 < small.drift_epsilon <= 0.5
    assert small.planned is not None
    assert small.planned.epsilon <= 0.5


def test_noise_that_no_drift_budget_allows_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"\[drift\] epsilon 1e-05") as caught:
        plan(load_scenario("heart", ["drift.epsilon=0.00001"]), HOSPITALS)
    assert "drift.epsilon" in caught.value.hint


def test_a_model_that_nobody_trained_is_a_warning() -> None:
    assert any(
        "nobody trained" in text for text in plan(load_scenario("heart", ["training.rounds=0"]), HOSPITALS).warnings
    )
    started = plan(load_scenario("digits", ["training.rounds=0"]), fleet(200))
    assert any("trained on public rows" in text for text in started.warnings)


def test_sums_in_the_open_are_a_warning() -> None:
    scenario = load_scenario("heart", ["secure_aggregation.mode=off"])
    assert any("says nothing against this server" in text for text in plan(scenario, HOSPITALS).warnings)
    assert not plan(load_scenario("heart"), HOSPITALS).warnings


@pytest.mark.parametrize(
    ("shares", "more", "warned"),
    [
        ((0.1, 0.9), [], True),
        ((0.1, 0.9), ["training.metric=f1"], True),
        ((0.1, 0.9), ["training.metric=balanced_accuracy"], False),
        ((0.9, 0.1), [], False),
        ((0.3, 0.7), [], False),
    ],
)
def test_figures_of_the_usual_class_are_a_warning(shares: tuple[float, float], more: list[str], warned: bool) -> None:
    stated = ['data.labels=["ill", "well"]', f'training.prior={{"ill" = {shares[0]}, "well" = {shares[1]}}}']
    warnings = plan(load_scenario("heart", [*stated, *more]), HOSPITALS).warnings
    assert any("those of 'well', the last of [data] labels, which 90%" in text for text in warnings) == warned


@pytest.mark.parametrize(("knob", "released"), [("dropout", "31%"), ("late_dropout", "34%")])
def test_more_dropouts_than_planned_are_a_warning_with_the_odds(knob: str, released: str) -> None:
    """Three of four must stay: 4 p^3 (1 - p) + p^4, with 10 % early dropouts in the scenario itself."""
    warnings = plan(load_scenario("heart", [f"fleet.{knob}=0.5"]), HOSPITALS).warnings
    stay = {"dropout": 0.5, "late_dropout": 0.45}[knob]
    odds = 4 * stay**3 * (1 - stay) + stay**4
    (warning,) = (text for text in warnings if "must stay" in text)
    assert f"about {odds:.0%} of the sums" in warning
    assert "3 of 4" in warning


def test_a_ring_too_narrow_for_the_largest_noise_does_not_stop_a_plan_that_needs_less() -> None:
    """The largest useful noise of many rows would need 33 bits; the noise that is wanted fits 30."""
    scenario = load_scenario("heart", ["secure_aggregation.corruption_rate=0.1", "drift.enabled=false"])
    planned = plan(scenario, Population(1000, 200_000, 200, 650, 2))
    assert planned.noise_multiplier < 10
    assert planned.train.mechanism.bits <= 32


def test_noise_that_takes_long_to_draw_is_said_and_hours_are_refused() -> None:
    scenario = load_scenario("heart", ["drift.enabled=false", "secure_aggregation.corruption_rate=0.1"])
    long = plan(load_scenario("heart", ["privacy.epsilon=0.1", "drift.enabled=false"]), Population(4, 800, 200, 300, 2))
    mechanism = long.train.mechanism
    seconds = mechanism.padded * pieces(mechanism.share_variance) / SAMPLES_PER_SECOND
    assert 10 < seconds < MOST_SECONDS
    assert any(f"about {seconds:.3g} s of one core" in text for text in long.warnings)
    with pytest.raises(ConfigError, match="s of one core") as caught:
        plan(scenario, Population(4, 800, 200, 100_000, 2))
    assert "smaller model" in caught.value.hint


def test_devices_of_one_process_draw_their_noise_one_after_another() -> None:
    scenario = load_scenario("heart", ["privacy.epsilon=0.1", "drift.enabled=false"])
    alone = plan(scenario, Population(4, 800, 200, 250, 2), "deployment")
    together = plan(scenario, Population(4, 800, 200, 250, 2), "local")
    assert not alone.warnings
    assert any("on 4 device(s) in a process" in text for text in together.warnings)
