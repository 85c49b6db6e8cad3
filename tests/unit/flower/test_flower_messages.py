"""Flower messages to dataclasses and back: nothing is guessed, and a device is whom the server asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

import fedinfer
from fedinfer.coordinator.enrolment import enrol
from fedinfer.errors import BadMessage, FedInferError, TooFewSurvivors, TransportError, VersionMismatch
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.records import (
    RECORD,
    build_id,
    error_class,
    read_reply,
    read_request,
    refusal,
    reply_message,
    request_message,
)
from fedinfer.flower.transport import GridTransport
from fedinfer.messages import EnrollReply, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.secagg.enrolment import (
    Challenge,
    Enrolment,
    Possession,
    Step,
    Validation,
    prove_possession,
    sign_enrolment,
)
from fedinfer.secagg.keys import IdentityKey
from fedinfer.secagg.revocation import RevocationList
from fedinfer.simulation.grid import LocalGrid
from fedinfer.system import SimulatedEntropy
from fedinfer.wire import encode

AUTHORITY = IdentityKey.generate(SimulatedEntropy(1, "authority"))
NO_END = 1 << 62
AGAINST = Validation(AUTHORITY.public_bytes, RevocationList(1, 0, NO_END, ()), 1)
CHALLENGE = Challenge("run", b"n" * 32, build_id())


class Told:
    """Listens: who was left out, and why."""

    def __init__(self) -> None:
        self.left_out: list[tuple[str, str]] = []

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        assert name == "not_joined"
        self.left_out.append((fields["device"], fields["reason"]))


class Echo:
    """Says its name at enrolment and repeats everything else; notes how many were asked at once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.batches = names, []
        self.forged: set[int] = set()
        """Places among the asked whose certificate is wrong."""
        self.copied: set[int] = set()
        """Places whose certificate is right and whose key is another."""

    def find(self, context: Context) -> tuple[str, Echo]:
        return self.names[int(context.node_config["partition-id"])], self

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        self.batches.append(len(asks))
        if asks[0].kind == Kind.ENROLL:
            return [self._introduced(place, ask.device) for place, ask in enumerate(asks)]
        return [Answer("somebody else", ask.common + b"|" + ask.own) for ask in asks]

    def _introduced(self, place: int, device: str) -> Answer:
        key = IdentityKey.generate(SimulatedEntropy(1, device))
        certificate = (
            b"c" * 64
            if place in self.forged
            else sign_enrolment(AUTHORITY, Enrolment(device, key.public_bytes, 0, NO_END))
        )
        signer = IdentityKey.generate(SimulatedEntropy("thief")) if place in self.copied else key
        proof = prove_possession(signer, Possession(Step.ENROLL, CHALLENGE, device, certificate))
        return Answer(device, encode(EnrollReply(device, key.public_bytes, certificate, proof)))


def world(names: Sequence[str] = ("a", "b", "c")) -> tuple[Echo, LocalGrid, GridTransport]:
    echo = Echo(names)
    grid = LocalGrid(CohortClientApp(echo.find), len(names), {})
    return echo, grid, GridTransport(grid)


@pytest.fixture(autouse=True)
def _task() -> None:
    world()  # a LocalGrid sets the task identity that Message() reads


def request(**changes: Any) -> Message:
    message = request_message(Ask("a", Kind.KEYS, b"common", b"own"), 2, "group")
    message.content[RECORD] = ConfigRecord({**message.content[RECORD], **changes})
    return message


def test_a_request_comes_back() -> None:
    assert read_request(request(), "a") == Ask("a", Kind.KEYS, b"common", b"own")
    assert request().metadata.message_type == "query.secagg_keys"


def test_a_reply_comes_back() -> None:
    answer = Answer("a", b"body", "BudgetExceeded", "epsilon 1 spent")
    assert read_reply(reply_message(answer, request())) == answer
    assert read_reply(reply_message(refusal("a", TooFewSurvivors("2 of 3")), request())) == Answer(
        "a", b"", "TooFewSurvivors", "2 of 3"
    )


def test_an_error_of_flower_is_a_transport_error() -> None:
    answer = read_reply(Message(Error(3, "the node is gone"), reply_to=request()))
    assert (answer.error, answer.detail, answer.body) == ("TransportError", "the node is gone", b"")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"protocol_version": 99}, VersionMismatch, "protocol 99"),
        ({"build_id": "0.0.9+abc"}, VersionMismatch, r"0\.0\.9\+abc"),
        ({"common": "text"}, BadMessage, "'common' is str"),
        ({"own": 3}, BadMessage, "'own' is int"),
    ],
)
def test_what_is_not_exactly_a_request_is_refused(changes: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        read_request(request(**changes), "a")


@pytest.mark.parametrize("key", ["device", "error", "detail", "body"])
def test_what_is_not_exactly_a_reply_is_refused(key: str) -> None:
    reply = reply_message(Answer("a", b"body"), request())
    reply.content[RECORD] = ConfigRecord({**reply.content[RECORD], key: 1.5})
    with pytest.raises(BadMessage, match=key):
        read_reply(reply)


def test_a_message_of_somebody_elses_app_is_refused() -> None:
    foreign = Message(RecordDict({"other": ConfigRecord({"x": 1})}), dst_node_id=2, message_type="query")
    with pytest.raises(BadMessage, match="no 'fedinfer' record"):
        read_request(foreign, "a")


def test_the_build_names_version_and_sources() -> None:
    version, digest = build_id().split("+")
    assert version == fedinfer.__version__
    assert len(digest) == 12


def test_names_of_errors_become_classes_and_nothing_else() -> None:
    assert error_class("TooFewSurvivors") is TooFewSurvivors
    for name in ("annotations", "Exception", "__doc__", "no such error", ""):
        assert error_class(name) is FedInferError


# --- the client app ---


def test_the_app_answers_every_kind_and_is_an_ordinary_client_app() -> None:
    echo = Echo(["a"])
    app = CohortClientApp(echo.find)
    assert isinstance(app, ClientApp)
    context = Context(1, 2, {"partition-id": 0}, RecordDict(), {})
    for kind in Kind:
        if kind is not Kind.ENROLL:
            message = request_message(Ask("a", kind, b"c", b"o"), 2, "g")
            assert read_reply(app(message, context)).body == b"c|o"


def test_a_cohort_is_one_call_and_a_bad_message_spoils_only_itself() -> None:
    echo = Echo(["a", "b", "c"])
    app = CohortClientApp(echo.find)
    contexts = [Context(1, 2 + i, {"partition-id": i}, RecordDict(), {}) for i in range(3)]
    replies = app.answer_cohort([request(), request(build_id="old"), request()], contexts)
    answers = [read_reply(reply) for reply in replies]
    assert [answer.error for answer in answers] == ["", "VersionMismatch", ""]
    assert answers[1].device == "b"
    assert echo.batches == [2]
    assert app.answer_cohort([], []) == []


# --- the transport ---


def test_enrolment_maps_devices_to_nodes() -> None:
    echo, _, transport = world(("c", "a", "b"))
    assert [reply.device for reply in enrol(transport, AGAINST, CHALLENGE, 1.0, Told())] == [
        "a",
        "b",
        "c",
    ]
    answers = transport.ask([Ask("b", Kind.KEYS, b"x", b"y"), Ask("c", Kind.KEYS, b"x", b"z")], 1.0)
    assert [(answer.device, answer.body) for answer in answers] == [("b", b"x|y"), ("c", b"x|z")]
    assert echo.batches == [3, 2]


def test_two_nodes_with_the_key_of_one_device_are_both_left_out() -> None:
    _, _, transport = world(("a", "b", "a"))
    reported = Told()
    assert [reply.device for reply in enrol(transport, AGAINST, CHALLENGE, 1.0, reported)] == ["b"]
    assert [answer.device for answer in transport.ask([Ask("b", Kind.KEYS, b"")], 1.0)] == ["b"]
    with pytest.raises(KeyError):  # nobody knows where it lives
        transport.ask([Ask("a", Kind.KEYS, b"")], 1.0)
    ((who, reason),) = reported.left_out
    assert who == "a"
    assert "2 nodes have the key of this device, its store was copied: 2, 4" in reason


def test_a_forged_claim_to_a_name_leaves_the_true_device_in() -> None:
    echo, _, transport = world(("a", "b", "a"))
    echo.forged = {2}
    reported = Told()
    assert [reply.device for reply in enrol(transport, AGAINST, CHALLENGE, 1.0, reported)] == ["a", "b"]
    ((who, reason),) = reported.left_out
    assert who == "a on node 4"
    assert "did not sign" in reason


def test_a_copied_certificate_leaves_the_rightful_device_on_its_node() -> None:
    echo, grid, transport = world(("a", "b", "a"))
    echo.copied = {0}
    reported = Told()
    assert [reply.device for reply in enrol(transport, AGAINST, CHALLENGE, 1.0, reported)] == ["a", "b"]
    ((who, reason),) = reported.left_out
    assert who == "a on node 2"
    assert "no proof that it has the key of device 'a'" in reason
    asked: list[int] = []
    altered(grid, lambda replies: asked.extend(reply.metadata.src_node_id for reply in replies) or replies)
    transport.ask([Ask("a", Kind.KEYS, b"x")], 1.0)
    assert asked == [4], "what is for the device goes to the node that proved to be it"


def test_a_node_of_another_build_is_left_out_and_named() -> None:
    _, grid, transport = world()

    def spoil(replies: list[Message]) -> list[Message]:
        replies[1].content[RECORD] = ConfigRecord({**replies[1].content[RECORD], "build_id": "old"})
        return replies

    altered(grid, spoil)
    reported = Told()
    assert [reply.device for reply in enrol(transport, AGAINST, CHALLENGE, 1.0, reported)] == ["a", "c"]
    ((who, reason),) = reported.left_out
    assert who == "node 3"
    assert "VersionMismatch" in reason
    assert "build old" in reason


def test_a_second_introduction_of_the_same_node_is_not_a_second_node() -> None:
    _, grid, transport = world()
    altered(grid, lambda replies: [*replies, *replies])
    reported = Told()
    assert len(enrol(transport, AGAINST, CHALLENGE, 1.0, reported)) == 3
    assert not reported.left_out


def test_when_everybody_is_left_out_the_error_says_why() -> None:
    _, _, transport = world(("a", "a"))
    with pytest.raises(TransportError, match=r"none of 2 nodes can take part; first a: 2 nodes have"):
        enrol(transport, AGAINST, CHALLENGE, 1.0, Told())


def test_nobody_answers() -> None:
    _, grid, transport = world()
    grid.send_and_receive = lambda messages, timeout=None: []  # type: ignore[method-assign] # a silent grid
    with pytest.raises(TransportError, match=r"none of 3 nodes can take part; first node 2: TransportError: no answer"):
        enrol(transport, AGAINST, CHALLENGE, 1.0, Told())


def altered(grid: LocalGrid, change: Any) -> None:
    ask = grid.send_and_receive
    grid.send_and_receive = lambda messages, timeout=None: change(ask(messages))  # type: ignore[method-assign] # changes answers


def test_answers_nobody_asked_for_and_second_answers_are_dropped() -> None:
    _, grid, transport = world()
    enrol(transport, AGAINST, CHALLENGE, 1.0, Told())
    stray = next(iter(grid.send_and_receive([request_message(Ask("c", Kind.KEYS, b"s", b""), 4, "g")])))
    altered(grid, lambda replies: [*replies, *replies, stray])
    answers = transport.ask([Ask("a", Kind.KEYS, b"x"), Ask("b", Kind.KEYS, b"x")], 1.0)
    assert [answer.device for answer in answers] == ["a", "b"]


def test_an_unreadable_answer_is_an_error_of_that_device() -> None:
    _, grid, transport = world()
    enrol(transport, AGAINST, CHALLENGE, 1.0, Told())

    def spoil(replies: list[Message]) -> list[Message]:
        replies[0].content[RECORD] = ConfigRecord({**replies[0].content[RECORD], "build_id": "old"})
        return replies

    altered(grid, spoil)
    answers = transport.ask([Ask("a", Kind.KEYS, b"x"), Ask("b", Kind.KEYS, b"x")], 1.0)
    assert [(answer.device, answer.error) for answer in answers] == [("a", "VersionMismatch"), ("b", "")]


def test_a_late_device_is_missing_from_the_answers() -> None:
    _, grid, transport = world()
    enrol(transport, AGAINST, CHALLENGE, 1.0, Told())
    altered(grid, lambda replies: replies[1:])
    answers = transport.ask([Ask(name, Kind.KEYS, b"x") for name in "abc"], 1.0)
    assert [answer.device for answer in answers] == ["b", "c"]
