from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.report.statement import guess_bound, is_private, statement
from tests.unit.report import sample_runs


def _texts(run: dict[str, object]) -> dict[str, str]:
    return {item.component: f"{item.value}\n{item.meaning}" for item in statement(run)}


def test_the_components_of_nist_sp_800_226_are_there_in_order() -> None:
    run, _ = sample_runs.heart()
    assert [item.component for item in statement(run)] == [
        "Guarantee", "Unit of privacy", "Mechanism", "Evidence", "Composition", "Utility and bias", "Trust model",
        "Against whom", "Security", "Data collection",
    ]  # fmt: skip


def test_the_statement_of_the_run_is_put_into_words() -> None:
    run, _ = sample_runs.heart()
    texts = _texts(run)
    assert "at most 0.999993 over the whole run" in texts["Guarantee"]
    assert "a row of training: 0.999993, a row of a window: 0.9" in texts["Guarantee"]
    assert "Several rows together at the same delta, over the whole run: 2 rows: 2.16." in texts["Unit of privacy"]
    assert "7 drift reports (epsilon 0.9 by themselves)" in texts["Mechanism"]
    assert "2 canary evaluations of new models by each device (epsilon 0.2)" in texts["Mechanism"]
    assert "1 earlier run in this ledger, epsilon 1.5 together with this one" in texts["Composition"]
    assert "keeps the best one has used all of them" in texts["Composition"]
    assert "the server and 1 corrupt device of a sum, 2 honest shares of noise counted on" in texts["Against whom"]
    assert "1 more: 1.48, 2 more: no bound" in texts["Against whom"]
    assert "over at least 3 devices, 2 once 1 corrupt one took its own part off" in texts["Against whom"]
    assert "With 1 corrupt on its side the server could read the sum over" in texts["Security"]
    assert "Nobody confirmed that ranges and categories are public" in texts["Data collection"]
    run["statement"] |= {"label_bits": 8, "confirmed": True, "corrupt": 0}
    texts = _texts(run)
    assert "at most 8 times in its life" in texts["Data collection"]
    assert "Nobody confirmed" not in texts["Data collection"]
    assert "a deployment refuses that" in texts["Against whom"]


@pytest.mark.parametrize(("trust", "said"), [("local", "nobody else has to be honest"), ("central", "but the server")])
def test_against_whom_noise_stands_that_is_not_shared(trust: str, said: str) -> None:
    run, _ = sample_runs.heart()
    run["statement"] |= {"trust": trust}
    assert said in _texts(run)["Against whom"]


def test_a_record_of_an_older_release_leaves_out_what_it_did_not_say() -> None:
    run, _ = sample_runs.heart()
    del run["statement"]
    texts = _texts(run)
    assert "Composition" not in texts
    assert "Against whom" not in texts
    assert "over the whole run" not in texts["Guarantee"]


def test_epsilon_stands_with_delta_budget_unit_relation_accountant_and_sampling() -> None:
    run, _ = sample_runs.heart()
    texts = _texts(run)
    assert "epsilon 0.943 at delta 1e-5, budget 1" in texts["Guarantee"]
    assert "2.57 times as likely" in texts["Guarantee"]
    assert "72 times in 100" in texts["Guarantee"]
    assert "unit example, neighbours by zero-out-one" in texts["Unit of privacy"]
    assert "How many rows each device holds is not hidden" in texts["Unit of privacy"]
    assert "k times epsilon" not in texts["Unit of privacy"], "at the same delta it is more than that"
    assert "accountant rdp, sampling poisson" in texts["Evidence"]


def test_a_large_epsilon_is_called_weak_and_never_rounded_down() -> None:
    run, _ = sample_runs.digits()
    text = _texts(run)["Guarantee"]
    assert "2\u202f039 times as likely" in text  # e^7.62 = 2038.6
    assert "at most 99.96 times in 100" in text  # 0.999510
    assert "says little" in text


@pytest.mark.parametrize("epsilon", ["inf", None, "nan"])
def test_no_finite_epsilon_is_called_no_privacy(epsilon: object) -> None:
    run, _ = sample_runs.heart()
    run["privacy"]["epsilon"] = epsilon
    assert not is_private(run["privacy"])
    assert "no differential privacy" in _texts(run)["Guarantee"]


def test_unit_none_is_called_no_privacy_whatever_epsilon_says() -> None:
    run, _ = sample_runs.heart()
    run["privacy"] |= {"unit": "none", "epsilon": 0.1}
    texts = _texts(run)
    assert "no differential privacy" in texts["Guarantee"]
    assert "No unit is protected" in texts["Unit of privacy"]


@pytest.mark.parametrize(
    ("trust", "said"),
    [("local", "Nobody is trusted"), ("distributed", "not trusted to add noise"), ("central", "The server is trusted")],
)
def test_who_is_trusted(trust: str, said: str) -> None:
    run, _ = sample_runs.heart()
    run["privacy"]["trust"] = trust
    assert said in _texts(run)["Trust model"]


def test_correlated_noise_is_named() -> None:
    run, _ = sample_runs.heart()
    assert "rounds before it" not in _texts(run)["Mechanism"]
    run["privacy"] |= {"trust": "central", "correlation": {"kind": "banded"}}
    assert "takes away part of the noise of rounds before it" in _texts(run)["Mechanism"]


@pytest.mark.parametrize(
    ("mode", "said"), [("protocol", "no single update"), ("ideal", "without masks"), ("off", "UNSAFE")]
)
def test_how_updates_were_summed(mode: str, said: str) -> None:
    run, _ = sample_runs.heart()
    run["secure_aggregation"]["mode"] = mode
    assert said in _texts(run)["Security"]


def test_a_simulation_says_that_its_seed_undoes_the_noise() -> None:
    run, _ = sample_runs.heart()
    assert "whoever has the seed can undo" in _texts(run)["Security"]
    run["engine"] = "deployment"
    assert "seed" not in _texts(run)["Security"]


def test_an_audit_stands_beside_the_claim() -> None:
    run, _ = sample_runs.heart()
    run["privacy"]["audit"] = {"method": "one-run", "lower_bound": 0.21, "confidence": 0.95}
    assert "epsilon is at least 0.21 (confidence 0.95)" in _texts(run)["Evidence"]


@given(st.floats(0, 800), st.floats(0, 1))
def test_the_guess_bound_is_a_chance_and_grows_with_epsilon(epsilon: float, delta: float) -> None:
    bound = guess_bound(epsilon, delta)
    assert 0.5 <= bound <= 1.0
    assert bound <= guess_bound(epsilon + 0.1, delta) + 1e-15


def test_the_guess_bound_is_met_by_randomised_response() -> None:
    """Randomised response at epsilon tells the truth with chance e^eps / (1 + e^eps): the bound is tight there."""
    for epsilon in (0.0, 0.5, 1.0, 4.0):
        truth = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert guess_bound(epsilon, 0.0) == pytest.approx(truth)
    assert guess_bound(0.0, 0.1) == pytest.approx(0.55)
    assert guess_bound(math.inf, 0.0) == 1.0


def test_a_norm_that_adapts_is_called_so() -> None:
    run, _ = sample_runs.digits()
    fixed = _texts(run)["Mechanism"]
    adaptive = _texts({**run, "privacy": {**run["privacy"], "clipping": "adaptive"}})["Mechanism"]
    assert "at first" not in fixed
    assert "clipping norm 1 at first, noise multiplier" in adaptive
    assert "follows a quantile of the devices' norms" in adaptive
