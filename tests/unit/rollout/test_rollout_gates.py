import math

import numpy as np
import pytest

from fedinfer.errors import BadMessage, ConfigError
from fedinfer.rollout.gates import (
    Bound,
    Figure,
    Gate,
    GateScope,
    GateSettings,
    GroupFigures,
    Verdict,
    bounds,
    judge,
)

ERROR = Gate("error", Bound.AT_MOST, 0.2, 0.25, 0.0, 1.0, GateScope.FLEET)
AGREEMENT = Gate("agreement", Bound.AT_LEAST, 0.9, 0.8, 0.0, 1.0, GateScope.FLEET)
SHIFT = Gate("shift", Bound.AT_LEAST, -0.05, -0.1, -1.0, 1.0, GateScope.FLEET)
INSTALL = Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE)


def settings(*gates, min_judged=20, evaluations=1):
    return GateSettings(gates, min_judged, 0.01, 0.01, evaluations)


def evaluate_canaries(judged, group="", noise=0.0, **sums):
    return GroupFigures(group, judged, tuple(Figure(name, total, noise) for name, total in sums.items()))


@pytest.mark.parametrize(
    ("gate", "total", "verdict"),
    [
        (ERROR, 100, Verdict.PASS),
        (ERROR, 200, Verdict.HOLD),
        (ERROR, 300, Verdict.FAIL),
        (AGREEMENT, 960, Verdict.PASS),
        (AGREEMENT, 890, Verdict.HOLD),
        (AGREEMENT, 700, Verdict.FAIL),
        (SHIFT, 100, Verdict.PASS),
        (SHIFT, -300, Verdict.FAIL),
    ],
)
def test_clear_figures_decide_and_unclear_ones_hold(gate, total, verdict):
    found = judge(settings(gate), [[evaluate_canaries(1000, **{gate.figure: total})]])
    assert found.verdict is verdict
    assert gate.figure in found.reason


def test_too_few_devices_hold_however_good_or_bad():
    for total in (0, 19):
        found = judge(settings(ERROR), [[evaluate_canaries(19, error=total)]])
        assert found.verdict is Verdict.HOLD
        assert "19 devices judged, 20 needed" in found.reason


def test_too_much_noise_holds():
    assert judge(settings(ERROR), [[evaluate_canaries(1000, error=100)]]).verdict is Verdict.PASS
    assert judge(settings(ERROR), [[evaluate_canaries(1000, noise=80.0, error=100)]]).verdict is Verdict.HOLD


def test_a_missing_figure_holds():
    assert judge(settings(ERROR), []).verdict is Verdict.HOLD
    assert judge(settings(ERROR, AGREEMENT), [[evaluate_canaries(1000, error=10)]]).verdict is Verdict.HOLD
    half = [[evaluate_canaries(500, "a", error=10), evaluate_canaries(500, "b", agreement=500)]]
    assert judge(settings(ERROR), half).verdict is Verdict.HOLD


def test_one_bad_group_fails_a_good_average():
    groups = [evaluate_canaries(900, "hw=a", error=50), evaluate_canaries(100, "hw=b", error=60)]
    found = judge(settings(ERROR), [groups])
    assert found.verdict is Verdict.FAIL
    assert "error of hw=b" in found.reason
    assert judge(settings(ERROR), [[evaluate_canaries(1000, error=110)]]).verdict is Verdict.PASS


def test_looks_average_noise_but_do_not_invent_devices():
    one = [evaluate_canaries(1000, noise=60.0, error=100)]
    assert judge(settings(ERROR, evaluations=8), [one]).verdict is Verdict.HOLD
    assert judge(settings(ERROR, evaluations=8), [one] * 8).verdict is Verdict.PASS
    few = [evaluate_canaries(30, error=4)]
    assert judge(settings(ERROR, evaluations=8), [few] * 8).verdict is Verdict.HOLD


def test_a_statement_about_the_wave_needs_no_sampling_margin():
    assert judge(settings(INSTALL, min_judged=1), [[evaluate_canaries(1, install_failure=0)]]).verdict is Verdict.PASS
    assert judge(settings(INSTALL, min_judged=1), [[evaluate_canaries(4, install_failure=1)]]).verdict is Verdict.FAIL
    assert judge(settings(INSTALL, min_judged=1), [[evaluate_canaries(5, install_failure=1)]]).verdict is Verdict.PASS
    noisy = [[evaluate_canaries(5, noise=2.0, install_failure=0)]]
    assert judge(settings(INSTALL, min_judged=1), noisy).verdict is Verdict.HOLD


def test_an_exact_figure_on_its_limit_is_good_enough():
    half = Gate("agreement", Bound.AT_LEAST, 0.75, 0.5, 0.0, 1.0, GateScope.WAVE)
    for agreement, verdict in ((3, Verdict.PASS), (2, Verdict.HOLD), (1, Verdict.FAIL)):
        assert judge(settings(half, min_judged=4), [[evaluate_canaries(4, agreement=agreement)]]).verdict is verdict


@pytest.mark.parametrize(
    ("share", "devices", "noise"), [(0.2, 100, 0.0), (0.2, 400, 10.0), (0.05, 200, 5.0), (0.5, 50, 8.0)]
)
def test_bounds_cover_the_truth(share, devices, noise):
    rng, z, runs = np.random.default_rng(1), 2.3263, 4000
    totals = rng.binomial(devices, share, runs) + noise * rng.standard_normal(runs)
    found = np.array([bounds(total, devices, noise, devices, z) for total in totals])
    allowed = 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)
    # The score interval is not exact for small counts; half a percent is granted for that.
    assert (found[:, 0] > share).mean() <= allowed + 0.005
    assert (found[:, 1] < share).mean() <= allowed + 0.005


def test_wrong_passes_and_wrong_stops_stay_below_their_rates():
    rng, runs = np.random.default_rng(2), 2000
    rules = GateSettings((ERROR, AGREEMENT), 20, 0.05, 0.05, 1)

    def verdicts(error, agreement):
        found = []
        for _ in range(runs):
            sums = rng.binomial(300, (error, agreement)) + 8.0 * rng.standard_normal(2)
            found.append(judge(rules, [[evaluate_canaries(300, noise=8.0, error=sums[0], agreement=sums[1])]]).verdict)
        return found

    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert verdicts(0.201, 0.99).count(Verdict.PASS) / runs <= limit
    assert verdicts(0.249, 0.801).count(Verdict.FAIL) / runs <= limit
    assert verdicts(0.05, 0.99).count(Verdict.PASS) / runs >= 0.9
    assert verdicts(0.40, 0.97).count(Verdict.FAIL) / runs >= 0.95


def test_looking_again_and_again_does_not_raise_the_rates():
    """The value lies on the limit; a rollout is judged after every look and ends with the first verdict."""
    limit = Gate("error", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE)
    rng, runs, rate = np.random.default_rng(3), 2000, 0.05
    rules = GateSettings((limit,), 20, rate, rate, 8)

    def first_verdict():
        evaluations = []
        for noise in 8.0 * rng.standard_normal(8):
            evaluations.append([evaluate_canaries(100, noise=8.0, error=20.0 + noise)])
            found = judge(rules, evaluations).verdict
            if found is not Verdict.HOLD:
                return found
        return Verdict.HOLD

    verdicts = [first_verdict() for _ in range(runs)]
    most = rate + 3 * math.sqrt(rate * (1 - rate) / runs)
    assert verdicts.count(Verdict.PASS) / runs <= most
    assert verdicts.count(Verdict.FAIL) / runs <= most


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", Bound.AT_MOST, 0.3, 0.2, 0.0, 1.0), ("x", Bound.AT_LEAST, 0.2, 0.3, 0.0, 1.0),
        ("x", Bound.AT_MOST, 0.3, 1.2, 0.0, 1.0), ("x", Bound.AT_MOST, -0.1, 0.2, 0.0, 1.0),
        ("x", Bound.AT_MOST, 1.0, 1.0, 1.0, 1.0), ("x", Bound.AT_MOST, math.nan, 0.2, 0.0, 1.0),
    ],
)  # fmt: skip
def test_gates_that_contradict_themselves_are_refused(arguments):
    with pytest.raises(ConfigError, match="gate x"):
        Gate(*arguments, GateScope.FLEET)


@pytest.mark.parametrize("changes", [(0, 0.01, 0.01, 1), (1, 0.0, 0.01, 1), (1, 0.01, 0.5, 1), (1, 0.01, 0.01, 0)])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError):
        GateSettings((ERROR,), *changes)
    with pytest.raises(ConfigError):
        GateSettings((), 1, 0.01, 0.01, 1)


@pytest.mark.parametrize(("total", "noise"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, -1.0)])
def test_figures_that_are_not_numbers_are_refused(total, noise):
    with pytest.raises(BadMessage):
        GroupFigures("", 10, (Figure("error", total, noise),))
