"""Correlated noise: sensitivity against every pattern, noise against the matrix, error against independent noise."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.config import Correlation
from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.mechanism.matrix_mechanism import (
    Factorization,
    Participation,
    buffered_linear,
    factorize,
    next_noise,
    square_root_coefficients,
    start_noise,
)
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.privacy.mechanism.strategy_search import loss_of
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.types import Relation


def matrix(factorization: Factorization) -> np.ndarray:
    n = factorization.participation.rounds
    c = np.zeros(n)
    c[: len(factorization.coefficients[:n])] = factorization.coefficients[:n]
    return np.array([[c[i - j] if i >= j else 0.0 for j in range(n)] for i in range(n)])


def stream(name: str) -> SimulatedStream:
    return SimulatedStream(SimulatedEntropy("factorization", name))


def test_square_root_of_the_prefix_sum() -> None:
    full = matrix(Factorization(square_root_coefficients(40), Participation(40, 1, 1)))
    assert np.allclose(full @ full, np.tril(np.ones((40, 40))))


@pytest.mark.parametrize("bands", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(("limit", "separation"), [(1, 1), (2, 3), (3, 2), (4, 1), (9, 4), (3, 9)])
def test_no_pattern_and_no_vectors_exceed_the_sensitivity(bands: int, limit: int, separation: int) -> None:
    """Every allowed set of rounds, with random vectors and with signs: ||C g|| over norm-1 rows."""
    pattern = Participation(9, limit, separation)
    factorization = Factorization(square_root_coefficients(bands), pattern)
    c, rng, worst = matrix(factorization), simulation_rng("patterns", bands, limit, separation), 0.0
    for size in range(1, pattern.most + 1):
        for rounds in combinations(range(9), size):
            if all(b - a >= separation for a, b in pairwise(rounds)):
                columns = c[:, rounds]
                worst = max(worst, float(np.linalg.norm(columns.sum(axis=1))))
                vectors = rng.normal(size=(3, size, 4))
                vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
                for vector in vectors:
                    assert np.linalg.norm(columns @ vector) <= factorization.sensitivity + 1e-12
    assert factorization.sensitivity == pytest.approx(worst)


def test_noise_solves_the_matrix_equation() -> None:
    pattern = Participation(12, 3, 4)
    factorization = Factorization(square_root_coefficients(5), pattern)
    state, rows = start_noise(factorization, 3), []
    same, fresh = stream("same"), stream("same")
    from fedinfer.privacy.mechanism.noise import gaussian

    z = np.array([gaussian(2.0, (3,), fresh) for _ in range(12)])
    for _ in range(12):
        noise, state = next_noise(state, factorization, 2.0, same)
        rows.append(noise)
    assert np.allclose(matrix(factorization) @ np.array(rows), z)
    with pytest.raises(ConfigError, match="had their noise"):
        next_noise(state, factorization, 2.0, same)


def test_noise_of_buffers_solves_the_matrix_equation_too() -> None:
    from fedinfer.privacy.mechanism.noise import gaussian

    chosen = buffered_linear(((0.9, 0.3), (0.4, 0.25)), Participation(12, 3, 4))
    state, rows = start_noise(chosen, 3), []
    same, fresh = stream("buffers"), stream("buffers")
    z = np.array([gaussian(2.0, (3,), fresh) for _ in range(12)])
    for _ in range(12):
        noise, state = next_noise(state, chosen, 2.0, same)
        rows.append(noise)
    assert state.recent.shape == (2, 3)
    assert np.allclose(matrix(chosen) @ np.array(rows), z)
    assert chosen.coefficients[1:4] == pytest.approx((0.55, 0.37, 0.283))


def test_buffers_and_coefficients_must_be_one_strategy() -> None:
    chosen = buffered_linear(((0.9, 0.3),), Participation(4, 2, 2))
    with pytest.raises(ConfigError, match="noise and charge would differ"):
        Factorization((1.0, 0.2, 0.1, 0.05), chosen.participation, chosen.buffers)
    with pytest.raises(ConfigError, match="must start with 1, fall"):
        buffered_linear(((0.9, 1.2),), Participation(4, 2, 2))


@pytest.mark.parametrize(("separation", "most"), [(3, 4), (12, 1), (1, 12)])
def test_the_slope_of_the_search_is_that_of_differences(separation: int, most: int) -> None:
    rng = simulation_rng("slope", separation)
    column = np.concatenate([[1.0], np.sort(rng.uniform(0, 0.6, 11))[::-1]])
    value, slope = loss_of(column, separation, most)
    chosen = Factorization(tuple(column.tolist()), Participation(12, most, separation))
    assert value == pytest.approx(chosen.loss())
    for place in range(12):
        moved = column + 1e-6 * np.eye(12)[place]
        assert slope[place] == pytest.approx((loss_of(moved, separation, most)[0] - value) / 1e-6, abs=2e-5)


@pytest.mark.parametrize(
    ("rounds", "separation", "expected"),  # banded, banded with a pull, buffered, buffered with a pull
    [
        (64, 10, (0.97, 1.01, 1.03, 1.06)), (500, 10, (1.00, 0.68, 1.08, 0.72)), (500, 50, (1.01, 0.73, 1.08, 0.74)),
        (2000, 100, (1.05, 0.75, 1.12, 0.77)),
    ],
)  # fmt: skip
def test_searched_bands_beat_cut_off_square_roots_and_buffers_need_no_memory(
    rounds: int, separation: int, expected: tuple[float, ...]
) -> None:
    """Beside the square root with the best number of bands; four buffers lose at most 7 % to bands."""
    pattern = Participation(rounds, -(-rounds // separation), separation)
    sizes = {2**i for i in range(rounds.bit_length())} | {separation, rounds}
    cut = min((Factorization(square_root_coefficients(bands), pattern) for bands in sizes), key=lambda c: c.error(1.0))
    banded, buffered = factorize(pattern), factorize(pattern, Correlation.BLT)
    found = [made.error(kept) / cut.error(kept) for made in (banded, buffered) for kept in (1.0, 0.95)]
    assert found == pytest.approx(expected, abs=0.006)
    assert buffered.loss() < banded.loss() + math.log(1.07)
    assert (banded.remembered, buffered.remembered <= 4) == (separation - 1, True)


def independent_error(pattern: Participation) -> float:
    """`prefix_error` of independent noise: sqrt(rounds * participations)."""
    return math.sqrt(pattern.rounds * pattern.most)


def test_one_band_is_independent_noise() -> None:
    pattern = Participation(50, 5, 10)
    plain = Factorization((1.0,), pattern)
    assert plain.sensitivity == pytest.approx(math.sqrt(5))
    assert plain.prefix_error() == pytest.approx(independent_error(pattern))
    state = start_noise(plain, 2)
    noise, state = next_noise(state, plain, 1.0, stream("plain"))
    assert noise.shape == (2,)
    assert state.recent.shape == (0, 2)


@pytest.mark.parametrize(("rounds", "limit", "separation"), [(1, 1, 1), (100, 1, 1), (1000, 10, 100), (64, 64, 1)])
def test_the_choice_is_never_worse_than_independent_noise(rounds: int, limit: int, separation: int) -> None:
    pattern = Participation(rounds, limit, separation)
    chosen = factorize(pattern)
    assert chosen.prefix_error() <= independent_error(pattern) * (1 + 1e-12)


def test_many_rounds_gain_a_lot() -> None:
    """Ten participations in 1,000 rounds: prefix sums are several times more exact for the same epsilon."""
    pattern = Participation(1000, 10, 100)
    assert factorize(pattern).prefix_error() < independent_error(pattern) / 4


def test_prefix_error_is_what_simulation_shows() -> None:
    pattern = Participation(60, 2, 20)
    factorization = factorize(pattern)
    state = start_noise(factorization, 40_000)
    total = np.zeros(40_000)
    words = stream("prefix")
    for _ in range(60):
        noise, state = next_noise(state, factorization, 1.0, words)
        total += noise
    assert total.std() * factorization.sensitivity == pytest.approx(factorization.prefix_error(), rel=0.03)


def test_all_rounds_are_one_gaussian_event() -> None:
    factorization = factorize(Participation(200, 4, 50))
    event = factorization.event(6.0)
    assert event == GaussianEvent(6.0 / factorization.sensitivity)
    spent = account([event], 1e-5, Relation.ADD_REMOVE)
    assert spent.sampling == "none"
    assert math.isfinite(spent.epsilon)


def test_the_claim_holds_on_the_released_rounds_and_breaks_with_less_noise() -> None:
    """The adversary knows C, whitens the releases with it and projects on the unit's part: the best test there is."""
    from scipy.stats import norm

    pattern = Participation(12, 3, 4)
    factorization = Factorization(square_root_coefficients(6), pattern)
    z, delta = 4.0, 1e-3
    claim = account([factorization.event(z)], delta, Relation.ADD_REMOVE).epsilon
    present = np.zeros(12)
    present[[0, 4, 8]] = 1.0
    c = matrix(factorization)
    words, releases = stream("attack"), []
    state = start_noise(factorization, 20_000)
    for _ in range(12):
        noise, state = next_noise(state, factorization, z, words)
        releases.append(noise)
    signal = c @ present
    statistic = signal @ (c @ np.array(releases)) / np.linalg.norm(signal)
    shift = float(np.linalg.norm(signal))
    assert statistic.std() == pytest.approx(z, rel=0.03)  # no test sees a larger shift over deviation than this one
    for factor, broken in ((1.0, False), (0.7, True)):
        std = z * factor
        upper = norm.sf(claim * std / shift - shift / (2 * std))
        exact_delta = upper - math.exp(claim) * norm.sf(claim * std / shift + shift / (2 * std))
        assert bool(exact_delta > delta * (1 + 1e-6)) is broken


def test_participation_is_checked() -> None:
    pattern = Participation(10, 2, 3)
    pattern.check([], 0)
    pattern.check([1], 4)
    for taken, wanted in (([1], 3), ([0, 4], 8), ([], 10), ([], -1), ([5], 5)):
        with pytest.raises(Misbehaviour):
            pattern.check(taken, wanted)
    for bad in ((0, 1, 1), (5, 6, 1), (5, 1, 0)):
        with pytest.raises(ConfigError):
            Participation(*bad)


@pytest.mark.parametrize("coefficients", [(), (0.5,), (1.0, 1.2), (1.0, -0.1), (1.0, 0.2, 0.3)])
def test_coefficients_outside_the_theorem_are_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        Factorization(coefficients, Participation(5, 1, 1))
    with pytest.raises(ConfigError):
        square_root_coefficients(0)


# --- charges: turn by turn, what is paid covers what is owed ---


def allowed(rounds: int, separation: int) -> list[tuple[int, ...]]:
    """Every set of rounds at least `separation` apart."""
    every = (chosen for size in range(1, rounds + 1) for chosen in combinations(range(rounds), size))
    return [chosen for chosen in every if all(b - a >= separation for a, b in pairwise(chosen))]


def strategy(rounds: int, separation: int, coefficients: tuple[float, ...]) -> Factorization:
    return Factorization(coefficients, Participation(rounds, -(-rounds // separation), separation))


def cost(factorization: Factorization, scheduled: int) -> float:
    """1/z^2 of a charge for z = 1: what adds up under composition."""
    return factorization.charge(1.0, scheduled).noise_multiplier ** -2


falling = st.lists(st.floats(0.0, 1.0), max_size=8).map(lambda rest: (1.0, *sorted(rest, reverse=True)))


@given(coefficients=falling, rounds=st.integers(1, 9), separation=st.integers(1, 10), seed=st.integers(0, 99))
def test_charges_cover_every_pattern_and_all_vectors(
    coefficients: tuple[float, ...], rounds: int, separation: int, seed: int
) -> None:
    """Also of units that miss turns, and of those whose rounds are not the same distance apart."""
    factorization = strategy(rounds, separation, coefficients)
    c, rng = matrix(factorization), simulation_rng("charges", seed)
    for pattern in allowed(rounds, separation):
        paid = sum(cost(factorization, index // separation) for index in pattern)
        columns = c[:, pattern]
        assert float(np.sum(columns.sum(axis=1) ** 2)) <= paid * (1 + 1e-9)
        vectors = rng.normal(size=(len(pattern), 2))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert float(np.sum((columns @ vectors) ** 2)) <= paid * (1 + 1e-9)


@given(coefficients=falling, rounds=st.integers(1, 9), separation=st.integers(1, 10))
def test_charges_so_far_cover_whatever_a_run_cut_short_has_released(
    coefficients: tuple[float, ...], rounds: int, separation: int
) -> None:
    """A server's ledger: after any round no unit owes more than the turns that have begun."""
    factorization = strategy(rounds, separation, coefficients)
    c = matrix(factorization)
    for last in range(rounds):
        paid = sum(cost(factorization, scheduled) for scheduled in range(last // separation + 1))
        for pattern in allowed(last + 1, separation):
            assert float(np.sum(c[: last + 1, pattern].sum(axis=1) ** 2)) <= paid * (1 + 1e-9)


@pytest.mark.parametrize(("rounds", "separation"), [(1, 1), (64, 8), (64, 10), (200, 200), (40, 1)])
def test_all_charges_together_are_the_planned_event(rounds: int, separation: int) -> None:
    chosen = factorize(Participation(rounds, -(-rounds // separation), separation))
    charges = [chosen.charge(7.0, scheduled) for scheduled in range(chosen.participation.most)]
    planned = account([chosen.event(7.0)], 1e-5, Relation.ZERO_OUT)
    assert account(charges, 1e-5, Relation.ZERO_OUT).epsilon == pytest.approx(planned.epsilon, rel=1e-6)
    assert planned.accountant == "pld"


def test_an_independent_accountant_says_the_same() -> None:
    """dp-accounting's privacy-loss distributions, composed charge by charge."""
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    chosen = factorize(Participation(64, 8, 8))
    accountant = PLDAccountant()
    for scheduled in range(8):
        accountant.compose(GaussianDpEvent(chosen.charge(9.0, scheduled).noise_multiplier))
    ours = account([chosen.event(9.0)], 1e-5, Relation.ZERO_OUT).epsilon
    assert accountant.get_epsilon(1e-5) == pytest.approx(ours, rel=1e-3)


def test_a_turn_outside_the_pattern_has_no_price() -> None:
    chosen = strategy(10, 4, (1.0, 0.5))
    for scheduled in (-1, 3):
        with pytest.raises(Misbehaviour, match=f"cycle {scheduled} of 3"):
            chosen.charge(1.0, scheduled)


def test_memory_of_the_noise_is_not_printed() -> None:
    chosen = strategy(10, 4, (1.0, 0.5))
    _, state = next_noise(start_noise(chosen, 2), chosen, 1.0, stream("printed"))
    assert repr(state) == "CorrelatedNoise(round=1)"


@pytest.mark.parametrize(
    ("asked", "every", "schedule", "banded", "bands", "buffered"),
    [
        (200, 1.00, 1.00, 1.00, 1, 1.00), (100, 2.00, 1.41, 1.03, 2, 1.03), (50, 4.00, 2.00, 1.10, 4, 1.16),
        (25, 8.00, 2.83, 1.24, 8, 1.30), (12, 16.67, 4.17, 1.53, 16, 1.60),
    ],
)  # fmt: skip
def test_what_is_gained_is_what_the_documentation_says(
    asked: int, every: float, schedule: float, banded: float, bands: int, buffered: float
) -> None:
    """Noise in the sum of 64 rounds' means, over that of 200 devices in every round with independent noise."""
    separation, scale = 200 // asked, 200 / asked / 64
    pattern = Participation(64, -(-64 // separation), separation)
    chosen = factorize(pattern)
    found = (64 * scale, independent_error(pattern) * scale, chosen.prefix_error() * scale)
    assert found == pytest.approx((every, schedule, banded), abs=0.005)
    assert len(chosen.coefficients) == bands
    assert factorize(pattern, Correlation.BLT).prefix_error() * scale == pytest.approx(buffered, abs=0.005)
