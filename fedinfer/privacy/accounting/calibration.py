"""How much noise for a target, and what a given amount of noise costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.events import Event, GaussianEvent, PoissonSampled, Repeated
from fedinfer.privacy.rounding import at_most, exactly
from fedinfer.types import Relation

TOLERANCE = 1e-4
"""Noise multipliers are found to this relative precision, always from above."""
_BRACKET = (1e-2, 1e5)


def gaussian_events(noise_multiplier: float, rounds: int, sampling_rate: float) -> tuple[Event, ...]:
    """`rounds` Gaussian releases, Poisson-sampled at `sampling_rate` (1: no sampling).

    Args:
        noise_multiplier: z > 0, standard deviation of the noise over the clipping norm.
        rounds: releases, >= 1.
        sampling_rate: of each unit in each release, in (0, 1]; 1 charges no sampling.

    Returns:
        One `Repeated` event.

    Raises:
        ConfigError: a value is out of range.
    """
    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}")
    noise = GaussianEvent(noise_multiplier)
    return (Repeated(noise if sampling_rate == 1 else PoissonSampled(sampling_rate, noise), rounds),)


def calibrate(
    make_events: Callable[[float], Sequence[Event]],
    target_epsilon: float,
    delta: float,
    relation: Relation,
    bracket: tuple[float, float],
) -> float:
    """The least noise multiplier whose events cost at most `target_epsilon`.

    Args:
        make_events: events for a noise multiplier; more noise must not cost more (the search relies on it).
        target_epsilon: > 0.
        delta: in (0, 1).
        relation: neighbouring relation.
        bracket: (lowest, highest) noise multiplier to consider, 0 < lowest < highest, finite.

    Returns:
        A value that was itself accounted and fits, within TOLERANCE (relative) of one that does not, or `lowest`.

    Raises:
        ConfigError: bad arguments, or when even `highest` costs more.
    """
    low, high = bracket
    if not (0 < low < high and math.isfinite(high)):
        raise ConfigError(f"bracket ({low}, {high}) must hold 0 < lowest < highest")
    if not target_epsilon > 0:
        raise ConfigError(f"epsilon must be positive, got {target_epsilon}")

    def quick(z: float) -> float:
        return rdp_epsilon(make_events(z), delta, relation)

    def exact(z: float) -> float:
        return account(make_events(z), delta, relation).epsilon

    most = exact(high)
    if most > target_epsilon:
        raise ConfigError(
            f"noise multiplier {high:g} still costs epsilon {at_most(most, 6)}, target {exactly(target_epsilon)}",
            hint="raise epsilon or delta, or plan fewer rounds",
        )
    if exact(low) <= target_epsilon:
        return low
    # Rényi bounds find a multiplier that surely fits; the costly accountant then searches only a little below it.
    rough = _least(quick, target_epsilon, low, high) if quick(high) <= target_epsilon else high
    below = rough * 0.8
    while below > low and exact(below) <= target_epsilon:
        rough, below = below, below * 0.8
    return _least(exact, target_epsilon, max(low, below), rough)


def _least(epsilon_of: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Shrink (low, high), where epsilon_of(low) > target >= epsilon_of(high), to TOLERANCE; the upper end is returned.

    Epsilon is nearly a power of the noise multiplier, so the ends are moved to just above and just below where a
    straight line between them on logarithmic scales meets the target; every third step halves instead.
    """
    at_low, at_high = epsilon_of(low), epsilon_of(high)
    step = 0
    while high > low * (1 + TOLERANCE):
        step += 1
        guess = math.sqrt(low * high)
        if step % 3 and math.isfinite(at_low) and at_high > 0:
            share = math.log(at_low / target) / math.log(at_low / at_high)
            aside = 1 + (TOLERANCE / 3 if step % 3 == 1 else -TOLERANCE / 3)
            guess = low * (high / low) ** share * aside
            guess = min(max(guess, low * (1 + TOLERANCE / 4)), high * (1 - TOLERANCE / 4))
        at_guess = epsilon_of(guess)
        if at_guess <= target:
            high, at_high = guess, at_guess
        else:
            low, at_low = guess, at_guess
    return high
