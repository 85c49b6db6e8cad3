"""Calibration: the answer fits, and a little less noise does not."""

from __future__ import annotations

import pytest

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.calibration import (
    TOLERANCE,
    calibrate,
    gaussian_events,
)
from fedinfer.privacy.accounting.events import GaussianEvent, Repeated
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.mechanism import NoiseKind, Rounding
from fedinfer.types import Relation
from tests.unit.privacy.gaussians import gaussian_epsilon, gaussian_noise_multiplier

AR, R1 = Relation.ADD_REMOVE, Relation.REPLACE_ONE


@pytest.mark.parametrize("relation", [AR, Relation.ZERO_OUT, R1])
@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds", "rate"),
    [(4.0, 1e-5, 100, 0.01), (0.1, 1e-6, 20, 1.0), (1.0, 1e-5, 1, 1.0), (15.0, 1e-5, 50, 0.2)],
)
def test_round_trip(epsilon: float, delta: float, rounds: int, rate: float, relation: Relation) -> None:
    z = gaussian_noise_multiplier(epsilon, delta, rounds, rate, relation)
    assert gaussian_epsilon(z, delta, rounds, rate, relation).epsilon <= epsilon
    less = gaussian_epsilon(z * (1 - 2 * TOLERANCE), delta, rounds, rate, relation).epsilon
    assert less > epsilon
    assert less == pytest.approx(epsilon, rel=0.01)


def test_rdp_is_a_quick_check_from_above() -> None:
    z = gaussian_noise_multiplier(4.0, 1e-5, 100, 0.01, AR)
    assert 4.0 < rdp_epsilon(gaussian_events(z, 100, 0.01), 1e-5, AR) < 4.0 * 1.4


def test_the_known_value_of_issue_and_research() -> None:
    assert gaussian_epsilon(1.0, 1e-5, 10_000, 0.01, AR).epsilon == pytest.approx(6.188, abs=1e-3)


def test_a_mixed_plan_is_calibrated_as_a_whole() -> None:
    """Training rounds by integer noise, beside windows whose noise is fixed."""

    def events(z: float) -> list[Repeated]:
        mechanism = design(
            kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=500, clipping_norm=0.3,
            noise_multiplier=z, contributors=20, summands=40, units=40, max_loss=0.01,
        )  # fmt: skip
        return [Repeated(mechanism.event(1.0), 10), Repeated(GaussianEvent(40.0), 6)]

    z = calibrate(events, 2.0, 1e-5, AR, (0.1, 1e4))
    assert account(events(z), 1e-5, AR).epsilon <= 2.0
    assert account(events(z * 0.998), 1e-5, AR).epsilon > 2.0
    ideal = calibrate(
        lambda n: [Repeated(GaussianEvent(n), 10), Repeated(GaussianEvent(40.0), 6)], 2.0, 1e-5, AR, (0.1, 1e4)
    )
    assert ideal < z < 1.15 * ideal  # the gap is that of Rényi accounting, plus one percent for integers


def test_the_lowest_of_the_bracket_is_returned_when_it_fits() -> None:
    assert calibrate(lambda z: [GaussianEvent(z)], 5.0, 1e-5, AR, (50.0, 100.0)) == 50.0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_epsilon_must_be_positive(epsilon: float) -> None:
    with pytest.raises(ConfigError):
        gaussian_noise_multiplier(epsilon, 1e-5, 10, 1.0, AR)


def test_an_impossible_target_says_what_it_would_cost() -> None:
    with pytest.raises(ConfigError, match=r"noise multiplier 2 still costs epsilon \d"):
        calibrate(lambda z: [GaussianEvent(z)], 0.01, 1e-5, AR, (1.0, 2.0))


@pytest.mark.parametrize("bracket", [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_the_bracket_must_be_sound(bracket: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must hold 0 < lowest < highest"):
        calibrate(lambda z: [GaussianEvent(z)], 1.0, 1e-5, AR, bracket)


@pytest.mark.parametrize(("rounds", "rate"), [(0, 1.0), (5, 0.0), (5, 1.2)])
def test_bad_plans_are_refused(rounds: int, rate: float) -> None:
    with pytest.raises(ConfigError):
        gaussian_epsilon(1.0, 1e-5, rounds, rate, AR)
