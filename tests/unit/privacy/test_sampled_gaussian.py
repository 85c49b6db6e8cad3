"""Profiles of sampled Gaussian noise, computed for a whole grid at once, are those of dp-accounting one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism, from_mixture_gaussian_mechanism
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss, MixtureGaussianPrivacyLoss

from fedinfer.privacy.accounting.gaussian import _pld_of_one
from fedinfer.privacy.accounting.sampled import mixture_distribution, mixture_profile, sampled_profile
from fedinfer.types import Relation

CASES = [(0.4, 0.5), (1.0, 0.01), (2.5, 0.5), (10.0, 0.9), (20.0, 1e-4), (0.6, 0.999)]


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize(("noise_multiplier", "rate"), CASES)
def test_the_profile_is_that_of_dp_accounting(noise_multiplier: float, rate: float, adjacency: AdjacencyType) -> None:
    loss = GaussianPrivacyLoss(noise_multiplier, sampling_prob=rate, adjacency_type=adjacency)
    bounds, edge = loss.connect_dots_bounds(), -np.log1p(-rate)
    grid = np.linspace(bounds.epsilon_lower, bounds.epsilon_upper, 300)
    epsilons = np.concatenate(
        [grid, [0.0, edge, -edge, 2 * edge, -2 * edge, 1.0, np.nextafter(1.0, 2.0), 300.0, -300.0]]
    )
    np.testing.assert_allclose(
        sampled_profile(loss, epsilons), loss.get_delta_for_epsilon(epsilons), rtol=0, atol=2e-15
    )


@pytest.mark.parametrize(("noise_multiplier", "rate"), CASES[:3])
def test_distributions_compose_to_the_same_epsilon(noise_multiplier: float, rate: float) -> None:
    ours = _pld_of_one(noise_multiplier, rate, 2.0**-9, Relation.ZERO_OUT).self_compose(7)
    theirs = from_gaussian_mechanism(noise_multiplier, value_discretization_interval=2.0**-9, sampling_prob=rate)
    for delta in (1e-3, 1e-6):
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(
            theirs.self_compose(7).get_epsilon_for_delta(delta), 1e-9
        )


def chances(units: int, rate: float) -> list[float]:
    return [math.comb(units, j) * rate**j * (1 - rate) ** (units - j) for j in range(units + 1)]


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize(("noise_multiplier", "rate", "units"), [(1.1, 0.5, 2), (3.0, 0.1, 3), (8.0, 0.9, 5)])
def test_the_profile_of_a_group_is_that_of_dp_accounting(
    noise_multiplier: float, rate: float, units: int, adjacency: AdjacencyType
) -> None:
    """dp-accounting looks for cutoffs in steps of 1e-6, which lowers or raises a profile by the square of that."""
    drawn = chances(units, rate)
    loss = MixtureGaussianPrivacyLoss(
        noise_multiplier, [float(j) for j in range(units + 1)], drawn, adjacency_type=adjacency
    )
    bounds = loss.connect_dots_bounds()
    epsilons = np.linspace(bounds.epsilon_lower, bounds.epsilon_upper, 100)
    theirs = loss.get_delta_for_epsilon(epsilons)
    np.testing.assert_allclose(mixture_profile(loss, epsilons, noise_multiplier), theirs, rtol=0, atol=2e-12)


def test_distributions_of_groups_compose_to_the_same_epsilon() -> None:
    drawn = chances(2, 0.3)
    ours = mixture_distribution(2.0, drawn, 2.0**-8).self_compose(5)
    theirs = from_mixture_gaussian_mechanism(2.0, [0.0, 1.0, 2.0], drawn, value_discretization_interval=2.0**-8)
    for delta in (1e-3, 1e-6):
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(
            theirs.self_compose(5).get_epsilon_for_delta(delta), 1e-6
        )
