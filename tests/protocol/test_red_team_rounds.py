"""A malicious server against running rounds: two tasks at once, two processes at once, the same round names again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedinfer.config import Scenario, to_flat
from fedinfer.coordinator.aggregate.secure_sum import Total
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.session_store import SESSION_MIGRATIONS, MemorySessions, Running, StoredSessions
from fedinfer.errors import Misbehaviour
from fedinfer.messages import JoinRequest, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.store import open_store
from fedinfer.wire import encode
from tests.protocol.fleet import NONCE, SCHEMA, Fleet, enrolled, introduce, real, reopened, settings, simulated, work

LARGE = Budget(8.0, 1e-5)


@pytest.fixture(params=["simulated", "real"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Fleet:
    if request.param == "simulated":
        return simulated(tmp_path, settings(), 4)
    return real(enrolled(tmp_path / "stores", 4, LARGE), settings())


def invitation(fleet: Fleet, run_id: str, scenario: Scenario, nonce: bytes = NONCE) -> bytes:
    members = introduce(fleet.post)
    return encode(
        JoinRequest(
            run_id,
            nonce,
            json.dumps(to_flat(scenario)),
            json.dumps(SCHEMA.to_json()),
            tuple(member.device for member in members),
            tuple(member.public_key for member in members),
            tuple(member.certificate for member in members),
            fleet.revocations,
            b"root",
        )
    )


def at_stage(fleet: Fleet, stage: Kind, act: Callable[[Ask], None]) -> None:
    """Do something on the way of each ask of a stage."""

    def on_ask(ask: Ask) -> list[Ask]:
        if ask.kind == stage:
            fleet.post.on_ask = lambda ask: [ask]
            act(ask)
            fleet.post.on_ask = on_ask
        return [ask]

    fleet.post.on_ask = on_ask


# --- two tasks at once ---


def test_joining_another_task_in_mid_round_does_not_loosen_the_clipping(fleet: Fleet) -> None:
    """The plan was agreed with norm 1. A task with norm 1000, joined before the masked stage, would have the device
    send gradients clipped to 1000 under noise for 1."""
    generous = settings("privacy.clipping_norm = 1000.0")

    def rejoin(ask: Ask) -> None:
        answer = fleet.post.responders[ask.device].answer(
            [Ask(ask.device, Kind.JOIN, invitation(fleet, "other", generous))]
        )[0]
        assert not answer.error

    at_stage(fleet, Kind.MASKED, rejoin)
    result = fleet.sum(fleet.promise("round-1", work()), work())
    assert not isinstance(result, Total)
    answers = fleet.post.answers(Kind.MASKED)
    assert {answer.error for answer in answers.values()} == {"Misbehaviour"}
    assert not any(answer.body for answer in answers.values())
    assert all(not fleet.ledger(device) for device in fleet.roster), "refused before anything was spent"


def test_the_same_run_with_another_clipping_norm_changes_nothing(fleet: Fleet) -> None:
    """A second JoinRequest of the run that a device is in is not read."""
    device = min(fleet.hosts)
    before = fleet.hosts[device].joined()
    generous = invitation(fleet, "run", settings("privacy.clipping_norm = 1000.0"))
    assert not fleet.post.ask([Ask(device, Kind.JOIN, generous)], 1.0)[0].error
    assert fleet.hosts[device].joined() is before


def test_a_server_that_was_started_again_cannot_change_the_run(fleet: Fleet) -> None:
    """A new start draws a new nonce and sends the task again: with the same scenario, or it is refused."""
    device, again = min(fleet.hosts), b"m" * len(NONCE)
    before = fleet.hosts[device].joined()
    generous = invitation(fleet, "run", settings("privacy.clipping_norm = 1000.0"), again)
    answer = fleet.post.ask([Ask(device, Kind.JOIN, generous)], 1.0)[0]
    assert (answer.error, "another scenario" in answer.detail) == ("Misbehaviour", True)
    assert fleet.hosts[device].joined() is before
    same = invitation(fleet, "run", settings(), again)
    assert not fleet.post.ask([Ask(device, Kind.JOIN, same)], 1.0)[0].error
    assert fleet.hosts[device].joined().nonce == again


def test_coming_back_to_a_run_with_another_clipping_norm_does_not_loosen_it(fleet: Fleet) -> None:
    """Out to another run and back again with a changed scenario, all in mid-round."""
    honest, generous = settings(), settings("privacy.clipping_norm = 1000.0")

    def away_and_back(ask: Ask) -> None:
        for run_id, scenario in (("other", honest), ("run", generous)):
            common = invitation(fleet, run_id, scenario)
            assert not fleet.post.responders[ask.device].answer([Ask(ask.device, Kind.JOIN, common)])[0].error

    at_stage(fleet, Kind.MASKED, away_and_back)
    assert not isinstance(fleet.sum(fleet.promise("round-1", work()), work()), Total)
    assert all(not fleet.ledger(device) for device in fleet.roster)


def test_another_run_may_use_the_same_round_names(fleet: Fleet) -> None:
    """Every run calls its first round the same: a device that was in one run can be in the next."""
    assert isinstance(fleet.sum(fleet.promise("round-0001", work()), work()), Total)
    fleet.post.ask([Ask(d, Kind.JOIN, invitation(fleet, "next", settings())) for d in sorted(fleet.roster)], 1.0)
    second = fleet.promise("round-0001", work(), run_id="next")
    assert isinstance(fleet.sum(second, work()), Total)
    assert not isinstance(fleet.sum(second, work()), Total), "but once per run"


def test_a_new_round_ends_the_running_one(fleet: Fleet) -> None:
    """At most one sum at a time: the first one's secrets are gone when the second starts."""
    device = min(fleet.hosts)
    first, second = (fleet.promise(f"round-{n}", work()) for n in (1, 2))
    keys = [fleet.post.ask([Ask(device, Kind.KEYS, encode(plan))], 1.0)[0] for plan in (first, second)]
    assert all(answer.body for answer in keys)
    assert fleet.hosts[device].sessions.load(device).round_id == "round-2"
    assert "started before" in fleet.post.ask([Ask(device, Kind.KEYS, encode(first))], 1.0)[0].detail


# --- two processes at once ---


@pytest.fixture(params=["memory", "stored"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[MemorySessions | StoredSessions, ...]:
    """The sessions of one device as two processes see them."""
    if request.param == "memory":
        one = MemorySessions()
        return one, one
    path = tmp_path / "s.sqlite"
    return tuple(StoredSessions(open_store(path, "sessions", SESSION_MIGRATIONS)) for _ in range(2))


def test_of_two_processes_only_the_first_leaves_a_stage(pair: tuple[StoredSessions, StoredSessions]) -> None:
    """Both read the state before either wrote: two answers to one stage would show two faces in one round."""
    start = Running("one", Kind.KEYS, b"p", b"s", "run")
    pair[0].begin("d", start)
    first, second = (sessions.load("d") for sessions in pair)
    pair[0].advance("d", first, first.at(Kind.SHARES, b"seen by the first"))
    with pytest.raises(Misbehaviour, match="in another process"):
        pair[1].advance("d", second, second.at(Kind.SHARES, b"seen by the second"))
    assert pair[1].load("d").state == b"seen by the first"


def test_a_late_process_does_not_bring_a_finished_round_back(pair: tuple[StoredSessions, StoredSessions]) -> None:
    pair[0].begin("d", Running("one", Kind.SURVIVORS, b"p", b"s", "run"))
    late = pair[1].load("d")
    pair[0].complete("d", pair[0].load("d"))
    for act in (lambda: pair[1].advance("d", late, late.at(Kind.SURVIVORS, b"t")), lambda: pair[1].complete("d", late)):
        with pytest.raises(Misbehaviour, match="in another process"):
            act()
    with pytest.raises(Misbehaviour, match="no running round"):
        pair[1].load("d")


@pytest.mark.parametrize("stage", [Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK])
def test_two_processes_asked_at_once_give_one_answer(stage: Kind, tmp_path: Path) -> None:
    """The second process has read the state before the first one answered; it then works as long as it likes."""
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    device, extra = min(fleet.roster), []

    def race(ask: Ask) -> list[Ask]:
        if ask.kind != stage or ask.device != device:
            return [ask]
        slow = reopened(fleet, device)
        stale = slow.sessions.load(device)
        slow.sessions = _Stale(slow.sessions, stale)
        answer = fleet.post.responders[device].answer([ask])[0]
        assert answer.body
        extra.append(DeviceResponder(slow).answer([ask])[0])
        fleet.post.on_answer = lambda asked, found: [answer] if asked == ask else [found]
        return [ask]

    fleet.post.on_ask = race
    total = fleet.sum(fleet.promise("round-1", work()), work())
    assert isinstance(total, Total)
    assert device in total.survivors
    assert [(answer.error, answer.body) for answer in extra] == [("Misbehaviour", b"")]


class _Stale:
    """A process that still holds what it read; its writes go to the database."""

    def __init__(self, inner: StoredSessions, stale: Running) -> None:
        self.advance, self.complete, self.finish = inner.advance, inner.complete, inner.finish
        self._stale = stale

    def load(self, device: str) -> Running:
        return self._stale


# --- killed between the spend and the answer ---


def test_a_device_killed_between_spend_and_answer_sends_nothing_for_that_round(tmp_path: Path) -> None:
    """It would draw fresh noise over the same rows: two vectors for the price of one."""
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    device, plan = min(fleet.roster), fleet.promise("round-1", work())
    again: list[Answer] = []

    def killed(ask: Ask) -> list[Ask]:
        if ask.kind != Kind.MASKED or ask.device != device:
            return [ask]
        host = fleet.hosts[device]

        def dies(*_: object) -> object:
            raise KeyboardInterrupt

        host.noise = dies  # type: ignore[assignment]  # the process ends here, after the ledger was written
        with pytest.raises(KeyboardInterrupt):
            DeviceResponder(host).answer([ask])
        assert fleet.ledger(device) == ["round-1"]
        again.append(DeviceResponder(reopened(fleet, device)).answer([ask])[0])
        return []

    fleet.post.on_ask = killed
    total = fleet.sum(plan, work())
    assert device not in total.survivors
    assert [(answer.error, answer.body) for answer in again] == [("Misbehaviour", b"")]
    assert "spent before" in again[0].detail
    assert fleet.ledger(device) == ["round-1"]


def test_plans_that_differ_are_different_sessions(fleet: Fleet) -> None:
    """Split views: whoever is told another plan cannot be summed with the others."""
    plan, device = fleet.promise("round-1", work()), min(fleet.roster)
    other = encode(replace(plan, rotation_seed=b"x" * 32))
    fleet.post.on_ask = lambda ask: (
        [replace(ask, common=other)] if (ask.kind, ask.device) == (Kind.KEYS, device) else [ask]
    )
    total = fleet.sum(plan, work())
    assert device not in total.survivors
