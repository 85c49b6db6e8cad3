"""Recorded and computed figures of this package against tests/reference: the papers written down a second time."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from fedinfer import wire
from fedinfer.config import Correlation
from fedinfer.errors import Misbehaviour
from fedinfer.privacy.accounting.accountant import SAMPLER_DISTANCE, account, rdp_epsilon
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    Noise,
    PoissonSampled,
    Single,
    SkellamEvent,
    from_json,
    to_json,
)
from fedinfer.privacy.accounting.rdp import ORDERS, event_curve, noise_curve, to_epsilon
from fedinfer.privacy.mechanism.encoding import to_integers
from fedinfer.privacy.mechanism.matrix_mechanism import (
    Factorization,
    Participation,
    factorize,
    square_root_coefficients,
)
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, conditional_bound
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.privacy.mechanism.rotation import rotate, rotate_back
from fedinfer.privacy.mechanism.tables import discrete_gaussian_table, skellam_table
from fedinfer.secagg.hypergeometric import fewest_marked, log_tail, most_marked
from fedinfer.system import SimulatedEntropy
from fedinfer.types import Relation, Unit
from tests.reference import discrete_gaussian, encoding, gaussian, hypergeometric, matrix_mechanism, renyi, skellam

FOLDER = Path(__file__).parents[2] / "vectors" / "privacy"
AR, R1 = Relation.ADD_REMOVE, Relation.REPLACE_ONE
Curve = Callable[[int], mpmath.mpf]


@pytest.fixture(autouse=True)
def forty_digits() -> Iterator[None]:
    with mpmath.workdps(40):
        yield


def recorded(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


# --- divergences ---


def curve_of(event: Any, shift: int) -> Curve:
    """The divergence of an event in its JSON form, as the papers have it."""
    if event["kind"] == "gaussian":
        return lambda a: gaussian.renyi(event["noise_multiplier"], a, shift)
    l2, l1 = shift * mpmath.mpf(event["l2"]), shift * mpmath.mpf(event["l1"])
    if event["kind"] == "skellam":
        return lambda a: skellam.bound_of_norms(a, mpmath.mpf(event["variance"]), l2**2, l1)
    shares, dimension = event["shares"], event["dimension"]
    return lambda a: discrete_gaussian.theorem(a, event["variance_per_share"], shares, l2, l1, dimension)


def total(event: Any, relation: Relation, order: int) -> mpmath.mpf:
    """Of all parts of an event: counts multiply, compositions add (Mironov 2017, Proposition 1)."""
    if event["kind"] == "repeated":
        return event["count"] * total(event["event"], relation, order)
    if event["kind"] == "composed":
        return mpmath.fsum(total(part, relation, order) for part in event["events"])
    moved = 2 if relation is R1 else 1
    if event["kind"] != "poisson_sampled":
        return curve_of(event, moved)(order)
    sampled = renyi.sampled_replace if relation is R1 else renyi.sampled
    return min(sampled(curve_of(event["event"], 1), event["rate"], order), curve_of(event["event"], moved)(order))


@pytest.mark.parametrize("case", recorded("accounting")["good"])
def test_recorded_epsilons_are_those_of_the_papers(case: Any) -> None:
    """Integer noise is charged for its sampler's distance on top, from above: never less than needed, hardly more."""
    relation = Relation(case["relation"])
    orders = range(2, 41 if relation is R1 else 61)  # the best order of every case is among them
    divergences = [(a, total(case["event"], relation, a)) for a in orders]
    plain = renyi.epsilon_of(divergences, case["delta"])
    ours = rdp_epsilon([from_json(case["event"])], case["delta"], relation)
    assert ours == pytest.approx(case["epsilon"], rel=1e-12)
    if "skellam" not in str(case["event"]) and "discrete" not in str(case["event"]):
        assert ours == pytest.approx(float(plain), rel=1e-9)
        return
    needed = renyi.epsilon_of(divergences, case["delta"], mpmath.mpf(2) ** -68)
    assert SAMPLER_DISTANCE == 2.0**-68
    assert plain <= needed
    assert float(needed) * (1 - 1e-12) <= ours <= float(needed) * (1 + 1e-5)


NOISES = [
    GaussianEvent(0.8),
    SkellamEvent(0.5, 1.0, 1.0),  # the first-order term of the theorem is the smaller one
    SkellamEvent(10.0, 5.0, 7.0),  # the second-order term
    DiscreteGaussianEvent(0.35, 3, 2.0, 4.0, 4),  # the first of the three bounds is the least
    DiscreteGaussianEvent(0.5, 4, 9.0, 9.0, 40),  # at order 2 the second
    DiscreteGaussianEvent(1.0, 4, 1.0, 30.0, 9),  # at order 2 the third
]


@pytest.mark.parametrize("relation", [AR, R1])
@pytest.mark.parametrize("rate", [1.0, 0.05, 0.7])
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_curves_are_those_of_the_papers_where_every_term_counts(noise: Noise, rate: float, relation: Relation) -> None:
    event: Single = noise if rate == 1 else PoissonSampled(rate, noise)
    curve = event_curve(event, relation)
    for order in (2, 3, 7, 16):
        assert curve[order - 2] == pytest.approx(float(total(to_json(event), relation, order)), rel=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 1e-6])
@pytest.mark.parametrize("z", [0.4, 1.0, 5.0])
def test_the_conversion_is_the_one_of_the_paper(z: float, delta: float) -> None:
    curve, few = np.full(ORDERS.size, np.inf), ORDERS[:120:3]
    curve[:120:3] = few / (2 * z * z)
    with mpmath.workdps(25):
        expected = renyi.epsilon_of([(int(a), gaussian.renyi(z, int(a))) for a in few], delta)
    assert to_epsilon(curve, delta) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("rate", "z"), [(0.004, 0.7), (0.01, 1.0), (0.3, 0.8), (0.9, 3.0)])
def test_sampled_gaussian_is_the_integral(rate: float, z: float) -> None:
    """The closed form at integer orders is the integral that defines the divergence."""
    curve = event_curve(PoissonSampled(rate, GaussianEvent(z)), AR)
    for order in (2, 3, 8, 20):
        closed = renyi.sampled(lambda a: gaussian.renyi(z, a), rate, order)
        with mpmath.workdps(20):
            integral = gaussian.sampled_renyi_by_integration(rate, z, order)
        assert float(closed) == pytest.approx(float(integral), rel=1e-9)
        assert curve[order - 2] == pytest.approx(min(float(closed), order / (2 * z * z)), rel=1e-9)


@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-10])
@pytest.mark.parametrize("z", [0.1, 1.0, 12.0])
def test_gaussian_epsilon_is_the_exact_one(z: float, delta: float) -> None:
    exact = gaussian.epsilon_of(lambda e: gaussian.profile(e, z), delta)
    ours = account([GaussianEvent(z)], delta, AR).epsilon
    assert float(exact) <= ours
    assert ours == pytest.approx(float(exact), rel=1e-3, abs=1e-9)
    assert account([GaussianEvent(2 * z)], delta, R1).epsilon == ours


@pytest.mark.parametrize(("rate", "z", "delta"), [(0.01, 1.0, 1e-5), (0.1, 0.7, 1e-4), (0.5, 2.0, 1e-3)])
def test_one_sampled_release_costs_what_the_exact_profile_says(rate: float, z: float, delta: float) -> None:
    exact = gaussian.epsilon_of(lambda e: gaussian.sampled_profile(e, rate, z), delta)
    ours = account([PoissonSampled(rate, GaussianEvent(z))], delta, AR)
    assert ours.accountant == "pld"
    assert float(exact) <= ours.epsilon <= float(exact) * (1 + 2e-3) + 2e-3


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize(("shift", "reach"), [((2,), 60), ((1, 2), 22), ((1, -1, 1), 10)])
def test_the_skellam_bound_covers_the_joint_law(shift: tuple[int, ...], reach: int, rate: float) -> None:
    """Term by term over every integer vector, both directions, with and without sampling."""
    variance = 3
    l2, l1 = math.hypot(*shift), float(sum(map(abs, shift)))
    event = SkellamEvent(float(variance), l2, l1)
    curve = event_curve(event if rate == 1 else PoissonSampled(rate, event), AR)
    with mpmath.workdps(25):
        still, moved = renyi.joint(lambda k: skellam.probability(k, variance), shift, reach)
        seen = renyi.mixture(still, moved, rate)
        for order in (2, 4):
            for exact in (renyi.divergence(seen, still, order), renyi.divergence(still, seen, order)):
                assert 0 < exact <= curve[order - 2]


@pytest.mark.parametrize("shares", [1, 3])
@pytest.mark.parametrize("variance", [0.25, 1.0])
@pytest.mark.parametrize(("shift", "reach"), [((2,), 14), ((1, 2), 12)])
def test_the_discrete_gaussian_bound_covers_the_joint_law(
    shift: tuple[int, ...], reach: int, variance: float, shares: int
) -> None:
    l2, l1 = math.hypot(*shift), float(sum(map(abs, shift)))
    orders = np.array([2, 4])
    curve = noise_curve(DiscreteGaussianEvent(variance, shares, l2, l1, len(shift)), orders, 1.0)
    with mpmath.workdps(25):
        law = discrete_gaussian.of_a_sum(variance, shares, reach + 12)
        still, moved = renyi.joint(law.__getitem__, shift, reach)
        for order, bound in zip(orders, curve, strict=True):
            named = discrete_gaussian.theorem(int(order), variance, shares, l2, l1, len(shift))
            assert bound == pytest.approx(float(named), rel=1e-12)
            assert 0 < renyi.divergence(moved, still, int(order)) <= bound * (1 + 1e-12)


# --- samples and encodings ---


@pytest.mark.parametrize("case", recorded("tables"), ids=lambda case: f"{case['law']}-{case['variance']}")
def test_recorded_tables_are_the_law_to_128_bits(case: Any) -> None:
    variance, reach = case["variance"], case["offset"]
    with mpmath.workdps(60):
        if case["law"] == "skellam":
            law = {k: skellam.probability(k, variance) for k in range(-reach, reach + 1)}
        else:
            law = discrete_gaussian.law(variance, reach)
        for place, value in enumerate(range(-4, 4)):
            exact = mpmath.fsum(law[k] for k in range(-reach, value + 1)) * 2**128
            assert abs(int(case["middle"][place], 16) - exact) < 2**19  # a relative error of 2^-109
        beyond = mpmath.fsum(skellam.probability(k, variance) for k in range(reach + 1, reach + 30)) * 2
        assert case["law"] != "skellam" or beyond < mpmath.mpf(2) ** -120


def uniform(purpose: str, count: int, bits: int) -> list[Fraction]:
    """The numbers of a recorded encoding: its source is a seed and no part of the claim."""
    words = SimulatedStream(SimulatedEntropy("vectors", purpose)).words(-(-count * bits // 64))
    return [Fraction(int(word), 2**bits) for word in words.view(f"<u{bits // 8}")[:count]]


@pytest.mark.parametrize("case", recorded("encodings")["good"])
def test_recorded_encodings_are_those_of_the_papers(case: Any) -> None:
    mechanism = wire.decode(IntegerMechanism, bytes.fromhex(case["mechanism"]))
    size, scale, norm = encoding.padded(len(case["vector"])), mechanism.scale, mechanism.scale * mechanism.clipping_norm
    values = encoding.scaled(case["vector"], b"rotation", scale)
    # Where the norm of the integers is checked, and small, single precision and its 16 bits of dither suffice.
    single = mechanism.rounding is Rounding.CONDITIONAL and norm <= 2**16
    integers = encoding.rounded(values, uniform("rounding", size, 16 if single else 32))
    if mechanism.rounding is Rounding.CONDITIONAL:
        assert sum(k * k for k in integers) <= encoding.conditional_bound(norm, size), "no second draw in these cases"
    variance = math.ceil((norm * mechanism.noise_multiplier) ** 2 / mechanism.contributors)
    assert case["share_variance"] == variance
    make = skellam_table if mechanism.kind is NoiseKind.SKELLAM else discrete_gaussian_table
    table = make(variance)  # its law: test_recorded_tables_are_the_law_to_128_bits
    cumulative = [mpmath.mpf(boundary) / 2**128 for boundary in table.boundaries]
    noise = [encoding.sample(cumulative, -table.offset, u) for u in uniform("noise", size, 64)]
    assert case["ring"] == [(k + e) % 2 ** case["bits"] for k, e in zip(integers, noise, strict=True)]
    decoded = encoding.decode(case["ring"], case["bits"], scale, b"rotation", len(case["vector"]))
    assert [float(x) for x in decoded] == pytest.approx(case["decoded"], rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_the_rotation_is_the_orthogonal_matrix_of_the_definition(size: int) -> None:
    matrix = encoding.rotation(b"seed", size)
    assert mpmath.mnorm(matrix.T * matrix - mpmath.eye(size), 1) < mpmath.mpf(10) ** -35
    ours = rotate(np.eye(size), b"seed", size).T
    np.testing.assert_allclose(ours, np.array(matrix.tolist(), float), atol=1e-14)
    np.testing.assert_allclose(rotate_back(ours.T.copy(), b"seed"), np.eye(size), atol=1e-14)


@pytest.mark.parametrize("norm", [0.1, 1.0, 3.7, 250.0])
@pytest.mark.parametrize("size", [1, 4, 1024])
def test_the_norm_bound_of_conditional_rounding_is_the_one_of_the_paper(norm: float, size: int) -> None:
    assert conditional_bound(norm, size) == pytest.approx(float(encoding.conditional_bound(norm, size)), rel=1e-12)


@pytest.mark.parametrize("norm", [Fraction(1, 10), Fraction(3, 2), Fraction(5)])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_rounding_is_within_the_bound_as_often_as_the_paper_says(norm: Fraction, size: int) -> None:
    """Every outcome, exactly, for a spike, for equal coordinates and for uneven ones: at least 1 - exp(-1/2)."""
    bound = Fraction(conditional_bound(float(norm), size))
    spike = [norm, *[Fraction(0)] * (size - 1)]
    equal = [norm * Fraction(int(1e9 / math.sqrt(size)), 10**9)] * size
    uneven = [x * Fraction(at + 1, size) for at, x in enumerate(equal)]
    for values in (spike, equal, uneven):
        assert encoding.chance_within(values, bound) >= 1 - math.exp(-0.5)


def test_what_rounding_gives_is_within_the_bound_of_the_paper() -> None:
    """The encoder's own rows, squared and added in whole numbers."""
    mechanism = IntegerMechanism(NoiseKind.NONE, 5, 1.0, 0.0, 16, 2.5, 1, 4, 4, Rounding.CONDITIONAL, Unit.DEVICE)
    rows = np.tile(np.array([0.6, -0.6, 0.3, 0.3, 0.3], np.float32), (200, 1))
    out = to_integers(rows, mechanism, b"r", SimulatedStream(SimulatedEntropy("norms")))
    bound = encoding.conditional_bound(2.5, 8)
    squares = [sum(int(k) ** 2 for k in row) for row in out]
    assert max(squares) <= bound
    free = [encoding.rounded(encoding.scaled([float(x) for x in rows[0]], b"r", 2.5), u) for u in _draws(200, 8)]
    assert max(sum(k * k for k in row) for row in free) > bound, "without the condition some are longer"


def _draws(count: int, size: int) -> list[list[Fraction]]:
    words = SimulatedStream(SimulatedEntropy("free")).words(count * size)
    return [[Fraction(int(w), 2**64) for w in words[at * size : (at + 1) * size]] for at in range(count)]


# --- correlated noise ---


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
@pytest.mark.parametrize(("limit", "separation"), [(1, 1), (2, 3), (3, 2), (7, 1), (2, 9)])
def test_matrix_mechanism_sensitivity_and_error_are_those_of_brute_force(
    bands: int, limit: int, separation: int
) -> None:
    rounds = 7
    exact = matrix_mechanism.square_root(bands)
    assert list(square_root_coefficients(bands)) == pytest.approx([float(c) for c in exact], rel=1e-14)
    ours = Factorization(square_root_coefficients(bands), Participation(rounds, limit, separation))
    squared = matrix_mechanism.squared_sensitivity(exact, rounds, limit, separation)
    assert ours.sensitivity**2 == pytest.approx(float(squared), rel=1e-12)
    for kept in (Fraction(1), Fraction(19, 20), Fraction(0)):
        error = matrix_mechanism.squared_error(exact, rounds, kept) * squared
        assert ours.error(float(kept)) ** 2 == pytest.approx(float(error), rel=1e-12)


@pytest.mark.parametrize("correlation", [Correlation.BANDED, Correlation.BLT])
@pytest.mark.parametrize("separation", [1, 2, 3, 9])
def test_searched_strategies_are_those_of_brute_force(correlation: Correlation, separation: int) -> None:
    """What a search finds is charged and judged right: every schedule and all signs, in exact arithmetic."""
    rounds = 7
    ours = factorize(Participation(rounds, -(-rounds // separation), separation), correlation)
    exact = [Fraction(c) for c in ours.coefficients]
    squared = matrix_mechanism.squared_sensitivity(exact, rounds, ours.participation.limit, separation)
    assert ours.sensitivity**2 == pytest.approx(float(squared), rel=1e-12)
    error = matrix_mechanism.squared_error(exact, rounds) * squared
    assert ours.prefix_error() ** 2 == pytest.approx(float(error), rel=1e-12)


def test_no_other_coefficient_beats_the_search() -> None:
    """Two bands leave one number free: all of a fine grid are tried in exact arithmetic."""
    rounds, limit, separation = 7, 4, 2
    found = factorize(Participation(rounds, limit, separation))
    assert len(found.coefficients) == 2

    def loss(second: float) -> float:
        column = [Fraction(1), Fraction(second)]
        squared = matrix_mechanism.squared_sensitivity(column, rounds, limit, separation)
        errors = [matrix_mechanism.squared_error(column, rounds, kept) for kept in (Fraction(1), Fraction(19, 20))]
        return statistics.mean(math.log(error * squared) / 2 for error in errors)

    grid = [loss(place / 16) for place in range(17)]
    assert found.loss() <= min(grid)
    assert min(grid) == pytest.approx(found.loss(), abs=1e-3)


@pytest.mark.parametrize(("limit", "separation"), [(2, 3), (3, 2), (7, 1)])
def test_charges_of_every_schedule_cover_what_it_can_move(limit: int, separation: int) -> None:
    rounds, z = 7, 3.0
    exact = matrix_mechanism.square_root(4)
    ours = Factorization(square_root_coefficients(4), Participation(rounds, limit, separation))
    columns = [matrix_mechanism.column(exact, start, rounds) for start in range(rounds)]
    for chosen in matrix_mechanism.schedules(rounds, limit, separation):
        turns = [p // separation for p in chosen]
        if any(turn >= ours.participation.most for turn in turns):
            with pytest.raises(Misbehaviour, match=f"cycle {turns[-1]}"):
                ours.charge(z, turns[-1])  # nobody takes part in a round that has no price
            continue
        moved = sum((sum((columns[p][t] for p in chosen), Fraction(0)) ** 2 for t in range(rounds)), Fraction(0))
        paid = sum((z / ours.charge(z, turn).noise_multiplier) ** 2 for turn in turns)
        assert float(moved) <= paid * (1 + 1e-12)
        if chosen == tuple(range(0, separation * ours.participation.most, separation)):
            assert float(moved) == pytest.approx(paid, rel=1e-12), "the dearest schedule pays no more than it moves"


# --- random graphs and groups ---


@pytest.mark.parametrize(("n", "marked", "draws"), [(10, 3, 4), (40, 12, 15), (200, 40, 35), (7, 7, 3), (7, 0, 3)])
def test_hypergeometric_tails_are_the_exact_fractions(n: int, marked: int, draws: int) -> None:
    for least in range(draws + 2):
        tail = hypergeometric.at_least(n, marked, draws, least)
        found = float(log_tail(n, np.array([marked]), draws, least)[0])
        assert found == (
            -math.inf
            if tail == 0
            else pytest.approx(float(mpmath.log(tail.numerator) - mpmath.log(tail.denominator)), rel=1e-9, abs=1e-12)
        )
    for exponent in (3, 10, 20, 40):
        chance = Fraction(1, 2**exponent)
        assert most_marked(n, marked, draws, 2.0**-exponent) == hypergeometric.most_marked(n, marked, draws, chance)
        assert fewest_marked(n, marked, draws, 2.0**-exponent) == hypergeometric.fewest_marked(n, marked, draws, chance)


def test_the_references_import_nothing_of_the_product() -> None:
    for path in (Path(__file__).parents[2] / "reference").glob("*.py"):
        assert not any("fedinfer" in line for line in path.read_text().splitlines() if "import" in line), path.name
