"""An adversary who knows everything but the noise tries to break each claim on real outputs, and fails.

Two worlds differ in one unit. The adversary sees the sum mod 2^b (and knows the rotation, all other inputs and every
share that is not guaranteed), projects it on the unit's vector, which is the likelihood ratio test for this noise, and
estimates how far P(S) exceeds e^epsilon Q(S). A claim (epsilon, delta) is broken when that is above delta with
confidence. With noise reduced by 30 % below what is claimed it must break.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from fedinfer.coordinator.participation import ParticipationSchedule
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled
from fedinfer.privacy.mechanism.clipping import AdaptiveClipping, clip_rows
from fedinfer.privacy.mechanism.design import design, design_without_noise
from fedinfer.privacy.mechanism.encoding import encode
from fedinfer.privacy.mechanism.matrix_mechanism import Factorization, Participation, square_root_coefficients
from fedinfer.privacy.mechanism.mechanism import (
    IntegerMechanism,
    NoiseKind,
    Rounding,
    decoded_sensitivity,
)
from fedinfer.privacy.mechanism.noise import SimulatedStream, gaussian
from fedinfer.privacy.mechanism.rotation import rotate_back
from fedinfer.privacy.noise_model import Central
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.types import Relation, Unit

TRIALS = 200_000
MANY = 1_000_000  # where the claim is about a rarer event
DELTA = 5e-3
CONFIDENCE = 1 - 1e-6
C, Z, D = 1.0, 1.5, 4
SEED = b"rotation"
TARGET = np.array([[0.9, -0.3, 0.3, 0.1]], np.float32)
TARGET = (TARGET / np.linalg.norm(TARGET) * C).astype(np.float32)
OTHER = np.array([[0.2, 0.4, -0.6, 0.5]], np.float32)


def stream(*names: object) -> SimulatedStream:
    return SimulatedStream(SimulatedEntropy("distinguishing", *map(str, names)))


def bound_on_delta(first: np.ndarray, second: np.ndarray, epsilon: float) -> float:
    """Lower confidence bound on max over threshold sets S of P(S) - e^epsilon Q(S), both orders of the two worlds."""
    return max(_one_way(first, second, epsilon), _one_way(-second, -first, epsilon))


def _one_way(first: np.ndarray, second: np.ndarray, epsilon: float) -> float:
    half = first.size // 2
    # The threshold is chosen on one half and judged on the other, so the bound is honest.
    grid = np.quantile(np.concatenate([first[:half], second[:half]]), np.linspace(0.001, 0.9999, 3000))
    p = 1 - np.searchsorted(np.sort(first[:half]), grid) / half
    q = 1 - np.searchsorted(np.sort(second[:half]), grid) / half
    threshold = grid[np.argmax(p - math.exp(epsilon) * q)]
    hits, misses = int((first[half:] >= threshold).sum()), int((second[half:] >= threshold).sum())
    n = first.size - half
    least = float(beta.ppf(1 - CONFIDENCE, hits, n - hits + 1)) if hits else 0.0
    most = float(beta.ppf(CONFIDENCE, misses + 1, n - misses))
    return least - math.exp(epsilon) * most


def designed(kind: NoiseKind, rounding: Rounding, z: float) -> IntegerMechanism:
    return design(
        kind=kind, rounding=rounding, dimension=D, clipping_norm=C, noise_multiplier=z, contributors=2, summands=3,
        units=3 if rounding is Rounding.CONDITIONAL else 30, max_loss=0.01,
    )  # fmt: skip


def projections(vectors: np.ndarray, mechanism: IntegerMechanism, name: str, direction: np.ndarray) -> np.ndarray:
    """Sums of two honest encodings (the third device is dishonest: its share is known), projected on `direction`."""
    other = np.tile(OTHER, (vectors.shape[0], 1))
    total = np.zeros((vectors.shape[0], mechanism.padded), np.uint64)
    for index, rows in enumerate((vectors, other)):
        total += encode(rows, mechanism, SEED, stream(name, "noise", index), stream(name, "round", index))
    half = 1 << (mechanism.bits - 1)
    centred = ((total.astype(np.int64) + half) & (2 * half - 1)) - half
    whole = centred.astype(np.float64)
    decoded = rotate_back(whole, SEED)[:, : mechanism.dimension] if mechanism.rotated else whole
    return decoded / mechanism.scale @ direction


def worlds(vector: np.ndarray, mechanism: IntegerMechanism, rate: float) -> tuple[np.ndarray, np.ndarray]:
    direction = vector[0].astype(np.float64)
    trials = TRIALS if rate == 1 else MANY
    present = np.tile(vector, (trials, 1))
    if rate < 1:
        present = present * (simulation_rng("sampled").random((trials, 1)) < rate).astype(np.float32)
    absent = np.zeros_like(present)
    return projections(present, mechanism, "with", direction), projections(absent, mechanism, "without", direction)


INTEGER = [
    (NoiseKind.SKELLAM, Rounding.CONDITIONAL, 1.0),
    (NoiseKind.DISCRETE_GAUSSIAN, Rounding.CONDITIONAL, 1.0),
    (NoiseKind.SKELLAM, Rounding.DITHERED, 1.0),
    (NoiseKind.SKELLAM, Rounding.DITHERED, 0.4),
    (NoiseKind.DISCRETE_GAUSSIAN, Rounding.DITHERED, 0.4),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rounding", "rate"), INTEGER)
def test_integer_mechanisms_hold_and_break_with_less_noise(kind: NoiseKind, rounding: Rounding, rate: float) -> None:
    mechanism = designed(kind, rounding, Z)
    relation = Relation.ZERO_OUT if rounding is Rounding.CONDITIONAL else Relation.ADD_REMOVE
    claim = account([mechanism.event(rate)], DELTA, relation).epsilon
    assert 0.3 < claim < 2.2
    assert bound_on_delta(*worlds(TARGET, mechanism, rate), claim) <= DELTA
    weaker = designed(kind, rounding, 0.7 * Z)
    assert bound_on_delta(*worlds(TARGET, weaker, rate), claim) > DELTA


@pytest.mark.slow
@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("kind", [NoiseKind.SKELLAM, NoiseKind.DISCRETE_GAUSSIAN])
@pytest.mark.parametrize("scale", [0.6, 2.5])
def test_very_coarse_integers_are_paid_for(kind: NoiseKind, rounding: Rounding, scale: float) -> None:
    """Rounding moves vectors by as much as their norm here; the claim has to grow with it."""
    mechanism = replace(designed(kind, rounding, Z), scale=scale)
    claim = account([mechanism.event(1.0)], DELTA, Relation.ADD_REMOVE).epsilon
    fine = account([designed(kind, rounding, Z).event(1.0)], DELTA, Relation.ADD_REMOVE).epsilon
    assert claim > 1.1 * fine
    assert bound_on_delta(*worlds(TARGET, mechanism, 1.0), claim) <= DELTA


@pytest.mark.slow
@pytest.mark.parametrize("longer", [3, 50])
def test_a_vector_longer_than_the_clipping_norm_gains_nothing(longer: float) -> None:
    """Fifty times the norm would wrap around the ring, where it is harder to see; three times would not."""
    mechanism = designed(NoiseKind.SKELLAM, Rounding.CONDITIONAL, Z)
    claim = account([mechanism.event(1.0)], DELTA, Relation.ZERO_OUT).epsilon
    assert bound_on_delta(*worlds(TARGET * np.float32(longer), mechanism, 1.0), claim) <= DELTA


def continuous(std: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    direction = TARGET[0].astype(np.float64)
    clipped = clip_rows(np.tile(TARGET * np.float32(3), (MANY, 1)), C)
    if rate < 1:
        clipped = clipped * (simulation_rng("sampled").random((MANY, 1)) < rate)
    noise_with, noise_without = (gaussian(std, (MANY, D), stream("continuous", w)) for w in "ab")
    return (clipped + noise_with) @ direction, noise_without @ direction


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_continuous_noise_holds_and_breaks_with_less_noise(rate: float) -> None:
    event = GaussianEvent(Z) if rate == 1 else PoissonSampled(rate, GaussianEvent(Z))
    spent = account([event], DELTA, Relation.ADD_REMOVE)
    assert spent.accountant == "pld"
    assert bound_on_delta(*continuous(Z * C, rate), spent.epsilon) <= DELTA
    assert bound_on_delta(*continuous(0.7 * Z * C, rate), spent.epsilon) > DELTA
    # This claim is exact, so the test sees much less: 15 % of the noise missing.
    assert bound_on_delta(*continuous(0.85 * Z * C, rate), spent.epsilon) > DELTA


@pytest.mark.slow
@pytest.mark.parametrize(("rounding", "unit"), [(Rounding.CONDITIONAL, Unit.DEVICE), (Rounding.DITHERED, Unit.EXAMPLE)])
def test_central_noise_on_the_decoded_sum_holds_and_breaks_with_less(rounding: Rounding, unit: Unit) -> None:
    mechanism = design_without_noise(
        rounding=rounding, unit=unit, dimension=D, clipping_norm=C, summands=3, units=9, max_loss=0.01
    )
    claim = account([Central(unit).event(mechanism, Z)], DELTA, Relation.ADD_REMOVE).epsilon
    with_unit, without = worlds(TARGET, mechanism, 1.0)
    for factor, broken in ((1.0, False), (0.7, True)):
        std = factor * Z * decoded_sensitivity(mechanism)
        noise_a, noise_b = (gaussian(std, (TRIALS,), stream("central", w)) for w in "ab")
        assert (bound_on_delta(with_unit + noise_a, without + noise_b, claim) > DELTA) is broken


@pytest.mark.slow
def test_a_whole_run_with_correlated_noise_holds_and_breaks_with_less() -> None:
    """All six rounds are seen, as a server releases them; the unit is in three of them, real encodings all.

    The adversary whitens with C and projects on what the unit does to C G, which is the likelihood ratio test.
    """
    mechanism = design_without_noise(
        rounding=Rounding.CONDITIONAL,
        unit=Unit.DEVICE,
        dimension=D,
        clipping_norm=C,
        summands=3,
        units=9,
        max_loss=0.01,
    )
    strategy = Factorization(square_root_coefficients(4), Participation(6, 3, 2))
    z = Z * strategy.sensitivity
    claim = account([strategy.event(z)], DELTA, Relation.ZERO_OUT).epsilon
    assert claim == account([strategy.charge(z, scheduled) for scheduled in range(3)], DELTA, Relation.ZERO_OUT).epsilon
    with_unit, without = worlds(TARGET, mechanism, 1.0)
    asked = np.array([1.0, 0.0] * 3)
    c = np.array([[strategy.coefficients[i - j] if 0 <= i - j < 4 else 0.0 for j in range(6)] for i in range(6)])

    def seen(sums: np.ndarray, std: float, world: str) -> np.ndarray:
        order, released = ParticipationSchedule(strategy, ["unit", "other"], 1, std, TRIALS), []
        for index in range(6):
            scheduled = order.take(stream("transcript", world, index))
            assert scheduled.noise is not None
            released.append((sums if scheduled.cohort == ("unit",) else without) + scheduled.noise)
        return np.asarray((c @ asked) @ (c @ np.array(released)))

    for factor, broken in ((1.0, False), (0.7, True)):
        std = factor * z * decoded_sensitivity(mechanism)
        assert (bound_on_delta(seen(with_unit, std, "a"), seen(without, std, "b"), claim) > DELTA) is broken


@pytest.mark.slow
def test_the_bit_of_adaptive_clipping_is_paid_for() -> None:
    """The longer vector (update and bit) goes through one mechanism whose norm includes the bit."""
    rule = AdaptiveClipping(quantile=0.5, rate=0.2, weight=0.5)

    def run(z: float, claim: float) -> float:
        mechanism = design(
            kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=D, clipping_norm=rule.bound,
            noise_multiplier=z, contributors=2, summands=3, units=3, max_loss=0.01,
        )  # fmt: skip
        vector = rule.prepare(TARGET[:, : D - 1], C * 0.99)
        return bound_on_delta(*worlds(vector, mechanism, 1.0), claim)

    mechanism = design(
        kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=D, clipping_norm=rule.bound,
        noise_multiplier=Z, contributors=2, summands=3, units=3, max_loss=0.01,
    )  # fmt: skip
    claim = account([mechanism.event(1.0)], DELTA, Relation.ZERO_OUT).epsilon
    assert run(Z, claim) <= DELTA
    assert run(0.7 * Z, claim) > DELTA


@pytest.mark.slow
def test_the_adversary_is_no_straw_man() -> None:
    """On plain Gaussian worlds its bound comes close to the exact profile."""
    from scipy.stats import norm

    claim = 1.0
    exact = norm.cdf(0.5 / Z - claim * Z) - math.exp(claim) * norm.cdf(-0.5 / Z - claim * Z)
    rng: Callable[..., np.ndarray] = simulation_rng("straw").normal
    found = bound_on_delta(rng(1.0, Z, 1_000_000), rng(0.0, Z, 1_000_000), claim)
    assert 0.75 * exact < found <= exact
