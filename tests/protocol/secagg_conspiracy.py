"""An enemy that is the server and some devices and sends ANY messages it can make, as a hypothesis state machine.

Rules ask honest devices any stage with key lists, boxes, survivor sets and signatures composed from what was seen:
copied, left out, swapped, cut, replayed, of other sessions, different for different devices, or forged with the enemy's
own keys. After every answer that may have told something the oracle of `knowledge` computes what follows. Sessions
promise sums over `least` devices less the corrupt ones, and at least two.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedinfer.secagg import Session, StageRequest
from tests.protocol import secagg_forge as forge
from tests.protocol.knowledge import Recorder
from tests.protocol.secagg_enemy import Attempt, Enemy, Owner
from tests.protocol.secagg_forge import Listing, Sets
from tests.protocol.secagg_play import make_session, names

MOST_ATTEMPTS = 4
COPIES = ("equal", "top bit", "not reduced", "torsion")


class Conspiracy(RuleBasedStateMachine):
    """Up to eight devices in a complete graph, some of them corrupt; up to four sessions, also mixed."""

    slowly = True
    """Whether sessions also go on message by message from the start."""
    copying = 2
    """Where a device may copy keys, one in so many does; at 1 it does everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.recorder = Recorder()
        self.recorder.install(self.patch)
        self.attempts: list[Attempt] = []
        self.looked_at = (0, 0)

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(data=st.data(), n=st.sampled_from([8, 4, 5, 6, 7, 3]))
    def meet(self, data: Any, n: int) -> None:
        most = max(1, 2 * _usual(n) - n - 1)
        corrupt = data.draw(st.sets(st.sampled_from(names(n)), min_size=1, max_size=most))
        floor = data.draw(st.sampled_from([2, 2, n // 2 + 1]))
        self.enemy = Enemy(names(n), frozenset(corrupt), Owner(floor, 0.1, (len(corrupt) - 0.5) / n), self.recorder)

    @precondition(lambda self: self.slowly and len(self.attempts) < MOST_ATTEMPTS)
    @precondition(lambda self: all(one.views for one in self.attempts[-1:]))
    @rule(data=st.data())
    def propose(self, data: Any) -> None:
        """A session; honest devices answer with keys, corrupt ones with what they like."""
        attempt = Attempt(self.enemy, self._session(data))
        self.attempts.append(attempt)
        attempt.ask_keys()
        for name in attempt.corrupt:
            self._publish(data, attempt, name)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def publish(self, data: Any) -> None:
        """A corrupt device says something else than before."""
        attempt = self._attempt(data)
        if attempt.corrupt:
            self._publish(data, attempt, data.draw(st.sampled_from(attempt.corrupt)))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def show(self, data: Any) -> None:
        """A list, old or new, to all or some; and then they may deal."""
        attempt = self._attempt(data)
        if not attempt.lists or data.draw(st.booleans()):
            which = {name: data.draw(st.integers(0, 1)) for name in attempt.corrupt}
            attempt.list_keys(_few(data, attempt.session.cohort, attempt.spare), which)
        listing = data.draw(st.sampled_from(attempt.lists))
        attempt.show(listing, _most(data, attempt.listed(listing)))

    @precondition(lambda self: any(attempt.lists for attempt in self.attempts))
    @rule(data=st.data(), swap=st.sampled_from([False, False, False, True]))
    def deliver(self, data: Any, swap: bool) -> None:
        attempt, listing = self._listing(data)
        attempt.shared.append(frozenset(listing.members) - _few(data, listing.members, attempt.spare))
        shared = data.draw(st.sampled_from(attempt.shared))
        attempt.deliver(listing, shared, _most(data, attempt.listed(listing)), swap=swap)

    @precondition(lambda self: any(attempt.shared for attempt in self.attempts))
    @rule(data=st.data())
    def sign(self, data: Any) -> None:
        attempt, listing = self._listing(data, shared=True)
        attempt.views.append(self._sets(data, attempt, listing))
        attempt.sign(attempt.views[-1], _most(data, attempt.listed(listing)))

    @precondition(lambda self: any(attempt.views for attempt in self.attempts))
    @rule(data=st.data())
    def open(self, data: Any) -> None:
        attempt = data.draw(st.sampled_from([attempt for attempt in self.attempts if attempt.views]))
        sets = data.draw(st.sampled_from(attempt.views))
        attempt.open(sets, _most(data, attempt.listed(sets.listing)))

    @precondition(lambda self: self.attempts and self.enemy.requests)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        """Any request that was ever made, to anybody, whole or with parts of another, or damaged."""
        request = data.draw(st.sampled_from(self.enemy.requests))
        other = data.draw(st.sampled_from(self.enemy.requests))
        at = data.draw(st.integers(0, max(0, len(request.common) - 1)))
        changed = data.draw(
            st.sampled_from(
                [
                    request,
                    StageRequest(request.stage, request.common, other.own),
                    StageRequest(request.stage, other.common, request.own),
                    StageRequest(other.stage, request.common, request.own),
                    StageRequest(request.stage, request.common[:at], request.own),
                    StageRequest(request.stage, request.common, request.own[:-1]),
                    StageRequest(request.stage, _flip(request.common, at), request.own),
                ]
            )
        )
        self.enemy.ask(data.draw(st.sampled_from(sorted(self.enemy.devices))), changed)

    @precondition(lambda self: len(self.attempts) < MOST_ATTEMPTS)
    @rule(data=st.data())
    def rush(self, data: Any) -> None:
        """A whole session, so that late stages are reached often: half of them plain, half with two of everything."""
        wild = data.draw(st.booleans())
        attempt = Attempt(self.enemy, self._session(data))
        self.attempts.append(attempt)
        attempt.ask_keys()
        for name in attempt.corrupt:
            self._publish(data, attempt, name, copies=wild or self.copying == 1)
        left_out = [_few(data, attempt.session.cohort, attempt.spare) if wild else set() for _ in range(1 + wild)]
        lists = [attempt.list_keys(names) for names in left_out][: data.draw(st.integers(1, 1 + wild))]
        sides = {name: data.draw(st.integers(0, 1)) if wild else 0 for name in attempt.honest}
        seen = {name: lists[side % len(lists)] for name, side in sides.items()}
        seen = {name: listing for name, listing in seen.items() if listing.position(name) in listing.messages}
        for name, listing in seen.items():
            attempt.show(listing, [name])
        attempt.shared = [frozenset(x.members) - _few(data, x.members, attempt.spare // 2 * wild) for x in lists]
        for name, listing in seen.items():
            attempt.deliver(listing, attempt.shared[lists.index(listing)], [name])
        pairs = {x.digest: [self._sets(data, attempt, x, at) for _ in range(1 + wild)] for at, x in enumerate(lists)}
        views = {name: pairs[listing.digest][sides[name]] for name, listing in seen.items()}
        attempt.views += list(views.values())
        for name, sets in views.items():
            attempt.sign(sets, [name])
        for name, sets in views.items():
            attempt.open(sets, [name])

    @invariant()
    def no_vector_follows(self) -> None:
        now = (len(self.recorder.masked), len(self.recorder.sent))
        if now != self.looked_at:
            self.looked_at = now
            found = self.enemy.violations() if self.recorder.masked else []
            assert not found, str(found[0])

    # --- choices: mostly such as get far, sometimes any ---

    def _session(self, data: Any) -> Session:
        cohort = self.enemy.names
        if len(cohort) > 3 and data.draw(st.integers(0, 4)) == 0:
            absent = data.draw(st.sampled_from(cohort))
            cohort = tuple(name for name in cohort if name != absent)
        n = len(cohort)
        threshold = data.draw(st.sampled_from([_usual(n)] * 20 + list(range(2, n + 1))))
        floors = [min(self.enemy.owner.min_survivors, n)] * 4 + [min(threshold + 1, n)] * 2
        floor = data.draw(st.sampled_from(floors + list(range(2, n + 1))))
        values: dict[str, Any] = {"degree": n - 1, "threshold": threshold, "min_survivors": floor}
        return make_session(n, cohort=cohort, round_id=str(len(self.attempts)), dimension=3, bits=16, **values)

    def _publish(self, data: Any, attempt: Attempt, name: str, *, copies: bool = True) -> None:
        """Fresh keys, or somebody's mask or box key in one of its encodings, in either place."""
        made = [message for messages in attempt.messages.values() for message in messages if message.name != name]
        keys: dict[str, bytes] = {}
        if copies and made and data.draw(st.integers(1, self.copying)) == 1:
            victim = data.draw(st.sampled_from(made))
            place = data.draw(st.sampled_from(["mask_key", "mask_key", "box_key"]))
            taken = data.draw(st.sampled_from([victim.mask_key, victim.mask_key, victim.box_key]))
            keys[place] = forge.variants(taken).get(data.draw(st.sampled_from(COPIES)), taken)
        attempt.publish(name, **keys)

    def _attempt(self, data: Any) -> Attempt:
        """Mostly the last."""
        return data.draw(st.sampled_from([self.attempts[-1]] * 3 + self.attempts))

    def _listing(self, data: Any, *, shared: bool = False) -> tuple[Attempt, Listing]:
        attempts = [attempt for attempt in self.attempts if (attempt.shared if shared else attempt.lists)]
        attempt = data.draw(st.sampled_from([attempts[-1]] * 3 + attempts))
        return attempt, data.draw(st.sampled_from([attempt.lists[-1]] * 2 + attempt.lists))

    def _sets(self, data: Any, attempt: Attempt, listing: Listing, at: int | None = None) -> Sets:
        usual = attempt.shared[-1:] * 3 + attempt.shared
        shared = attempt.shared[at] if at is not None else data.draw(st.sampled_from(usual))
        most = max(0, len(shared) - attempt.session.least)
        dropped = frozenset(_few(data, sorted(shared), most))
        survivors = shared - dropped
        wrong = data.draw(st.integers(0, 9))
        if wrong == 0:
            survivors -= frozenset(_few(data, sorted(survivors), 1))
        if wrong <= 2:
            survivors |= frozenset(_few(data, sorted(dropped), len(dropped)))
        return Sets(listing, shared, survivors, dropped)


class DrawnConspiracy(Conspiracy):
    """21 devices and more, where everybody draws holders: shapes that the floor accepts, and any others."""

    slowly = False
    bold = 4
    """One session in so many has a shape that no honest server would propose."""

    @initialize(data=st.data(), n=st.sampled_from([21, 24]), corrupt=st.sampled_from([2, 3]))
    def meet(self, data: Any, n: int, corrupt: int) -> None:
        bad = frozenset(names(n)[:: n // corrupt][:corrupt])
        self.enemy = Enemy(names(n), bad, Owner(2, 0.1, (corrupt - 0.5) / n), self.recorder)

    def _session(self, data: Any) -> Session:
        n, corrupt = len(self.enemy.names), len(self.enemy.corrupt)
        least = (n + corrupt) // 2 + 1
        degree, threshold, floor = data.draw(st.sampled_from(SAFE_SHAPES[n, corrupt]))
        if data.draw(st.integers(1, self.bold)) == 1:
            degree, threshold = data.draw(st.tuples(st.integers(least - 1, n - 2), st.integers(2, corrupt)))
            floor = data.draw(st.sampled_from([least, least, 2, n]))
        values: dict[str, Any] = {"degree": degree, "threshold": threshold, "min_survivors": floor}
        return make_session(n, round_id=str(len(self.attempts)), dimension=3, bits=16, **values)

    def _publish(self, data: Any, attempt: Attempt, name: str, *, copies: bool = True) -> None:
        at, session = attempt.session.cohort.index(name), attempt.session
        others = [j for j in range(len(session.cohort)) if j != at]
        start = data.draw(st.integers(0, len(others) - 1))
        attempt.publish(name, holders=tuple((others[start:] + others[:start])[: session.degree]))


SAFE_SHAPES = {
    (21, 2): [(8, 4, 18), (10, 6, 15), (13, 3, 12)],
    (21, 3): [(8, 5, 19), (10, 6, 16), (13, 4, 13)],
    (24, 2): [(8, 5, 20), (10, 8, 18), (13, 5, 15)],
    (24, 3): [(8, 6, 21), (10, 5, 19), (13, 6, 15)],
}
"""(degree, threshold, least floor that a device accepts) by devices and corrupt ones; a test keeps them true."""


def _usual(n: int) -> int:
    return 2 * n // 3 + 1


def _few(data: Any, items: Any, most: int) -> set[Any]:
    """Up to `most`, seldom more."""
    items = list(items)
    most = min(len(items), most + (data.draw(st.integers(0, 5)) == 0))
    count = data.draw(st.sampled_from([0, most, most, *range(most + 1)]))
    return set(data.draw(st.permutations(items))[:count]) if count else set()


def _most(data: Any, items: list[str]) -> list[str]:
    """Mostly everybody, in any order."""
    left = _few(data, items, 2) if data.draw(st.booleans()) else set()
    return [item for item in items if item not in left]


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else data
