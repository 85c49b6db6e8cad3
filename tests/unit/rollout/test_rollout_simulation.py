"""The study in simulations/, run small."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[3] / "simulations" / "rollout_10k.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("rollout_10k", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_good_model_reaches_everybody(study):
    assert study.row("good", devices=10_000, seeds=3) == {"wrong stops": 0, "held": 0, "share": 1.0}


def test_a_fleet_too_small_for_its_noise_is_held_not_passed(study):
    assert study.row("good", devices=1000, seeds=3) == {"wrong stops": 0, "held": 3, "share": pytest.approx(0.1)}


@pytest.mark.parametrize("model", ["int8 collapse", "slow", "NaN outputs", "biased"])
def test_a_bad_model_is_stopped_in_its_first_wave_and_taken_back_everywhere(study, model):
    assert study.row(model, devices=4000, seeds=3) == {"wrong passes": 0, "held": 0, "share": 0.0}


def test_the_script_stays_short():
    assert len(PATH.read_text().splitlines()) <= 80
