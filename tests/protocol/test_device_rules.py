"""Every rule that the device's modules promise (device/sums.py, sessions.py, join.py), tried on simulated devices in
memory and on real devices over their SQLite stores. The server may say what it likes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer.config import to_flat
from fedinfer.deployment.node import OwnRows
from fedinfer.device.counted import layout_of
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.device.session_store import SESSION_MIGRATIONS, MemorySessions, Running, StoredSessions
from fedinfer.device.validity import MemoryKnown
from fedinfer.drift import report_channels, width
from fedinfer.errors import Misbehaviour
from fedinfer.messages import (
    EnrollReply,
    JoinReply,
    JoinRequest,
    Kind,
    MaskedSumWork,
    PlainReply,
    PlainRequest,
    Purpose,
    ReportWork,
    SumPlan,
)
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.accounting.ledger import ANY_TASK, Budget, Protected
from fedinfer.schema import Numeric
from fedinfer.secagg.enrolment import Enrolment, sign_enrolment
from fedinfer.secagg.keys import IdentityKey
from fedinfer.simulation.population import NO_END
from fedinfer.store import open_store
from fedinfer.system import SimulatedEntropy
from fedinfer.types import AggregationMode, Relation, Trust, Unit
from fedinfer.wire import decode, encode
from tests.protocol.fleet import (
    CHALLENGE,
    NONCE,
    SCHEMA,
    Fleet,
    enrolled,
    introduce,
    real,
    reopened,
    revocations_of,
    settings,
    simulated,
    work,
)

LARGE = Budget(8.0, 1e-5)
UNREADABLE = ["", "{", "[]", "null", '"text"', '{"columns": 3}', '{"a.b": 1}', '{"scenario": "heart"}']


@pytest.fixture(params=["simulated", "real"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Fleet:
    if request.param == "simulated":
        return simulated(tmp_path, settings(), 4)
    return real(enrolled(tmp_path / "stores", 4, LARGE), settings())


@dataclass
class SpiedRows:
    """Rows that note what the ledger held when somebody read them."""

    host: Host
    inner: Any
    reads: list[tuple[str, list[str]]] = field(default_factory=list)

    def training(self, device: str, window: int) -> Any:
        self.reads.append((device, [entry.reference for entry in self.host.ledger.entries(device)]))
        return self.inner.training(device, window)

    def stream(self, device: str, window: int) -> Any:
        return self.inner.stream(device, window)

    def unseen(self, device: str, window: int) -> Any:
        return self.inner.unseen(device, window)

    def training_count(self, device: str) -> int:
        return self.inner.training_count(device)

    def division(self, device: str) -> str:
        return self.inner.division(device)


def spy(fleet: Fleet) -> list[SpiedRows]:
    spies = []
    for host in {id(host): host for host in fleet.hosts.values()}.values():
        host.rows = SpiedRows(host, host.rows)
        spies.append(host.rows)
    return spies


def first(fleet: Fleet) -> str:
    return min(fleet.hosts)


def tell(fleet: Fleet, device: str, kind: Kind, common: bytes, own: bytes = b"") -> Answer:
    return fleet.post.ask([Ask(device, kind, common, own)], 1.0)[0]


def empty_purse(fleet: Fleet, device: str) -> None:
    """Spend nearly all that the device's owner allows, in another run."""
    ledger = fleet.hosts[device].ledger
    budget = ledger.budget(device, ANY_TASK)
    ledger.open_accounts([device], "earlier", budget, Protected(Unit.EXAMPLE, Relation.ZERO_OUT))
    now = fleet.hosts[device].clock.now()
    for noise in (1.0, 4.0, 16.0, 64.0):  # ever smaller bites, until the smallest is refused
        for number in range(100):
            if ledger.reserve([device], "earlier", f"{noise}-{number}", [GaussianEvent(noise)], "x", now)[device]:
                break
        else:
            raise AssertionError("the budget never ended")


# --- a plan that does not name this device, or hides it among too few, is refused ---


def test_a_plan_that_does_not_name_this_device_is_refused(fleet: Fleet) -> None:
    device = first(fleet)
    others = tuple(sorted(set(fleet.roster) - {device}))
    plan = fleet.promise("round-1", work(), cohort=others, degree=2, threshold=3, min_survivors=3)
    answer = tell(fleet, device, Kind.KEYS, encode(plan))
    assert answer.error == "Misbehaviour"
    assert "not in the cohort" in answer.detail
    assert not answer.body


def test_a_plan_that_hides_it_among_too_few_is_refused(fleet: Fleet) -> None:
    device = first(fleet)
    host = fleet.hosts[device]
    host.policy = replace(host.policy, min_survivors=4)
    answer = tell(fleet, device, Kind.KEYS, encode(fleet.promise("round-1", work(), min_survivors=3)))
    assert answer.error == "Misbehaviour"
    assert "3 survivors of 4" in answer.detail
    assert "owner's min_survivors 4 bound" in answer.detail


@pytest.mark.parametrize(("corruption_rate", "dropout_rate", "accepted"), [(0.0, 0.4, True), (0.4, 0.0, False)])
def test_each_rate_of_the_owner_stands_for_itself(
    fleet: Fleet, corruption_rate: float, dropout_rate: float, accepted: bool
) -> None:
    """Everybody masks with everybody: dropouts harm nobody there, corrupt devices do."""
    device = first(fleet)
    host = fleet.hosts[device]
    host.policy = replace(host.policy, min_survivors=3, corruption_rate=corruption_rate, dropout_rate=dropout_rate)
    answer = tell(fleet, device, Kind.KEYS, encode(fleet.promise("round-1", work(), min_survivors=3)))
    assert (not answer.error) is accepted, answer.detail


def test_a_plan_that_promises_more_survivors_than_its_cohort_is_refused(fleet: Fleet) -> None:
    answer = tell(fleet, first(fleet), Kind.KEYS, encode(fleet.promise("round-1", work(), min_survivors=5)))
    assert answer.error in ("Misbehaviour", "BadMessage")


def test_a_plan_of_another_run_is_refused(fleet: Fleet) -> None:
    answer = tell(fleet, first(fleet), Kind.KEYS, encode(fleet.promise("round-1", work(), run_id="other")))
    assert answer.error == "Misbehaviour"
    assert "'other'" in answer.detail


def test_a_plan_that_protects_another_unit_than_was_joined_is_refused(fleet: Fleet) -> None:
    for unit in (Unit.DEVICE, Unit.NONE):
        answer = tell(fleet, first(fleet), Kind.KEYS, encode(fleet.promise(f"round-{unit}", work(), unit=unit)))
        assert answer.error == "Misbehaviour", unit


def test_a_plan_whose_ring_does_not_fit_its_mechanism_is_refused(fleet: Fleet) -> None:
    answer = tell(fleet, first(fleet), Kind.KEYS, encode(fleet.promise("round-1", work(), bits=8)))
    assert answer.error == "Misbehaviour"


def test_a_plan_without_the_promised_noise_is_refused(fleet: Fleet) -> None:
    """A mechanism without noise under trust `distributed` costs infinity: the ledger says no before data is touched."""
    from fedinfer.privacy.mechanism.design import design_without_noise
    from fedinfer.privacy.mechanism.mechanism import Rounding

    spies = spy(fleet)
    bare = design_without_noise(
        rounding=Rounding.DITHERED, unit=Unit.EXAMPLE, dimension=14, clipping_norm=1.0, summands=4, units=64,
        max_loss=0.01,
    )  # fmt: skip
    plan = fleet.promise(
        "round-1", work(), mechanism=encode(bare), bits=bare.bits, dimension=bare.padded, min_survivors=3
    )
    fleet.sum(plan, work())
    refusals = {answer.error for kind in Kind for answer in fleet.post.answers(kind).values() if answer.error}
    assert refusals <= {"BudgetExceeded", "Misbehaviour"}
    assert refusals
    assert all(not spy.reads for spy in spies)


@pytest.mark.parametrize("trust", [Trust.LOCAL, Trust.CENTRAL])
def test_a_plan_with_zero_noise_under_other_trusts_is_refused(fleet: Fleet, trust: Trust) -> None:
    spies = spy(fleet)
    fleet.sum(fleet.promise("round-1", work(), trust=trust, noise_multiplier=0.0), work())
    assert all(not spy.reads for spy in spies)


def test_a_real_device_refuses_a_graph_that_a_corrupt_server_could_cut(tmp_path: Path) -> None:
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    plan = fleet.promise("round-1", work(), threshold=2)
    answer = tell(fleet, first(fleet), Kind.KEYS, encode(plan))
    assert answer.error == "Misbehaviour"
    assert "threshold 2" in answer.detail


# --- spend is written to the device's ledger before data is touched ---


def test_spend_is_written_to_the_ledger_before_data_is_touched(fleet: Fleet) -> None:
    spies = spy(fleet)
    fleet.sum(fleet.promise("round-1", work()), work())
    reads = [read for spy in spies for read in spy.reads]
    assert sorted(device for device, _ in reads) == sorted(fleet.roster)
    assert all(references == ["round-1"] for _, references in reads)
    for device in fleet.roster:
        assert all(entry.committed_at for entry in fleet.hosts[device].ledger.entries(device))


def test_a_device_that_fails_while_it_computes_has_paid_all_the_same(fleet: Fleet) -> None:
    device = first(fleet)
    host = fleet.hosts[device]

    def broken(*_: object) -> Any:
        raise Misbehaviour("the data is gone")

    host.generator = broken
    plan = fleet.promise("round-1", work())
    fleet.sum(plan, work())
    assert fleet.ledger(device) == ["round-1"]
    assert fleet.post.answers(Kind.MASKED)[device].error == "Misbehaviour"


def test_a_device_charges_what_the_plan_costs_not_what_the_server_says(fleet: Fleet) -> None:
    """The price follows from the mechanism in the plan, and equals what the server wrote into its own ledger."""
    from fedinfer.privacy.accounting.accountant import account
    from fedinfer.privacy.accounting.events import Composed
    from fedinfer.privacy.charges import WindowRows, charge, server_charge

    plan = fleet.promise("round-1", work())
    fleet.sum(plan, work())
    device = first(fleet)
    entry = fleet.hosts[device].ledger.entries(device)[0]
    division = fleet.hosts[device].rows.division(device)
    assert entry.event == Composed(charge(plan, division))
    server = account(server_charge(plan, str(WindowRows.HELD_OUT)), 1e-5, Relation.ZERO_OUT)
    assert account([entry.event], 1e-5, Relation.ZERO_OUT) == server


# --- rows stay in their part ---


def reports(fleet: Fleet, device: str, round_id: str, purpose: Purpose) -> Answer:
    """What a device answers when a sum of this purpose comes to its vector, with everybody else as usual."""
    job = work() if purpose is Purpose.TRAIN else encode(ReportWork(1))
    for each in fleet.hosts:
        host = fleet.hosts[each]
        channels = report_channels(SCHEMA.classes)
        host.sketches.put(each, 1, np.zeros(width(channels), np.float32), layout_of(channels))
    fleet.sum(fleet.promise(round_id, job, purpose=purpose), job)
    return fleet.post.answers(Kind.MASKED)[device]


def test_a_device_whose_table_grew_leaves_the_run_because_its_rows_changed_their_part(tmp_path: Path) -> None:
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    device = first(fleet)
    assert not reports(fleet, device, "round-1", Purpose.TRAIN).error
    table = tmp_path / "stores" / f"{device}.csv"
    table.write_text(table.read_text() + "0.5,0.5,5.0,no\n")
    fleet.hosts[device].rows = reopened(fleet, device).rows  # the next message may find a fresh process
    fleet.hosts[device].rows.host = fleet.hosts[device]  # type: ignore[attr-defined]  # rows of a real device
    refused = reports(fleet, device, "window-1", Purpose.DRIFT)
    assert refused.error == "Misbehaviour"
    assert "divided otherwise than when the run began" in refused.detail
    assert fleet.ledger(device) == ["round-1"], "nothing was charged for what did not leave"
    other = sorted(fleet.hosts)[1]
    assert not fleet.post.answers(Kind.MASKED)[other].error


def test_live_windows_add_up_with_rounds_and_canary_evaluations_do_not(tmp_path: Path) -> None:
    from fedinfer.privacy.accounting.accountant import account
    from fedinfer.privacy.charges import charge

    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    device = first(fleet)
    for round_id, purpose in (("round-1", Purpose.TRAIN), ("window-1", Purpose.DRIFT)):
        assert not reports(fleet, device, round_id, purpose).error
    ledger, plans = fleet.hosts[device].ledger, (fleet.promise("r", work()), fleet.promise("w", b"", Purpose.DRIFT))
    together = account([*charge(plans[0]), *charge(plans[1])], LARGE.delta, Relation.ZERO_OUT).epsilon
    assert ledger.spent(device, ANY_TASK).epsilon == pytest.approx(together), "a live case may be a training row"
    looked = replace(plans[1], purpose=Purpose.GATE)
    split = fleet.hosts[device].rows.division(device)
    now = fleet.hosts[device].clock.now()
    assert ledger.reserve([device], "run", "gate-1", charge(looked, split), "", now)[device] is None
    assert ledger.spent(device, ANY_TASK).epsilon == pytest.approx(together), "held-out rows are not trained on"
    # A later run holds out other rows: a row may have been trained on here and be held out there.
    ledger.open_accounts([device], "later", LARGE, Protected(Unit.EXAMPLE, Relation.ZERO_OUT))
    events = charge(looked, "another division")
    assert ledger.reserve([device], "later", "gate-1", events, "", now)[device] is None
    three = account([*charge(plans[0]), *charge(plans[1]), *charge(looked)], LARGE.delta, Relation.ZERO_OUT).epsilon
    assert ledger.spent(device, ANY_TASK).epsilon == pytest.approx(three)


# --- a refused device answers with BudgetExceeded and touches nothing ---


def test_a_refused_device_answers_with_budget_exceeded_and_touches_nothing(fleet: Fleet) -> None:
    device = first(fleet)
    empty_purse(fleet, device)
    spies = spy(fleet)
    fleet.sum(fleet.promise("round-1", work()), work())
    answer = fleet.post.answers(Kind.MASKED)[device]
    assert answer.error == "BudgetExceeded"
    assert "spent" in answer.detail
    assert "budget" in answer.detail
    assert not answer.body
    assert device not in [name for spy in spies for name, _ in spy.reads]
    assert "round-1" not in fleet.ledger(device)
    assert fleet.hosts[device].refused[device] == 1


def kept(fleet: Fleet, device: str) -> bool:
    """Whether the device still holds secrets of a round."""
    host = fleet.hosts[device]
    try:
        host.sessions.load(device)
    except Misbehaviour:
        return device in host.states
    return True


def test_a_refused_device_erases_its_secrets_at_once(fleet: Fleet) -> None:
    device = first(fleet)
    empty_purse(fleet, device)
    before: list[bool] = []

    def evaluate_canaries(ask: Ask) -> list[Ask]:
        if ask.device == device and ask.kind == Kind.MASKED:
            before.append(kept(fleet, device))
        return [ask]

    fleet.post.on_ask = evaluate_canaries
    fleet.sum(fleet.promise("round-1", work(), min_survivors=3), work())
    assert before == [True]
    assert not kept(fleet, device)


def test_work_that_was_not_promised_erases_the_secrets(fleet: Fleet) -> None:
    fleet.sum(fleet.promise("round-1", work(window=0)), work(window=1))
    assert not any(kept(fleet, device) for device in fleet.roster)


@pytest.mark.parametrize("kind", [Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK])
def test_a_request_that_a_device_refuses_erases_its_secrets(fleet: Fleet, kind: Kind) -> None:
    device = first(fleet)

    def forge(ask: Ask) -> list[Ask]:
        if ask.device != device or ask.kind != kind:
            return [ask]
        return [replace(ask, own=b"nonsense")]

    fleet.post.on_ask = forge
    fleet.sum(fleet.promise("round-1", work(), min_survivors=3), work())
    assert fleet.post.answers(kind)[device].error
    assert not kept(fleet, device)


def test_a_message_that_comes_twice_leaves_the_round_of_the_first_alone(fleet: Fleet) -> None:
    """Only who is refused is out: a repeated request finds the state one stage further and changes nothing."""
    fleet.post.on_ask = lambda ask: [ask, ask] if ask.kind != Kind.KEYS else [ask]
    fleet.post.on_answer = lambda ask, answer: [] if answer.error else [answer]
    total = fleet.sum(fleet.promise("round-1", work()), work())
    assert total.survivors == tuple(sorted(fleet.roster))


def test_the_others_go_on_without_a_refused_device(fleet: Fleet) -> None:
    device = first(fleet)
    empty_purse(fleet, device)
    total = fleet.sum(fleet.promise("round-1", work(), min_survivors=3), work())
    assert total.refused == (device,)
    assert total.survivors == tuple(sorted(set(fleet.roster) - {device}))


# --- the work must have the hash that the plan promised ---


def test_the_work_must_have_the_hash_that_the_plan_promised(fleet: Fleet) -> None:
    spies = spy(fleet)
    fleet.sum(fleet.promise("round-1", work(window=0)), work(window=1))
    answers = fleet.post.answers(Kind.MASKED)
    assert {answer.error for answer in answers.values()} == {"Misbehaviour"}
    assert all("not the one that was promised" in answer.detail for answer in answers.values())
    assert all(not spy.reads for spy in spies)
    assert all(not fleet.ledger(device) for device in fleet.roster)


def test_work_of_another_purpose_gives_no_vector(fleet: Fleet) -> None:
    report = encode(ReportWork(1))
    result = fleet.sum(fleet.promise("round-1", report), report)
    assert not hasattr(result, "ring")
    assert {answer.error for answer in fleet.post.answers(Kind.MASKED).values()} == {"BadMessage"}


# --- a round is started once; its secrets are wiped when it ends ---


def test_a_round_is_started_once(fleet: Fleet) -> None:
    plan = fleet.promise("round-1", work())
    assert not tell(fleet, first(fleet), Kind.KEYS, encode(plan)).error
    again = tell(fleet, first(fleet), Kind.KEYS, encode(plan))
    assert again.error == "Misbehaviour"
    assert "started before" in again.detail


def test_a_finished_round_never_comes_back(fleet: Fleet) -> None:
    plan = fleet.promise("round-1", work())
    fleet.sum(plan, work())
    answer = tell(fleet, first(fleet), Kind.KEYS, encode(plan))
    assert "started before" in answer.detail
    changed = replace(plan, rotation_seed=b"x" * 32)
    assert "started before" in tell(fleet, first(fleet), Kind.KEYS, encode(changed)).detail
    assert fleet.ledger(first(fleet)) == ["round-1"]


def test_a_second_key_request_does_not_disturb_the_running_round(fleet: Fleet) -> None:
    plan = fleet.promise("round-1", work())
    fleet.post.on_ask = lambda ask: [ask, ask] if ask.kind == Kind.KEYS else [ask]
    assert fleet.sum(plan, work()).survivors == tuple(sorted(fleet.roster))


def test_stages_cannot_be_skipped_or_repeated(fleet: Fleet) -> None:
    """After each stage every other stage is refused, and after the last one all are."""
    plan, refused = fleet.promise("round-1", work()), []

    def probe(ask: Ask) -> list[Ask]:
        stages = [Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK]
        for kind in stages:
            if kind != ask.kind:
                common = encode(MaskedSumWork(work(), ask.common)) if kind is Kind.MASKED else ask.common
                answer = fleet.post.responders[ask.device].answer([Ask(ask.device, kind, common, ask.own)])[0]
                refused.append((ask.kind, kind, answer))
        return [ask]

    fleet.post.on_ask = probe
    assert fleet.sum(plan, work()).survivors == tuple(sorted(fleet.roster))
    assert all(answer.error in ("Misbehaviour", "BadMessage") for _, _, answer in refused), refused
    assert all(not answer.body for _, _, answer in refused)


def test_no_real_device_keeps_a_state_beside_its_store(fleet: Fleet) -> None:
    device = first(fleet)
    seen: list[bool] = []

    def look(ask: Ask) -> list[Ask]:
        seen.append(device in fleet.hosts[device].states)
        return [ask]

    fleet.post.on_ask = look
    fleet.sum(fleet.promise("round-1", work()), work())
    assert any(seen) == fleet.hosts[device].policy.reveals_simulation


def test_secrets_are_wiped_when_the_round_ends(fleet: Fleet) -> None:
    device = first(fleet)
    fleet.sum(fleet.promise("round-1", work()), work())
    assert not fleet.hosts[device].states
    with pytest.raises(Misbehaviour, match="no running round"):
        fleet.hosts[device].sessions.load(device)


def test_secrets_of_an_abandoned_round_go_when_the_next_one_starts(fleet: Fleet) -> None:
    device = first(fleet)
    tell(fleet, device, Kind.KEYS, encode(fleet.promise("round-1", work())))
    tell(fleet, device, Kind.KEYS, encode(fleet.promise("round-2", work())))
    assert fleet.hosts[device].sessions.load(device).round_id == "round-2"


def test_a_wiped_secret_leaves_no_trace_in_the_database(tmp_path: Path) -> None:
    """SQLite's secure_delete, and a log that is emptied: no file holds the old state, while the database stays open."""
    path = tmp_path / "device.sqlite"
    connection = open_store(path, "sessions", SESSION_MIGRATIONS)
    connection.execute("PRAGMA secure_delete=OFF")  # as SQLite is built elsewhere
    sessions, secret, later = StoredSessions(connection), b"mask-private-key" * 8, b"later-secret-key" * 8
    start = Running("round-1", Kind.KEYS, b"plan", secret)
    sessions.begin("d", start)
    sessions.advance("d", start, start.at(Kind.SHARES, later))
    sessions.finish("d")
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    connection.close()
    assert secret not in left
    assert later not in left


def test_a_running_round_is_never_printed_with_its_secrets() -> None:
    running = Running("round-1", Kind.KEYS, b"plan", b"secret")
    assert "secret" not in repr(running)
    assert "round-1" in repr(running)


# --- sums without masks happen only where the owner's policy allows them ---


def test_sums_without_masks_happen_only_where_the_policy_allows_them(fleet: Fleet) -> None:
    device = first(fleet)
    host = fleet.hosts[device]
    for allowed in (False, True):
        host.policy = replace(host.policy, plain_sums=allowed)
        plan = fleet.promise(f"round-{allowed}", work(), mode=AggregationMode.IDEAL)
        answer = tell(fleet, device, Kind.PLAIN, encode(PlainRequest(plan, work())))
        assert bool(answer.body) is allowed
        assert answer.error == ("" if allowed else "Misbehaviour")
        assert bool(fleet.ledger(device)) is allowed


def test_a_real_device_never_sends_a_vector_without_masks(tmp_path: Path) -> None:
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    for mode in (AggregationMode.IDEAL, AggregationMode.OFF):
        plan = fleet.promise(f"round-{mode}", work(), mode=mode)
        answer = tell(fleet, first(fleet), Kind.PLAIN, encode(PlainRequest(plan, work())))
        assert (answer.error, answer.body) == ("Misbehaviour", b"")


def test_a_plan_in_protocol_mode_is_not_answered_in_the_open(fleet: Fleet) -> None:
    device = first(fleet)
    host = fleet.hosts[device]
    host.policy = replace(host.policy, plain_sums=True)
    plan = fleet.promise("round-1", work(), mode=AggregationMode.PROTOCOL)
    assert tell(fleet, device, Kind.PLAIN, encode(PlainRequest(plan, work()))).error == "Misbehaviour"


def test_a_plain_round_is_answered_once(tmp_path: Path) -> None:
    """A second vector with the same noise and other sampling would give the noise away."""
    fleet = simulated(tmp_path, settings(), 4)
    plan = fleet.promise("round-1", work(), mode=AggregationMode.IDEAL)
    ask = encode(PlainRequest(plan, work()))
    assert decode(PlainReply, tell(fleet, first(fleet), Kind.PLAIN, ask).body).packed
    assert tell(fleet, first(fleet), Kind.PLAIN, ask).error == "Misbehaviour"


# --- drift reports: the same path, one report per window ---


def test_a_window_that_was_not_observed_cannot_be_reported(fleet: Fleet) -> None:
    report = encode(ReportWork(1))
    result = fleet.sum(fleet.promise("window-1", report, Purpose.DRIFT), report)
    assert not hasattr(result, "ring")
    assert {answer.error for answer in fleet.post.answers(Kind.MASKED).values()} == {"Misbehaviour"}


def test_a_window_is_reported_once(fleet: Fleet) -> None:
    report, channels = encode(ReportWork(1)), report_channels(SCHEMA.classes)
    for device, host in fleet.hosts.items():
        host.sketches.put(device, 1, np.full(width(channels), 0.1, np.float32), layout_of(channels))
    once = fleet.sum(fleet.promise("window-1", report, Purpose.DRIFT), report)
    twice = fleet.sum(fleet.promise("window-1-again", report, Purpose.DRIFT), report)
    assert hasattr(once, "ring")
    assert not hasattr(twice, "ring")


# --- sessions: kept between processes, one per device ---


@pytest.fixture(params=["memory", "stored"])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> MemorySessions | StoredSessions:
    if request.param == "memory":
        return MemorySessions()
    return StoredSessions(open_store(tmp_path / "s.sqlite", "sessions", SESSION_MIGRATIONS))


def test_at_most_one_sum_runs_per_device(sessions: MemorySessions | StoredSessions) -> None:
    sessions.begin("d", Running("one", Kind.KEYS, b"p", b"s1"))
    sessions.begin("d", Running("two", Kind.KEYS, b"p", b"s2"))
    sessions.begin("e", Running("one", Kind.KEYS, b"p", b"s3"))
    assert sessions.load("d").state == b"s2"
    assert sessions.load("e").state == b"s3"


def test_a_finished_or_replaced_round_never_comes_back(sessions: MemorySessions | StoredSessions) -> None:
    sessions.begin("d", Running("one", Kind.KEYS, b"p", b"s"))
    sessions.begin("d", Running("two", Kind.KEYS, b"p", b"s"))
    sessions.finish("d")
    for round_id in ("one", "two"):
        with pytest.raises(Misbehaviour, match="started before"):
            sessions.begin("d", Running(round_id, Kind.KEYS, b"p", b"s"))
    with pytest.raises(Misbehaviour, match="no running round"):
        sessions.load("d")
    sessions.finish("d")  # ending nothing is no error


def test_a_refused_start_leaves_the_running_round_alone(sessions: MemorySessions | StoredSessions) -> None:
    sessions.begin("d", Running("one", Kind.KEYS, b"p", b"s"))
    with pytest.raises(Misbehaviour):
        sessions.begin("d", Running("one", Kind.KEYS, b"q", b"t"))
    assert sessions.load("d") == Running("one", Kind.KEYS, b"p", b"s")


def test_a_session_survives_the_end_of_its_process(tmp_path: Path) -> None:
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())

    def fresh_process(ask: Ask) -> list[Ask]:
        host = reopened(fleet, ask.device)
        fleet.hosts[ask.device] = host
        fleet.post.responders[ask.device] = DeviceResponder(host)
        return [ask]

    fleet.post.on_ask = fresh_process
    total = fleet.sum(fleet.promise("round-1", work()), work())
    assert total.survivors == tuple(sorted(fleet.roster))
    assert not total.errors
    assert fleet.ledger(first(fleet)) == ["round-1"]


# --- join: certificates, roster, root, policy, budget ---


def join_request(fleet: Fleet, **changes: Any) -> JoinRequest:
    members = introduce(fleet.post)
    request = JoinRequest(
        run_id="second",
        nonce=NONCE,
        scenario=json.dumps(to_flat(fleet.scenario)),
        schema=json.dumps(SCHEMA.to_json()),
        devices=tuple(member.device for member in members),
        public_keys=tuple(member.public_key for member in members),
        certificates=tuple(member.certificate for member in members),
        revocations=fleet.revocations,
        trusted_root=b"another root",
    )
    return replace(request, **changes)


def try_join(fleet: Fleet, **changes: Any) -> Answer:
    return tell(fleet, first(fleet), Kind.JOIN, encode(join_request(fleet, **changes)))


def test_a_device_introduces_itself_with_its_certificate(fleet: Fleet) -> None:
    """And signs nothing but that: the proof is over the certificate, the server's nonce, run and build."""
    from fedinfer.secagg.enrolment import Possession, Step, validation, verify_enrolment, verify_possession

    host = fleet.hosts[first(fleet)]
    against = validation(host.authority, fleet.revocations, host.known_time())
    for reply in introduce(fleet.post):
        assert isinstance(reply, EnrollReply)
        verify_enrolment(against, reply.device, reply.public_key, reply.certificate)
        signed = Possession(Step.ENROLL, CHALLENGE, reply.device, reply.certificate)
        verify_possession(reply.public_key, signed, reply.proof)


def test_certificates_are_checked_against_the_pinned_authority(fleet: Fleet) -> None:
    request = join_request(fleet)
    forger, victim = IdentityKey.generate(SimulatedEntropy("forger")), IdentityKey.generate(SimulatedEntropy("v"))
    certificate = sign_enrolment(forger, Enrolment(request.devices[1], victim.public_bytes, 0, NO_END))
    keys = (request.public_keys[0], victim.public_bytes, *request.public_keys[2:])
    certificates = (request.certificates[0], certificate, *request.certificates[2:])
    answer = try_join(fleet, public_keys=keys, certificates=certificates)
    assert answer.error == "Misbehaviour"
    assert request.devices[1] in answer.detail
    assert fleet.hosts[first(fleet)].joined().run_id == "run"


def test_one_forged_certificate_spoils_the_whole_roster(fleet: Fleet) -> None:
    request = join_request(fleet)
    broken = bytes([request.certificates[3][0] ^ 1]) + request.certificates[3][1:]
    assert try_join(fleet, certificates=(*request.certificates[:3], broken)).error == "Misbehaviour"


def test_a_certificate_is_not_valid_under_another_name(fleet: Fleet) -> None:
    request = join_request(fleet)
    swapped = (request.certificates[1], request.certificates[0], *request.certificates[2:])
    assert try_join(fleet, certificates=swapped).error == "Misbehaviour"


def test_a_roster_that_names_another_key_for_this_device_is_refused(fleet: Fleet) -> None:
    """Even one that the authority signed: the device knows its own key."""
    device = first(fleet)
    host = fleet.hosts[device]
    authority, stranger = IdentityKey.generate(SimulatedEntropy("a")), IdentityKey.generate(SimulatedEntropy("s"))
    host.authority, host.known = authority.public_bytes, MemoryKnown()
    certificate = sign_enrolment(authority, Enrolment(device, stranger.public_bytes, 0, NO_END))
    answer = try_join(
        fleet,
        devices=(device,),
        public_keys=(stranger.public_bytes,),
        certificates=(certificate,),
        revocations=revocations_of(authority),
    )
    assert answer.error == "Misbehaviour"
    assert "another key for this device" in answer.detail


def test_a_roster_with_columns_of_different_length_is_refused(fleet: Fleet) -> None:
    answer = try_join(fleet, public_keys=join_request(fleet).public_keys[:-1])
    assert answer.error == "Misbehaviour"
    assert "different length" in answer.detail


@pytest.mark.parametrize("key", ["scenario", "schema"])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', '{"columns": 3}', '{"a.b": 1}', '{"scenario": "heart"}']
)
def test_a_task_that_cannot_be_read_is_refused_by_name(fleet: Fleet, key: str, text: str) -> None:
    answer = try_join(fleet, **{key: text})
    assert answer.error in ("ConfigError", "BadMessage", "Misbehaviour"), answer
    assert fleet.hosts[first(fleet)].joined().run_id == "run"


def test_the_task_is_taken_once_per_run(fleet: Fleet) -> None:
    """A server cannot change the scenario under a run that the device has joined."""
    device = first(fleet)
    other = json.dumps(to_flat(settings("privacy.clipping_norm = 9.0")))
    answer = try_join(fleet, run_id="run", scenario=other)
    assert not answer.error
    assert fleet.hosts[device].joined().scenario.privacy.clipping_norm == 1.0


def test_the_roots_of_a_shipped_device_stay(fleet: Fleet) -> None:
    host = fleet.hosts[first(fleet)]
    host.trusted_root = b"shipped"
    assert not try_join(fleet).error
    assert host.joined().trusted_root == b"shipped"


def test_ranges_that_nobody_confirmed_are_refused_outside_a_simulation(fleet: Fleet) -> None:
    host = fleet.hosts[first(fleet)]
    unconfirmed = (*SCHEMA.columns[:2], Numeric("c", 0, 10, confirmed=False))
    schema = json.dumps(replace(SCHEMA, columns=unconfirmed).to_json())
    scenario = json.dumps(to_flat(settings("data.ranges_confirmed = false")))
    host.policy = replace(host.policy, unconfirmed_ranges=False)
    for change in ({"schema": schema}, {"scenario": scenario}):
        answer = try_join(fleet, **change)
        assert answer.error == "Misbehaviour"
        assert "confirmed" in answer.detail
    host.policy = replace(host.policy, unconfirmed_ranges=True)
    # The rule is the owner's; a real table has a reader that refuses such a description whatever the owner says.
    assert try_join(fleet, scenario=scenario).error == ("DataError" if isinstance(host.rows, OwnRows) else "")


def test_a_new_run_gets_no_fresh_budget(fleet: Fleet) -> None:
    """The owner's budget limits all runs together."""
    device = first(fleet)
    empty_purse(fleet, device)
    assert not try_join(fleet).error
    plan: SumPlan = fleet.promise("round-1", work(), run_id="second")
    ledger = fleet.hosts[device].ledger
    from fedinfer.privacy.charges import charge

    verdict = ledger.reserve([device], "second", "round-1", charge(plan), "x", fleet.hosts[device].clock.now())
    assert type(verdict[device]).__name__ == "BudgetExceeded"


def test_a_device_that_joined_nothing_answers_nothing(tmp_path: Path) -> None:
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    device = first(fleet)
    fleet.hosts[device].task = None
    answer = tell(fleet, device, Kind.KEYS, encode(fleet.promise("round-1", work())))
    assert answer.error == "Misbehaviour"
    assert "not joined" in answer.detail


def test_a_joined_task_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    again = reopened(fleet, first(fleet))
    before = fleet.hosts[first(fleet)].joined()
    assert again.joined().run_id == "run"
    assert again.joined().pinned == before.pinned
    assert again.joined().scenario == before.scenario


def test_a_join_reply_says_how_many_certificates_were_checked(fleet: Fleet) -> None:
    reply = decode(JoinReply, try_join(fleet).body).facts
    assert reply.verified == len(fleet.roster)
    assert reply.rows > 0


def test_an_unknown_message_type_is_refused_by_name(fleet: Fleet) -> None:
    answer = fleet.post.responders[first(fleet)].answer([Ask(first(fleet), "query.give_me_everything", b"")])[0]
    assert answer.error == "BadMessage"
