"""Privacy-loss distributions of Gaussian noise on Poisson samples: those of dp-accounting, from arrays.

dp-accounting computes a profile at one point of a grid after the other, which took a third of a planned run. Here
the profile is one expression over the grid; how it becomes a pessimistic distribution stays with dp-accounting
(connect-the-dots, Doroshenko et al. 2022).

The outputs at which the privacy loss is at least epsilon lie on one side of a cutoff, so a profile is the difference of
two distribution functions there. It is largest at the cutoff, so an error of the cutoff changes it by its square only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
_HALVINGS = 60
"""Of an interval for a cutoff, down to the last bits of a double."""


def sampled_distribution(noise_multiplier: float, rate: float, step: float) -> Any:
    """As `from_gaussian_mechanism` of dp-accounting, one unit added or removed.

    Args:
        noise_multiplier: z > 0.
        rate: of the sample, in (0, 1).
        step: of the grid of privacy losses, > 0.
    """
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    return _both_ways(
        lambda way: GaussianPrivacyLoss(noise_multiplier, sampling_prob=rate, adjacency_type=way), sampled_profile, step
    )


def mixture_distribution(noise_multiplier: float, chances: list[float], step: float) -> Any:
    """As `from_mixture_gaussian_mechanism` of dp-accounting, for a group of units some of which are in the sample.

    Args:
        noise_multiplier: z > 0, of one unit.
        chances: that 0, 1, ..., k units are in it, each > 0; they add up to 1.
        step: of the grid of privacy losses, > 0.
    """
    from dp_accounting.pld.privacy_loss_mechanism import MixtureGaussianPrivacyLoss

    units = [float(count) for count in range(len(chances))]
    return _both_ways(
        lambda way: MixtureGaussianPrivacyLoss(noise_multiplier, units, chances, adjacency_type=way),
        lambda loss, epsilons: mixture_profile(loss, epsilons, noise_multiplier),
        step,
    )


def _both_ways(make: Callable[[Any], Any], profile: Callable[[Any, Floats], Floats], step: float) -> Any:
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType

    def one_way(adjacency: AdjacencyType) -> Any:
        loss = make(adjacency)
        bounds = loss.connect_dots_bounds()
        low, high = math.floor(bounds.epsilon_lower / step), math.ceil(bounds.epsilon_upper / step)
        return create_pmf_pessimistic_connect_dots_fixed_gap(
            step, low, high, profile(loss, np.arange(low, high + 1) * step)
        )

    return PrivacyLossDistribution(one_way(AdjacencyType.REMOVE), one_way(AdjacencyType.ADD))


def sampled_profile(loss: Any, epsilons: Floats) -> Floats:
    """Hockey-stick divergences of a Gaussian mechanism on a Poisson sample (Zhu, Dong and Wang 2022, Theorem 11).

    Args:
        loss: a `GaussianPrivacyLoss` of dp-accounting with sensitivity 1 and adjacency ADD or REMOVE.
        epsilons: (n,) any numbers.

    Returns:
        (n,) in [0, 1].
    """
    removed = _is_removal(loss)
    whole = _without_sampling(epsilons if removed else -epsilons, loss.sampling_prob) * loss.standard_deviation**2
    return _profile(loss, epsilons, -0.5 - whole if removed else 0.5 + whole)


def mixture_profile(loss: Any, epsilons: Floats, noise_multiplier: float) -> Floats:
    """Hockey-stick divergences of a Gaussian mechanism whose sum moves by 0, 1, ..., k units by chance.

    With noise of standard deviation z the loss at output x is log sum_j p_j exp(j t - j^2 / (2 z^2)), t = -x / z^2 (one
    way; the other way both change their sign). It grows with t. Moving all the chance of j > 0 to one j gives the
    ends of an interval for t, which is halved.

    Args:
        loss: a `MixtureGaussianPrivacyLoss` of dp-accounting with sensitivities 0, 1, ..., k.
        epsilons: (n,) ascending.
        noise_multiplier: z.

    Returns:
        (n,) in [0, 1], not ascending.
    """
    removed, variance = _is_removal(loss), noise_multiplier**2
    wanted = epsilons if removed else -epsilons
    none, *some = loss.sampling_probs
    units = np.arange(1, len(some) + 1)
    by_unit = _without_sampling(wanted, 1 - none)[:, None] / units + units / (2 * variance)
    low, high = by_unit.min(axis=1), by_unit.max(axis=1)
    offsets = np.log(some) - units**2 / (2 * variance)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        moved = np.logaddexp.reduce(middle[:, None] * units + offsets, axis=1)
        above = np.logaddexp(math.log(none), moved) > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    found = _profile(loss, epsilons, (-high if removed else high) * variance)
    falling: Floats = np.maximum.accumulate(found[::-1])[::-1]
    return falling


def _is_removal(loss: Any) -> bool:
    return bool(loss.adjacency_type.name == "REMOVE")


def _profile(loss: Any, epsilons: Floats, cutoffs: Floats) -> Floats:
    deltas = loss.mu_upper_cdf(cutoffs) - np.exp(epsilons + loss.mu_lower_log_cdf(cutoffs))
    inside: Floats = np.clip(deltas, 0.0, 1.0)
    return inside


def _without_sampling(losses: Floats, rate: float) -> Floats:
    """log(1 + (exp(loss) - 1) / rate), minus infinity below what a sample can lose."""
    with np.errstate(divide="ignore"):
        small = np.log1p(np.maximum(np.expm1(np.minimum(losses, 1.0)) / rate, -1.0))
    large = losses - math.log(rate) + np.log1p(-(1 - rate) * np.exp(-np.maximum(losses, 1.0)))
    return np.where(losses > 1.0, large, small)
