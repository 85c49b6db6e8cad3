"""What happens between coordinator and devices when messages are lost, late, doubled, forged or replayed, and when one
side does not play by the rules. Sums are run over a `Post` that misbehaves, whole runs over a Flower grid that does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedinfer.config import Scenario
from fedinfer.coordinator.aggregate.secure_sum import AbortedSum, Total
from fedinfer.coordinator.enrolment import Claim, admit, join
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.errors import FedInferError, TooFewSurvivors, TransportError
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.records import RECORD
from fedinfer.messages import Kind, MaskedSumWork, SumPlan
from fedinfer.ports import Answer, Ask, Listener
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.accounting.ledger import ANY_TASK, LEDGER_MIGRATIONS, Ledger
from fedinfer.privacy.charges import protected_of
from fedinfer.secagg.enrolment import Validation, validation
from fedinfer.simulation.coordinate import run_simulation
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, device_budget, simulated_host
from fedinfer.store import open_store
from fedinfer.system import SystemClock
from fedinfer.types import AggregationMode, Json
from fedinfer.wire import decode, encode
from tests.protocol.fleet import CHALLENGE, SCHEMA, Fleet, federation, introduce, settings, simulated, work

STAGES = (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK)
BEFORE_THE_VECTOR = STAGES[:3]
GONE = ("d02", "d05")  # two of eight may vanish: six survivors are promised


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return simulated(tmp_path, settings())


def ideal_ring(folder: Path, survivors: Sequence[str]) -> np.ndarray:
    """The sum of the same devices' vectors in the open."""
    twin = simulated(folder / "twin", settings())
    twin.post.on_ask = lambda ask: [ask] if ask.device in survivors else []
    result = twin.sum(twin.promise("round-1", work(), mode=AggregationMode.IDEAL), work())
    assert isinstance(result, Total)
    return result.ring


def exact(result: Total | AbortedSum, folder: Path, survivors: Iterable[str]) -> Total:
    """The result is the sum of exactly these devices."""
    assert isinstance(result, Total), result
    assert set(result.survivors) == set(survivors)
    np.testing.assert_array_equal(result.ring, ideal_ring(folder, result.survivors))
    return result


def stayed(fleet: Fleet, stage: Kind, gone: Sequence[str] = GONE) -> set[str]:
    """Whose vector is in the sum when `gone` are lost at a stage."""
    return set(fleet.roster) - (set(gone) if stage in BEFORE_THE_VECTOR else set())


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


# --- lost ---


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", ["ask", "answer"])
def test_messages_lost_at_any_stage_leave_the_exact_sum_of_the_others(
    fleet: Fleet, tmp_path: Path, stage: Kind, way: str
) -> None:
    def lost(ask: Ask) -> bool:
        return ask.device in GONE and ask.kind == stage

    if way == "ask":
        fleet.post.on_ask = lambda ask: [] if lost(ask) else [ask]
    else:
        fleet.post.on_answer = lambda ask, answer: [] if lost(ask) else [answer]
    exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, stayed(fleet, stage))


@pytest.mark.parametrize("stage", STAGES)
def test_one_loss_too_many_is_a_clean_abort_with_the_numbers(fleet: Fleet, stage: Kind) -> None:
    gone = (*GONE, "d07")
    fleet.post.on_answer = lambda ask, answer: [] if ask.device in gone and ask.kind == stage else [answer]
    result = fleet.sum(fleet.promise("round-1", work()), work())
    assert isinstance(result, AbortedSum)
    assert "6 are needed" in result.reason
    paid = [device for device in fleet.roster if fleet.ledger(device)]
    assert len(paid) == (0 if STAGES.index(stage) < 2 else 8)  # what left a device stays paid


def test_nobody_answers(fleet: Fleet) -> None:
    fleet.post.on_ask = lambda ask: []
    result = fleet.sum(fleet.promise("round-1", work()), work())
    assert isinstance(result, AbortedSum)
    assert result.survivors == ()


# --- late ---


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_late_answers_are_not_taken_for_answers_to_the_next_question(fleet: Fleet, tmp_path: Path, stage: Kind) -> None:
    late: list[Answer] = []

    def delay(ask: Ask, answer: Answer) -> list[Answer]:
        if ask.kind == stage:
            if ask.device in GONE:
                late.append(answer)
            return [] if ask.device in GONE else [answer]
        arrived, late[:] = [*late, answer], []
        return arrived

    fleet.post.on_answer = delay
    exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, stayed(fleet, stage))


# --- doubled ---


def test_doubled_questions_change_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.post.on_ask = lambda ask: [ask, ask]
    exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, fleet.roster)
    assert all(fleet.ledger(device) == ["round-1"] for device in fleet.roster)


def test_doubled_answers_change_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.post.on_answer = lambda ask, answer: [answer, answer]
    exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, fleet.roster)


# --- forged ---


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_changed_on_its_way_is_not_used(fleet: Fleet, tmp_path: Path, stage: Kind) -> None:
    def forge(ask: Ask, answer: Answer) -> list[Answer]:
        if ask.device in GONE and ask.kind == stage:
            return [replace(answer, body=flipped(answer.body, len(answer.body) // 2))]
        return [answer]

    fleet.post.on_answer = forge
    result = exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, stayed(fleet, stage))
    assert {device for device, _ in result.blamed} == set(GONE)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("body", [b"", b"\0", b"FI", b"x" * 1000])
def test_garbage_instead_of_an_answer_is_blamed_on_its_sender(
    fleet: Fleet, tmp_path: Path, stage: Kind, body: bytes
) -> None:
    fleet.post.on_answer = lambda ask, answer: [
        Answer(ask.device, body) if ask.device == "d02" and ask.kind == stage else answer
    ]
    result = exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, stayed(fleet, stage, ("d02",)))
    assert [device for device, _ in result.blamed] == ["d02"]


@pytest.mark.parametrize("stage", STAGES)
def test_one_device_cannot_answer_in_the_name_of_another(fleet: Fleet, tmp_path: Path, stage: Kind) -> None:
    def impersonate(ask: Ask, answer: Answer) -> list[Answer]:
        if ask.device == "d02" and ask.kind == stage:
            return [answer, replace(answer, device="d03")]
        return [answer] if ask.device != "d03" or ask.kind != stage else []

    fleet.post.on_answer = impersonate
    result = exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, stayed(fleet, stage, ("d03",)))
    assert [device for device, _ in result.blamed] == ["d03"]


def test_an_answer_of_somebody_who_was_not_asked_is_ignored(fleet: Fleet, tmp_path: Path) -> None:
    fleet.post.on_answer = lambda ask, answer: [answer, replace(answer, device="stranger")]
    exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, fleet.roster)


# --- replayed ---


@pytest.mark.parametrize("stage", STAGES)
def test_answers_of_an_older_round_are_refused(fleet: Fleet, stage: Kind) -> None:
    fleet.sum(fleet.promise("round-0", work()), work())
    old = {device: fleet.post.answers(stage)[device] for device in GONE}
    fleet.post.on_answer = lambda ask, answer: [old[ask.device] if ask.kind == stage and ask.device in GONE else answer]
    result = fleet.sum(fleet.promise("round-1", work()), work())
    assert isinstance(result, Total)
    assert set(result.survivors) == stayed(fleet, stage)
    assert {device for device, _ in result.blamed} == set(GONE)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_questions_of_an_older_round_are_refused(fleet: Fleet, stage: Kind) -> None:
    """A server that asks again what was asked in an older round gets no second answer about it."""
    fleet.sum(fleet.promise("round-0", work()), work())
    old = {ask.device: ask for ask in fleet.post.asked if ask.kind == stage}
    fleet.post.on_ask = lambda ask: [old[ask.device]] if ask.kind == stage and ask.device == "d02" else [ask]
    fleet.sum(fleet.promise("round-1", work()), work())
    answer = fleet.post.answers(stage)["d02"]
    assert answer.error in ("Misbehaviour", "BadMessage")
    assert not answer.body


def test_a_second_sum_under_the_same_name_is_refused_by_everybody(fleet: Fleet) -> None:
    fleet.sum(fleet.promise("round-1", work()), work())
    result = fleet.sum(fleet.promise("round-1", work(), rotation_seed=b"s" * 32), work())
    assert isinstance(result, AbortedSum)
    assert {reason.split(":")[0] for _, reason in result.errors} == {"Misbehaviour"}
    assert all(fleet.ledger(device) == ["round-1"] for device in fleet.roster)


# --- a server that does not keep its promises ---


def test_a_server_that_changes_the_work_for_one_device_does_not_get_its_vector(fleet: Fleet, tmp_path: Path) -> None:
    def other_work(ask: Ask) -> list[Ask]:
        if ask.kind == Kind.MASKED and ask.device == "d02":
            request = decode(MaskedSumWork, ask.common)
            return [replace(ask, common=encode(replace(request, work=work(window=9))))]
        return [ask]

    fleet.post.on_ask = other_work
    result = exact(fleet.sum(fleet.promise("round-1", work()), work()), tmp_path, stayed(fleet, Kind.MASKED, ("d02",)))
    assert [device for device, _ in result.errors] == ["d02"]
    assert not fleet.ledger("d02")


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: replace(plan, rotation_seed=b"x" * 32),
        lambda plan: replace(plan, min_survivors=plan.min_survivors - 1),
        lambda plan: replace(plan, work_hash=b"w" * 32),
        lambda plan: replace(plan, sampling_rate=plan.sampling_rate / 2),
    ],
)
def test_a_server_that_promises_different_things_to_different_devices_gets_nothing_from_them(
    fleet: Fleet, change: Callable[[SumPlan], SumPlan]
) -> None:
    """The whole plan is bound into what every device signs, so devices with different plans do not believe each
    other's keys."""

    def two_faced(ask: Ask) -> list[Ask]:
        if ask.kind == Kind.KEYS and ask.device in GONE:
            return [replace(ask, common=encode(change(decode(SumPlan, ask.common))))]
        return [ask]

    fleet.post.on_ask = two_faced
    result = fleet.sum(fleet.promise("round-1", work()), work())
    assert not set(GONE) & set(result.survivors)
    assert not any(fleet.ledger(device) for device in GONE)


# --- enrolment ---


def against(fleet: Fleet) -> Validation:
    host = fleet.hosts["d00"]
    return validation(host.authority, fleet.revocations, host.known_time())


def test_a_forged_certificate_leaves_out_its_bearer_and_nobody_else(fleet: Fleet) -> None:
    members = introduce(fleet.post)
    forged = replace(members[1], certificate=flipped(members[1].certificate, 5))
    stolen = replace(members[0], device="d01")  # a true key and certificate under another name
    claims = [Claim(node, reply) for node, reply in enumerate([members[0], forged, stolen, *members[2:]])]
    believed, left_out = admit(claims[::-1], against(fleet), CHALLENGE)
    assert [claim.reply.device for claim in believed] == sorted(set(fleet.roster) - {"d01"})
    assert {who for who, _ in left_out} == {"d01 on node 1", "d01 on node 2"}
    assert all("did not sign" in reason for _, reason in left_out)


def test_nobody_enrolled(fleet: Fleet) -> None:
    assert admit([], against(fleet), CHALLENGE) == ((), ())


def test_devices_that_do_not_join_are_named_with_their_reason(fleet: Fleet) -> None:
    def trouble(ask: Ask, answer: Answer) -> list[Answer]:
        match ask.device:
            case "d01":
                return []
            case "d02":
                return [Answer("d02", b"", "Misbehaviour", "I do not like it")]
            case "d03":
                return [Answer("d03", b"garbage")]
        return [answer]

    members = introduce(fleet.post)
    fleet.post.on_answer = trouble
    rows, refused = join(members, CHALLENGE, fleet.scenario, SCHEMA, fleet.revocations, b"root", fleet.post, 1.0)
    assert sorted(rows) == ["d00", "d04", "d05", "d06", "d07"]
    assert sorted(refused) == ["d01", "d02", "d03"]
    assert refused["d01"] == "no answer"
    assert "I do not like it" in refused["d02"]
    assert "BadMessage" in refused["d03"]


def test_a_run_that_nobody_joins_names_a_reason(fleet: Fleet) -> None:
    members = introduce(fleet.post)
    fleet.post.on_answer = lambda ask, answer: [Answer(ask.device, b"", "Misbehaviour", "no")]
    with pytest.raises(TransportError, match=r"none of 8 devices joined.*no"):
        join(members, CHALLENGE, fleet.scenario, SCHEMA, fleet.revocations, b"root", fleet.post, 1.0)


# --- whole runs over a grid that misbehaves ---

Change = Callable[[int, str, Message], Sequence[Message]]
"""From (node, message type, reply) to what arrives instead."""


class BadGrid(LocalGrid):
    """A grid that changes replies on their way; node i answers for device i."""

    change: Change = staticmethod(lambda node, kind, reply: [reply])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        arrived: list[Message] = []
        for message, reply in zip(sent, super().send_and_receive(sent), strict=True):
            arrived += self.change(message.metadata.dst_node_id - 2, message.metadata.message_type, reply)
        return arrived


def whole_run(
    folder: Path,
    scenario: Scenario,
    change: Change,
    names: Callable[[int], str] = "d{:02d}".format,
    listen: Listener = lambda name, fields: None,
) -> tuple[Json, FedInferError | None]:
    """A run of eight devices to its end; the record is {} when the run did not begin."""
    folder.mkdir(exist_ok=True)
    clock, rows = SystemClock(), federation()
    host = simulated_host(scenario, rows, folder / "devices", clock, Processes.ONE)
    app = CohortClientApp(lambda context: (names(int(context.node_config["partition-id"])), DeviceResponder(host)))
    grid = BadGrid(app, len(rows.devices), {})
    grid.change = change
    failure: FedInferError | None = None
    try:
        run_simulation(grid, scenario, rows, folder, "local", clock, listen)
    except FedInferError as error:
        failure = error
    record = folder / "run.json"
    return (json.loads(record.read_text()) if record.exists() else {}), failure


def changed(reply: Message, **fields: Any) -> Message:
    """The reply with other fields in its record; what Flower wrote around it stays."""
    record = ConfigRecord({**reply.content[RECORD], **fields})
    reply.content = RecordDict({RECORD: record})
    return reply


def fine(node: int, kind: str, reply: Message) -> list[Message]:
    return [reply]


def test_a_quiet_run_completes(tmp_path: Path) -> None:
    record, failure = whole_run(tmp_path, settings(), fine)
    assert failure is None
    assert record["status"] == "completed"
    assert record["devices"] == {"refused": 0, "dropped": 0}
    assert record["models"][0]["devices_active"] == 8


@pytest.mark.parametrize("trouble", ["garbage", "lost", "other version", "crash", "doubled"])
def test_one_bad_device_does_not_end_a_run(tmp_path: Path, trouble: str) -> None:
    """Device 4 fails in another stage of every round, then at the push, then in the window: the others go on."""
    rounds = {"begun": 0}

    def bad(node: int, asked: str, reply: Message) -> list[Message]:
        if node != 4:
            return [reply]
        rounds["begun"] += asked == Kind.KEYS
        stage = STAGES[rounds["begun"] - 1] if 1 <= rounds["begun"] <= len(STAGES) else None
        if asked not in (stage, Kind.PUSH, Kind.WINDOW):
            return [reply]
        match trouble:
            case "garbage":
                return [changed(reply, body=b"garbage", error="", detail="")]
            case "other version":
                return [changed(reply, build_id="0.0.1+000000000000")]
            case "crash":
                return [changed(reply, body="not even bytes")]
            case "doubled":
                return [reply, reply]
        return []

    record, failure = whole_run(tmp_path, settings("training.rounds = 5\ndrift.windows = 1"), bad)
    assert failure is None, failure
    assert record["status"] == "completed"
    fine = trouble == "doubled"
    assert [row["survivors"] for row in record["rounds"]] == ([8] * 5 if fine else [7, 7, 7, 8, 8])
    assert record["models"][0]["devices_active"] == (8 if fine else 7)
    assert record["drift"]["timeline"][0]["reporters"] == (8 if fine else 7)


def test_a_device_that_does_not_join_is_not_part_of_the_run(tmp_path: Path) -> None:
    def absent(node: int, kind: str, reply: Message) -> list[Message]:
        return [] if node == 4 and kind == Kind.JOIN else [reply]

    record, failure = whole_run(tmp_path, settings("training.rounds = 1\ndrift.windows = 1"), absent)
    assert failure is None
    assert record["population"] == 7
    assert record["rounds"][0]["cohort"] == record["rounds"][0]["survivors"] == 7


def test_too_few_devices_that_join_end_the_run_with_the_numbers(tmp_path: Path) -> None:
    def absent(node: int, kind: str, reply: Message) -> list[Message]:
        return [] if node < 3 and kind == Kind.JOIN else [reply]

    _, failure = whole_run(tmp_path, settings(), absent)
    assert isinstance(failure, TooFewSurvivors)
    assert "5 devices can be asked, 6 must survive" in str(failure)


def test_two_nodes_that_claim_one_device_are_left_out_and_the_others_run(tmp_path: Path) -> None:
    record, failure = whole_run(tmp_path, settings(), fine, names=lambda node: f"d{max(node, 1):02d}")
    assert failure is None
    assert record["status"] == "completed"
    assert record["population"] == len(federation().devices) - 2


def test_one_node_of_another_build_is_left_out_and_the_others_run(tmp_path: Path) -> None:
    def old(node: int, kind: str, reply: Message) -> list[Message]:
        return [changed(reply, build_id="0.0.1+000000000000") if node == 3 else reply]

    record, failure = whole_run(tmp_path, settings(), old)
    assert failure is None
    assert record["status"] == "completed"
    assert record["population"] == len(federation().devices) - 1


def test_nodes_of_another_build_stop_the_run_with_a_hint(tmp_path: Path) -> None:
    def old(node: int, kind: str, reply: Message) -> list[Message]:
        return [changed(reply, build_id="0.0.1+000000000000")]

    record, failure = whole_run(tmp_path, settings(), old)
    assert failure is not None
    assert "0.0.1+000000000000" in str(failure)
    assert "same fedinfer version" in failure.hint
    assert record == {}


def prespent(folder: Path, scenario: Scenario, devices: Iterable[str]) -> None:
    """These devices spent their budget in an earlier run of the same owner."""
    (folder / "devices").mkdir(parents=True)
    connection = open_store(folder / "devices" / "devices.sqlite", "privacy", LEDGER_MIGRATIONS)
    ledger = Ledger(connection, protected_of(scenario.privacy.unit))
    for device in devices:
        for task in (ANY_TASK, "earlier"):
            ledger.open_account(device, task, device_budget(scenario))
        for noise in (1.0, 4.0, 16.0, 64.0):
            for number in range(100):
                spend = [GaussianEvent(noise)]
                if ledger.reserve([device], "earlier", f"{noise}-{number}", spend, "", SystemClock().now())[device]:
                    break


def test_a_device_whose_own_budget_is_gone_is_counted_and_left_out(tmp_path: Path) -> None:
    scenario = settings()
    prespent(tmp_path, scenario, ["d03"])
    record, failure = whole_run(tmp_path, scenario, fine)
    assert failure is None
    assert record["status"] == "completed"
    assert [row["survivors"] for row in record["rounds"]] == [7, 7, 7]
    assert [row["refused"] for row in record["rounds"]] == [1, 1, 1]
    assert record["devices"] == {"refused": 3, "dropped": 0}
    assert record["models"][0]["devices_active"] == 8  # it still gets the model
    assert [row["reporters"] for row in record["drift"]["timeline"]] == [7, 7, 7]


def test_a_run_whose_devices_have_no_budget_left_ends_as_budget_exhausted(tmp_path: Path) -> None:
    from fedinfer.errors import BudgetExceeded

    scenario = settings()
    prespent(tmp_path, scenario, ["d03", "d04", "d05"])
    record, failure = whole_run(tmp_path, scenario, fine)
    assert isinstance(failure, BudgetExceeded)
    assert "3 of 8 devices refuse" in str(failure)
    assert record["status"] == "budget_exhausted"
    assert record["devices"]["refused"] == 3
    assert len(record["rounds"]) == 1


def test_too_few_survivors_round_after_round_end_the_run_with_the_numbers(tmp_path: Path) -> None:
    def deaf(node: int, kind: str, reply: Message) -> list[Message]:
        return [] if node < 3 and kind == Kind.MASKED else [reply]

    record, failure = whole_run(tmp_path, settings("training.rounds = 9"), deaf)
    assert isinstance(failure, TooFewSurvivors)
    assert "5 of 8 devices" in str(failure)
    assert "6 are needed" in str(failure)
    assert record["status"] == "aborted"
    assert {row["status"] for row in record["rounds"]} == {"aborted"}
    assert len(record["rounds"]) == 5, "five rounds in a row without a release end a run (docs/how-to/deploy.md)"
    assert record["rounds"][-1]["epsilon"] > 0  # masked vectors left the devices: it stays spent
    assert record["models"] == []


def test_weights_that_nobody_trained_are_not_published(tmp_path: Path) -> None:
    record, failure = whole_run(
        tmp_path, settings("training.rounds = 2"), lambda node, kind, reply: [] if kind == Kind.KEYS else [reply]
    )
    assert isinstance(failure, TooFewSurvivors)
    assert "all 2 rounds aborted" in str(failure)
    assert record["status"] == "aborted"
    assert record["models"] == []


def test_the_rounds_after_an_aborted_one_go_on(tmp_path: Path) -> None:
    asked = {"rounds": 0}

    def once(node: int, kind: str, reply: Message) -> list[Message]:
        if kind == Kind.KEYS and node == 0:
            asked["rounds"] += 1
        return [] if asked["rounds"] == 1 and kind == Kind.KEYS else [reply]

    record, failure = whole_run(tmp_path, settings("drift.enabled = false"), once)
    assert failure is None
    assert [row["status"] for row in record["rounds"]] == ["aborted", "released", "released"]
    assert record["rounds"][0]["survivors"] == 0
    assert record["status"] == "completed"
