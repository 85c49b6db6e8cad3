"""The bound on drawn graphs: against brute force, against the strongest adversary that fits in a test, and monotone."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fedinfer.errors import Misbehaviour
from fedinfer.secagg import check_session, choose_graph
from fedinfer.secagg.bounds import largest_threshold, log2_failure, may_suffice
from fedinfer.secagg.hypergeometric import corrupt_among, fewest_marked, log_choose, log_tail, most_marked
from tests.protocol.secagg_play import make_session


def exact_tail(n, marked, draws, least):
    ways = sum(math.comb(marked, x) * math.comb(n - marked, draws - x) for x in range(max(least, 0), draws + 1))
    return Fraction(ways, math.comb(n, draws))


@pytest.mark.parametrize(("n", "draws"), [(1, 1), (5, 2), (9, 9), (30, 11), (60, 7)])
def test_tails_equal_sums_of_whole_numbers(n, draws):
    for least in range(draws + 2):
        logs = log_tail(n, np.arange(n + 1), draws, least)
        for marked in range(n + 1):
            assert math.exp(logs[marked]) == pytest.approx(float(exact_tail(n, marked, draws, least)), rel=1e-9)
    assert log_choose(n, np.array([-1, n + 1])).tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("chance", [0.5, 1e-3, 2.0**-20, 2.0**-41])
@pytest.mark.parametrize(("n", "marked", "draws"), [(20, 5, 8), (99, 10, 21), (499, 449, 58), (10, 0, 3), (10, 10, 3)])
def test_quantiles_equal_their_definition(n, marked, draws, chance):
    def above(t):
        return exact_tail(n, marked, draws, t + 1)

    most = most_marked(n, marked, draws, chance)
    assert above(most) <= chance
    assert most == 0 or above(most - 1) > chance
    fewest = fewest_marked(n, marked, draws, chance)
    assert 1 - exact_tail(n, marked, draws, fewest) <= chance
    assert fewest == draws or 1 - exact_tail(n, marked, draws, fewest + 1) > chance


def is_broken(n, threshold, corrupt, least, chosen):
    """What an adversary that sees all choices can do, by trying everything: tell sums of a part of the honest devices.

    Args:
        n: devices; the last `corrupt` of them work for the server.
        threshold: shares that rebuild a secret.
        corrupt: how many are corrupt.
        least: fewest survivors.
        chosen: holders of each honest device, as sets.
    """
    honest = range(n - corrupt)
    bad = set(range(n - corrupt, n))
    if any(len(chosen[i] & bad) >= threshold for i in honest):
        return True
    near = {i: {j for j in honest if j != i and (j in chosen[i] or i in chosen[j])} for i in honest}
    for size in range(max(least - corrupt, 1), len(honest) + 1):
        for alive in itertools.combinations(honest, size):
            rest = set(alive)
            while rest:
                part, fresh = set(), {min(rest)}
                while fresh:
                    part |= fresh
                    fresh = set().union(*(near[i] for i in fresh)) & rest - part
                rest -= part
                opened = all(len(chosen[i] & (part | bad)) >= threshold for i in part)
                if opened and len(part) < size:
                    return True
    return False


@pytest.mark.parametrize(
    ("n", "degree", "threshold", "corrupt", "least"),
    [
        (6, 2, 1, 0, 4),
        (7, 2, 2, 1, 5),
        (8, 2, 1, 1, 6),
        (8, 3, 2, 1, 6),
        (9, 3, 2, 2, 7),
        (9, 4, 2, 1, 6),
        (10, 3, 2, 1, 8),
        (10, 2, 2, 2, 8),
        (11, 4, 2, 1, 9),
    ],
)
def test_no_adversary_does_better_than_the_bound(n, degree, threshold, corrupt, least):
    """The adversary omits whom it likes and opens all that the rules allow; the bound is never below what it gets."""
    rng, tries = np.random.default_rng([n, degree, threshold, corrupt, least]), 400
    broken = 0
    for _ in range(tries):
        chosen = [
            set(rng.choice(np.delete(np.arange(n), i), degree, replace=False).tolist()) for i in range(n - corrupt)
        ]
        broken += is_broken(n, threshold, corrupt, least, chosen)
    bound = 2.0 ** log2_failure(n, degree, threshold, corrupt, least)
    slack = 4 * math.sqrt(max(bound * (1 - bound), 1e-3) / tries)
    assert broken / tries <= bound + slack


def test_the_adversary_of_the_test_finds_what_there_is():
    """Two rings of three that chose nobody of each other: the part is told from the whole."""
    apart = [{1, 2}, {0, 2}, {0, 1}, {4, 5}, {3, 5}, {3, 4}]
    assert is_broken(6, 2, 0, 6, apart)
    joined = [{1, 3}, {0, 2}, {0, 1}, {4, 5}, {3, 5}, {3, 4}]
    assert not is_broken(6, 2, 0, 6, joined)
    assert is_broken(6, 2, 0, 5, joined)  # device 0 or 3 is left out
    assert is_broken(7, 1, 1, 6, [{6, 1}, {0, 2}, {0, 1}, {4, 5}, {3, 5}, {3, 4}])  # its only share is a corrupt one's


@pytest.mark.parametrize("n", [21, 25, 40, 90, 200])
def test_the_bound_does_not_rise_with_the_number_of_survivors(n):
    """So the accepted numbers are an interval up to n: over all shapes of a small n, over a sample of a large one."""
    step = 1 if n < 30 else n // 8
    for corrupt in {0, 1, n // 10, n // 5}:
        for degree in range(2, n // 2, step):
            for threshold in {2, degree // 2 + 1, degree - 1, degree}:
                values = [
                    log2_failure(n, degree, threshold, corrupt, least) for least in range(corrupt + 1, n + 1, step)
                ]
                assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("n", "corruption"), [(21, 0.05), (21, 0.2), (40, 0.1)])
def test_accepted_sessions_are_an_interval_for_every_degree_and_threshold(n, corruption):
    for degree in range(2, n - 1, 1 if n < 30 else 7):
        for threshold in range(2, degree + 1, 1 if n < 30 else 5):
            accepted = []
            for least in range(2, n + 1):
                try:
                    check_session(
                        make_session(n, degree=degree, threshold=threshold, min_survivors=least), 2, 0.0, corruption
                    )
                    accepted.append(least)
                except Misbehaviour:
                    continue
            assert not accepted or accepted == list(range(accepted[0], n + 1))


def test_the_quick_look_never_refuses_what_the_whole_bound_accepts():
    for n, degree, corrupt, least in itertools.product((30, 60), (5, 9, 14), (1, 4), (20, 25)):
        threshold = max(largest_threshold(n, degree, n - least), 2)
        if log2_failure(n, degree, threshold, corrupt, least) <= -20:
            assert may_suffice(n, degree, threshold, corrupt, least, 20)


@pytest.mark.parametrize(("n", "rate"), [(100, 0.1), (300, 0.2), (500, 0.1)])
def test_one_holder_less_would_be_above_the_bound(n, rate):
    graph, corrupt, dropped = choose_graph(n, 0.1, rate), corrupt_among(n, rate), n // 10
    assert log2_failure(n, graph.degree, graph.threshold, corrupt, n - dropped) <= -40
    threshold = largest_threshold(n, graph.degree - 1, dropped)
    assert log2_failure(n, graph.degree - 1, threshold, corrupt, n - dropped) > -40


@pytest.mark.parametrize(("n", "degree", "threshold"), [(10, 5, 5), (10, 5, 4), (21, 9, 8), (40, 12, 12)])
def test_two_honest_devices_are_as_safe_as_their_holders(n, degree, threshold):
    """All but two are corrupt: the chance is that of t corrupt holders among n - 1 others, for either one."""
    known = 2 * exact_tail(n - 1, n - 2, degree, threshold)
    assert log2_failure(n, degree, threshold, n - 2, n) == pytest.approx(min(math.log2(known), 0.0), abs=1e-9)


@pytest.mark.parametrize("corruption", [0.1, 0.2])
@pytest.mark.parametrize("n", [40, 100, 250])
def test_the_bound_counts_every_device_whose_holders_are_corrupt(n, corruption):
    """Case 1 of the proof in whole numbers: H times the chance of one device; the rest only adds to it."""
    corrupt = corrupt_among(n, corruption)
    for degree, threshold in ((n // 4, (corrupt + 1) // 2), (n // 3, corrupt - 1)):
        alone = (n - corrupt) * exact_tail(n - 1, corrupt, degree, threshold)
        assert log2_failure(n, degree, threshold, corrupt, n) >= min(math.log2(alone), 0.0) - 1e-9
