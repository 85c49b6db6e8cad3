"""The oracle itself: it finds what is there, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from fedinfer.secagg.keys import agree, public_of
from tests.protocol.knowledge import Knowledge, MaskedRow, Polynomial, Recorder, released, violations
from tests.protocol.secagg_forge import variants

SEEDS = [bytes([at]) * 32 for at in range(1, 9)]


def hidden(*values: bytes) -> Recorder:
    """A recorder in which these values are honest devices' random bytes."""
    return Recorder(random=bytearray(b"".join(values)))


def row(device: str, sid: bytes = b"one", **seeds: int) -> MaskedRow:
    return MaskedRow(device, sid, Counter({SEEDS[int(name[1:])]: times for name, times in seeds.items()}))


def sums(recorder: Recorder, rows: list[MaskedRow]) -> set[tuple[str, ...]]:
    return {tuple(row.device for row in each) for each in released(rows, Knowledge(recorder))}


def test_masks_that_cancel_release_the_sum_and_no_part_of_it() -> None:
    ring = [row("a", s0=1, s2=-1), row("b", s0=-1, s1=1), row("c", s1=-1, s2=1)]
    assert sums(hidden(*SEEDS), ring) == {("a", "b", "c")}
    assert sums(hidden(*SEEDS), ring[:2]) == set()


def test_a_mask_from_a_constant_hides_nothing() -> None:
    assert sums(hidden(*SEEDS[1:]), [row("a", s0=1)]) == {("a",)}


@pytest.mark.parametrize("times", [0, 2, -2])
def test_a_keystream_that_comes_twice_leaves_the_lowest_bit_open(times: int) -> None:
    assert sums(hidden(*SEEDS), [row("a", s0=times)]) == {("a",)}


def test_one_seed_in_two_sessions_releases_a_difference() -> None:
    recorder = hidden(*SEEDS)
    recorder.masked = [row("a", b"one", s0=1), row("a", b"two", s0=1)]
    assert [(found.sid, found.devices) for found in violations(recorder, [], {b"two": 2})] == [(b"two", ("a",))]


@pytest.mark.parametrize(("seen", "known"), [(2, False), (3, True)])
def test_threshold_shares_are_a_secret_and_one_fewer_is_none(seen: int, known: bool) -> None:
    recorder = hidden(SEEDS[0])
    rows = {point: bytes([100 + point]) * 34 for point in range(5)}
    recorder.polynomials = [Polynomial(SEEDS[0], 3, rows)]
    recorder.sealed = [(SEEDS[1], rows[0]), (SEEDS[2], rows[1])]  # keys that nobody drew are open to all
    recorder.sent = [rows[4]] if seen == 3 else []
    assert Knowledge(recorder).knows(SEEDS[0]) is known


def test_a_private_key_gives_all_its_secrets_and_what_follows_from_them() -> None:
    mine, theirs = SEEDS[0], SEEDS[1]
    secret = agree(theirs, [public_of(mine)])[0]
    recorder = hidden(theirs)
    recorder.secrets, recorder.publics = {secret}, {public_of(theirs)}
    recorder.origins = {SEEDS[5]: SEEDS[4], SEEDS[4]: secret}
    assert Knowledge(recorder, [mine]).knows(SEEDS[5])
    assert not Knowledge(recorder, [SEEDS[2]]).knows(SEEDS[5])


@pytest.mark.parametrize("how", ["equal", "top bit", "torsion"])
def test_encodings_of_one_key_give_one_secret(how: str) -> None:
    point = public_of(SEEDS[3])
    assert agree(SEEDS[0], [variants(point)[how]]) == agree(SEEDS[0], [point])
