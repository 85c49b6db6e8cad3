"""Attacks on graphs of drawn holders that need a plan, and the rule that each of them breaks on.

Every attack is carried out twice: against the devices as they are, where the oracle finds nothing that was not
promised, and with its one rule taken away, where it finds a device's vector. So the rule is what stops it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from fedinfer.secagg import Session, opening, parameters
from fedinfer.secagg import device as answers
from fedinfer.secagg.graph import draw_holders, from_bitmap
from tests.protocol.knowledge import Recorder
from tests.protocol.secagg_enemy import Attempt, Enemy, Owner
from tests.protocol.secagg_forge import Listing, Sets, chosen_holders
from tests.protocol.secagg_play import make_session, names

SIZE = 24
BAD = (3, 11, 19)
SHAPE = {"degree": 13, "threshold": 6, "min_survivors": 15, "dimension": 3, "bits": 16}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    watching = Recorder()
    watching.install(monkeypatch)
    return watching


def meet(recorder: Recorder, size: int = SIZE, bad: tuple[int, ...] = BAD) -> Enemy:
    corrupt = frozenset(names(size)[j] for j in bad)
    return Enemy(names(size), corrupt, Owner(2, 0.0, len(bad) / size), recorder)


def start(enemy: Enemy, session: Session) -> tuple[Attempt, Listing]:
    """Everybody publishes; corrupt devices choose honest holders of their own, as if they were honest."""
    attempt = Attempt(enemy, session)
    attempt.ask_keys()
    return attempt, listed(attempt)


def listed(attempt: Attempt) -> Listing:
    """What the honest devices have published, and the corrupt ones beside them."""
    for name in attempt.corrupt:
        attempt.publish(name)
    return attempt.list_keys()


def share_and_mask(attempt: Attempt, listing: Listing, silent: Iterable[int] = ()) -> None:
    """All share; all but the silent ones send their vectors."""
    attempt.show(listing, attempt.honest)
    quiet = {listing.name(j) for j in silent}
    attempt.deliver(listing, listing.members, [name for name in attempt.honest if name not in quiet])


def close(attempt: Attempt, sets: Sets, without: Iterable[int] = ()) -> None:
    """All honest survivors sign and open."""
    alive = [name for name in attempt.honest if sets.listing.position(name) in sets.survivors - set(without)]
    attempt.sign(sets, alive)
    attempt.open(sets, alive)


def sets_of(listing: Listing, dropped: Iterable[int] = ()) -> Sets:
    gone, everybody = frozenset(dropped), frozenset(listing.members)
    return Sets(listing, everybody, everybody - gone, gone)


def expect_refuge(enemy: Enemy, *, found: bool) -> None:
    """With the rule nothing follows; without it somebody's vector does."""
    assert bool(enemy.violations()) is found, (enemy.violations(), enemy.refusals[:3])


def opened(enemy: Enemy) -> int:
    return enemy.accepted["unmask"]


# --- grinding ---

GROUND = {"degree": 6, "threshold": 5, "min_survivors": 27, "dimension": 3, "bits": 16}
"""A shape so weak that five of thirty devices surround somebody once in a thousand sessions."""


def grind(enemy: Enemy, holders: Callable[[Session, int], Iterable[int]], tries: int) -> Session:
    """The first proposal of which the server believes that some honest device drew corrupt holders enough."""
    bad = {enemy.names.index(name) for name in enemy.corrupt}
    for attempt in range(tries):
        session = make_session(len(enemy.names), round_id=f"{attempt}", **GROUND)
        for j in set(range(len(enemy.names))) - bad:
            if len(bad & set(holders(session, j))) >= session.threshold:
                return session
    raise AssertionError(f"no luck in {tries} tries")


def holders_by_hash(session: Session, position: int) -> list[int]:
    """A rule that everybody can compute, as the graph was made before devices drew."""
    n, seed = len(session.cohort), hashlib.sha256(session.sid + bytes([position])).digest()
    return [int(j) for j in from_bitmap(draw_holders(position, n, session.degree, seed), n)]


@pytest.mark.parametrize("drawn", [True, False])
def test_grinding_the_graph(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, drawn: bool) -> None:
    """The server tries proposals at home until the graph surrounds somebody, and asks devices that one only."""
    monkeypatch.setattr(parameters, "SECURITY_BITS", 4)
    enemy = meet(recorder, 30, (2, 8, 14, 20, 26))
    if not drawn:

        def follow(position: int, size: int, degree: int, _: bytes) -> bytes:
            seed = hashlib.sha256(recorder.sid + bytes([position])).digest()
            return draw_holders(position, size, degree, seed)

        monkeypatch.setattr(answers, "draw_holders", follow)
    attempt, listing = start(enemy, grind(enemy, holders_by_hash, 5_000))
    share_and_mask(attempt, listing)
    close(attempt, sets_of(listing))
    assert opened(enemy) == 25
    expect_refuge(enemy, found=not drawn)


def test_corrupt_devices_do_not_change_whom_an_honest_device_chose(recorder: Recorder) -> None:
    """Other key messages and another list give another hash, and the same holders of every honest device."""
    enemy = meet(recorder)
    attempt, first = start(enemy, make_session(SIZE, **SHAPE))
    for name in attempt.corrupt:
        others = [j for j in range(SIZE) if names(SIZE)[j] != name]
        attempt.publish(name, holders=tuple(others[-13:]))
    second = attempt.list_keys(omit=[names(SIZE)[0]])
    assert first.digest != second.digest
    for name in attempt.honest[1:]:
        chosen = set(chosen_holders(attempt.session, attempt.messages[name][0]))
        at = first.position(name)
        assert set(first.holders(at)) == chosen
        assert set(second.holders(at)) == chosen - {0}


# --- one view for all ---


@pytest.mark.parametrize("quorum", [True, False])
def test_two_survivor_sets(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, quorum: bool) -> None:
    """Half of the target's holders are shown that it survived, the other half that it dropped out."""
    if not quorum:
        monkeypatch.setattr(answers, "check_quorum", lambda *_: None)
    enemy = meet(recorder)
    attempt, listing = start(enemy, make_session(SIZE, **SHAPE))
    share_and_mask(attempt, listing)
    target = listing.position(attempt.honest[0])
    holders = [j for j in listing.holders(target) if listing.name(j) not in enemy.corrupt]
    lost, kept = sets_of(listing, [target]), sets_of(listing)
    there = holders[::2]
    attempt.sign(lost, [listing.name(j) for j in there])
    attempt.sign(kept, [name for name in attempt.honest if listing.position(name) not in there])
    attempt.open(lost, [listing.name(j) for j in there])
    attempt.open(kept, [name for name in attempt.honest if listing.position(name) not in there])
    expect_refuge(enemy, found=not quorum)


@dataclass(frozen=True)
class Trap:
    """A target that is shown other sharers than everybody else, all of whose partners among them will be dropped."""

    target: int
    sharers: frozenset[int]
    dropped: frozenset[int]


def find_trap(listing: Listing, bad: Iterable[int]) -> Trap:
    corrupt, session = set(bad), listing.session
    for target in sorted(set(listing.members) - corrupt):
        holders, partners = set(listing.holders(target)), set(listing.partners(target))
        strangers = set(listing.members) - partners - {target}
        most = len(listing.members) - session.quorum - 1  # the target itself will not sign
        honest = sorted(holders - corrupt)
        stay = session.threshold - len(holders & corrupt)  # holders who must open its self mask
        dropped = honest[: min(most, len(honest) - stay)]
        sharers = {target, *corrupt, *dropped, *strangers}
        if len(sharers) >= session.least and len(sharers & holders) >= session.threshold:
            return Trap(target, frozenset(sharers), frozenset(dropped))
    raise AssertionError("no device can be trapped")


@pytest.mark.parametrize("acknowledged", [True, False])
def test_other_sharers_for_one_device(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, acknowledged: bool) -> None:
    """The target masks with devices that are dropped then; only its acknowledgement tells its holders."""
    if not acknowledged:
        monkeypatch.setattr(opening, "_unacknowledged", lambda *_: set())
    enemy = meet(recorder)
    attempt, listing = start(enemy, make_session(SIZE, **SHAPE))
    trap = find_trap(listing, BAD)
    share_and_mask(attempt, listing, [trap.target, *trap.dropped])
    attempt.deliver(listing, trap.sharers, [listing.name(trap.target)])
    close(attempt, sets_of(listing, trap.dropped), [trap.target])
    assert opened(enemy) == SIZE - len(BAD) - len(trap.dropped) - 1
    expect_refuge(enemy, found=not acknowledged)


# --- cutting a few off ---


@dataclass(frozen=True)
class Island:
    """A few devices that open each other, all of whose other partners may be dropped."""

    few: frozenset[int]
    dropped: frozenset[int]


def find_island(listing: Listing, bad: Iterable[int]) -> Island | None:
    corrupt, session = set(bad), listing.session
    honest = [j for j in listing.members if j not in corrupt]
    for size in (1, 2, 3):
        for few in itertools.combinations(honest, size):
            inside = corrupt | set(few)
            if all(len(inside & set(listing.holders(j))) >= session.threshold for j in few):
                outside = {i for j in few for i in listing.partners(j)} - inside
                if len(listing.members) - len(outside) >= max(session.least, session.quorum):
                    return Island(frozenset(few), frozenset(outside))
    return None


WEAK = SHAPE | {"degree": 4, "threshold": 2, "min_survivors": 14}


@pytest.mark.parametrize(("shape", "judged"), [(SHAPE, True), (WEAK, True), (WEAK, False)], ids=["safe", "weak", "bad"])
def test_cutting_a_few_devices_off(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, shape: dict[str, int], judged: bool
) -> None:
    """The server sees who chose whom, and drops whoever shares a mask with a few.

    A safe shape has no such few; one that has them is used only where devices do not judge it.
    """
    if not judged:
        monkeypatch.setattr(parameters, "_is_safe", lambda *_: True)
    enemy, found = meet(recorder), False
    for attempt_at in range(8):
        attempt = Attempt(enemy, make_session(SIZE, round_id=f"{attempt_at}", **shape))
        attempt.ask_keys()
        listing = listed(attempt) if attempt.messages else None
        island = find_island(listing, BAD) if listing is not None else None
        if listing is not None and island is not None:
            share_and_mask(attempt, listing, island.dropped)
            close(attempt, sets_of(listing, island.dropped))
            found = True
            break
    assert found is not judged
    expect_refuge(enemy, found=not judged)


def test_the_shape_in_which_a_few_can_be_cut_off_is_refused(recorder: Recorder) -> None:
    enemy = meet(recorder)
    attempt = Attempt(enemy, make_session(SIZE, **WEAK))
    attempt.ask_keys()
    assert attempt.messages == {}
    assert len(enemy.refusals) == SIZE - len(BAD)
