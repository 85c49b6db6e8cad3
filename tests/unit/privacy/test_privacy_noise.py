"""Noise: where its words come from, and that integers follow their law exactly."""

from __future__ import annotations

import math
import os

import mpmath
import numpy as np
import pytest
from scipy import stats

from fedinfer.errors import ConfigError
from fedinfer.privacy.mechanism.noise import (
    SecureStream,
    SimulatedStream,
    _cosine_of_turns,
    _sum_of,
    discrete_gaussian,
    gaussian,
    pieces,
    skellam,
    whole_variance,
)
from fedinfer.privacy.mechanism.tables import MAX_VARIANCE, discrete_gaussian_table, skellam_table
from fedinfer.system import SimulatedEntropy, SystemEntropy, simulation_rng


def simulated(name: str) -> SimulatedStream:
    return SimulatedStream(SimulatedEntropy("test noise", name))


class Fixed:
    """A stream that plays back given words."""

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, count: int) -> np.ndarray:
        played, self.left = self.left[:count], self.left[count:]
        return np.array(played, np.uint64)


class Counted:
    """A stream that counts how often it is asked, and for how many words at most."""

    def __init__(self) -> None:
        self.stream, self.asked, self.most = simulated("parts"), 0, 0

    def words(self, count: int) -> np.ndarray:
        self.asked, self.most = self.asked + 1, max(self.most, count)
        return self.stream.words(count)


def test_a_seeded_source_cannot_make_real_noise() -> None:
    class Impostor:
        def take(self, count: int) -> bytes:
            return bytes(count)

    for source in (SimulatedEntropy(1), simulation_rng(1), Impostor(), None):
        with pytest.raises(ConfigError, match="SystemEntropy"):
            SecureStream(source)  # type: ignore[arg-type]  # the checker refuses it too: see the next test


@pytest.mark.slow
def test_the_type_checker_refuses_a_seeded_source() -> None:
    from mypy import api

    code = (
        "from fedinfer.privacy.mechanism.noise import SecureStream\n"
        "from fedinfer.system import SimulatedEntropy, SystemEntropy\n"
        "SecureStream(SystemEntropy())\n"
        "SecureStream(SimulatedEntropy(1))\n"
    )
    out, _, status = api.run(["--config-file=", "--strict", "--follow-imports=silent", "-c", code])
    assert status == 1
    assert "Found 1 error" in out
    assert "SimulatedEntropy" in out


def test_secure_streams_differ_and_simulated_ones_repeat() -> None:
    a, b = SecureStream(SystemEntropy()), SecureStream(SystemEntropy())
    assert not np.array_equal(a.words(8), b.words(8))
    first, second = simulated("x"), simulated("x")
    assert np.array_equal(first.words(5), second.words(5))
    assert not np.array_equal(first.words(5), simulated("x").words(5)), "words are never given twice"
    assert np.array_equal(SimulatedStream(simulation_rng(3)).words(4), SimulatedStream(simulation_rng(3)).words(4))


def test_words_do_not_depend_on_how_they_are_asked_for() -> None:
    whole, parts = simulated("y").words(100_000), simulated("y")
    pieces_ = np.concatenate([parts.words(n) for n in (1, 70_000, 0, 29_999)])
    assert np.array_equal(whole, pieces_)


def test_a_forked_process_does_not_repeat_noise() -> None:
    stream = SecureStream(SystemEntropy())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, stream.words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(read, 32), np.uint64)
    os.close(read)
    os.close(write)
    assert not np.array_equal(theirs, stream.words(4))


@pytest.mark.parametrize("variance", [1, 7, 300, 40_000])
def test_skellam_table_is_exact_to_100_bits(variance: int) -> None:
    table = skellam_table(variance)
    with mpmath.workprec(400):
        places = sorted({0, 1, 2, round(math.sqrt(variance)), round(5 * math.sqrt(variance))})
        for k in places:
            index = table.offset + k  # boundaries[index] - boundaries[index - 1] is P(k)
            got = mpmath.mpf(table.boundaries[index] - table.boundaries[index - 1]) / 2**128
            expected = mpmath.exp(-variance) * mpmath.besseli(k, variance)
            assert abs(got - expected) < mpmath.mpf(2) ** -110


@pytest.mark.parametrize("variance", [1, 7, 300, 40_000])
def test_discrete_gaussian_table_is_exact_to_100_bits(variance: int) -> None:
    table = discrete_gaussian_table(variance)
    with mpmath.workprec(400):
        far = range(1, 16 * math.isqrt(variance) + 30)
        total = 1 + 2 * mpmath.fsum(mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in far)
        for k in sorted({0, 1, 2, round(math.sqrt(variance)), round(5 * math.sqrt(variance))}):
            index = table.offset + k
            got = mpmath.mpf(table.boundaries[index] - table.boundaries[index - 1]) / 2**128
            expected = mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) / total
            assert abs(got - expected) < mpmath.mpf(2) ** -110


@pytest.mark.parametrize("table", [skellam_table(1), skellam_table(500), discrete_gaussian_table(500)])
def test_tables_are_symmetric_and_complete(table: object) -> None:
    bounds = table.boundaries
    assert len(bounds) == 2 * table.offset
    assert list(bounds) == sorted(bounds)
    assert bounds[0] < 2**9  # nothing of weight beyond the ends
    assert bounds[-1] > 2**128 - 2**9
    assert all(abs(bounds[i] + bounds[-1 - i] - 2**128) <= 2 for i in range(0, len(bounds), 7))


@pytest.mark.parametrize("variance", [2, 90, 20_000])
@pytest.mark.parametrize("draw", [skellam, discrete_gaussian])
def test_guide_and_search_agree_with_counting_boundaries(draw: object, variance: int) -> None:
    table = (skellam_table if draw is skellam else discrete_gaussian_table)(variance)
    words = simulated(f"guide {variance}").words(20_000)
    words[:3] = [0, 2**64 - 1, 2**63]
    low = Fixed(*[0] * 100)
    by_hand = np.searchsorted(table.high, words, "right") - table.offset
    clean = ~np.isin(words, table.high)
    assert np.array_equal(table.look_up(words, low)[clean], by_hand[clean])


def test_ties_are_resolved_by_a_second_word() -> None:
    table = skellam_table(16)
    boundary = table.boundaries[table.offset]  # between 0 and 1
    high, low = boundary >> 64, boundary & (2**64 - 1)
    word = np.array([high], np.uint64)
    below = table.look_up(word, Fixed(low - 1))[0]
    at = table.look_up(word, Fixed(low))[0]
    assert (below, at) == (0, 1)
    assert table.look_up(np.array([high - 1], np.uint64), Fixed())[0] == 0
    assert table.look_up(np.array([high + 1], np.uint64), Fixed())[0] == 1


def probabilities(name: str, variance: int, values: np.ndarray) -> np.ndarray:
    if name == "skellam":
        return stats.skellam.pmf(values, variance / 2, variance / 2)
    weights = np.exp(-(values.astype(float) ** 2) / (2 * variance))
    wide = np.arange(-60 * math.isqrt(variance) - 60, 60 * math.isqrt(variance) + 61)
    return weights / np.exp(-(wide.astype(float) ** 2) / (2 * variance)).sum()


@pytest.mark.parametrize("variance", [1, 16, 1024])
@pytest.mark.parametrize("name", ["skellam", "discrete_gaussian"])
def test_samples_pass_a_chi_square_test(name: str, variance: int) -> None:
    draw, count = {"skellam": skellam, "discrete_gaussian": discrete_gaussian}[name], 400_000
    samples = draw(variance, (count,), simulated(f"{name} {variance}"))
    edge = round(3.5 * math.sqrt(variance))
    values = np.arange(-edge, edge + 1)
    expected = count * probabilities(name, variance, values)
    rest = count - expected.sum()
    seen = np.array([(samples == v).sum() for v in values])
    statistic = ((seen - expected) ** 2 / expected).sum() + (count - seen.sum() - rest) ** 2 / rest
    assert 1e-4 < stats.chi2.sf(statistic, values.size) < 1 - 1e-4


@pytest.mark.parametrize("variance", [3, 5_000, MAX_VARIANCE, 5 * MAX_VARIANCE])
@pytest.mark.parametrize("draw", [skellam, discrete_gaussian])
def test_moments(draw: object, variance: int) -> None:
    count = 300_000
    x = draw(variance, (count,), simulated(f"moments {variance}")).astype(float)
    std = math.sqrt(variance)
    assert abs(x.mean()) < 5 * std / math.sqrt(count)
    kurtosis = 3 + (1 / variance if draw is skellam else 0)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / count)
    assert abs((x**3).mean()) / std**3 < 5 * math.sqrt(15 / count)


def test_large_variances_are_sums_of_equal_parts() -> None:
    assert pieces(MAX_VARIANCE) == 1
    assert pieces(2 * MAX_VARIANCE) == 2
    for wanted in (0.2, 7.5, MAX_VARIANCE + 0.5, 9.99 * MAX_VARIANCE, 1e12 / 7):
        variance = whole_variance(wanted)
        assert variance >= wanted
        assert variance % pieces(variance) == 0
        assert variance <= max(1.0, wanted) * 1.001 + 1
    with pytest.raises(ConfigError):
        pieces(MAX_VARIANCE + 1)
    with pytest.raises(ConfigError):
        skellam(0, (3,), simulated("zero"))


@pytest.mark.parametrize(("size", "parts"), [(1, 700), (100, 700), (40_000, 3)])
def test_parts_of_short_vectors_are_drawn_together(size: int, parts: int) -> None:
    """From the same words as one part after the other, in steps of many samples: their number is what takes time."""
    table, together, alone = skellam_table(1 << 10), Counted(), simulated("parts")
    drawn = _sum_of(table, parts, (size,), together)
    one_by_one = [
        sum(table.look_up(alone.words(count), alone).astype(np.int64) for _ in range(parts))
        for count in ([size] if size <= 1 << 15 else [1 << 15, size - (1 << 15)])
    ]
    assert np.array_equal(drawn, np.concatenate(one_by_one))
    assert together.asked <= 2 * parts * size / (1 << 15) + 1
    assert together.most <= 1 << 15, "words, results and zeros stay in the cache"


def test_cosines_of_turns_are_cosines() -> None:
    edges = np.array([0, 1, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 3 << 62, 2**64 - 1], np.uint64)
    words = np.concatenate([edges, simulated("turns").words(2000)])
    with mpmath.workprec(120):
        exact = [mpmath.cos(2 * mpmath.pi * word / 2**64) for word in words.tolist()]
        worst = max(
            abs(value - mpmath.mpf(found)) for value, found in zip(exact, _cosine_of_turns(words).tolist(), strict=True)
        )
    assert worst < 4e-16


def test_continuous_gaussian() -> None:
    x = gaussian(3.0, (200, 1000), simulated("gaussian"))
    assert x.shape == (200, 1000)
    assert stats.kstest(x.ravel() / 3.0, "norm").pvalue > 1e-4
    assert np.abs(x).max() > 3.0 * 4
    assert np.array_equal(gaussian(0.0, (5,), simulated("none")), np.zeros(5))
    assert gaussian(1.0, (3, 0, 2), simulated("none")).shape == (3, 0, 2)


@pytest.mark.parametrize(("turn", "cosine"), [(0, 1.0), (1 << 61, math.sqrt(0.5)), (1 << 62, 0.0), (1 << 63, -1.0)])
def test_a_word_is_a_part_of_one_turn(turn: int, cosine: float) -> None:
    """Box-Muller with words that are known: half the sum of four draws of radius sqrt(-2 ln u), here u = 1/2."""
    stream = Fixed(*[(1 << 63) - 1] * 4, *[turn] * 4)
    expected = 3.0 * (4 * math.sqrt(2 * math.log(2)) * cosine) / 2
    assert gaussian(3.0, (1,), stream)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "draw", [skellam, discrete_gaussian, lambda variance, *rest: gaussian(math.sqrt(variance), *rest)]
)
def test_every_place_of_a_vector_gets_noise_of_its_own(draw: object) -> None:
    """The first and the last as well: short vectors, many times."""
    stream, times, width = simulated("places"), 3000, 5
    x = np.array([draw(16, (width,), stream) for _ in range(times)], float)
    assert np.abs(x.var(axis=0) / 16 - 1).max() < 5 * math.sqrt(2 / times)
    assert np.abs(np.corrcoef(x.T) - np.eye(width)).max() < 5 / math.sqrt(times)
