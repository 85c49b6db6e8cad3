"""What arrives from a node is bounded and printable before anything behind the decoder sees it, for every message."""

from __future__ import annotations

import dataclasses
import json
import struct
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from flwr.app import Context

from fedinfer import messages, wire
from fedinfer.coordinator.aggregate.secure_sum import Total, private_sums
from fedinfer.coordinator.enrolment import enrol
from fedinfer.deployment.store import enrol_device
from fedinfer.device import dispatch
from fedinfer.errors import BadMessage, ConfigError, TransportError
from fedinfer.exchanges import EXCHANGES
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.records import build_id
from fedinfer.flower.transport import GridTransport
from fedinfer.messages import EnrollReply, HealthReply, Kind, PushReply, WithdrawReply
from fedinfer.ports import Answer, Ask, Transport
from fedinfer.printable import LONGEST_NAME, shown
from fedinfer.privacy.accounting.ledger import Budget
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
from fedinfer.secagg.parameters import Session
from fedinfer.secagg.revocation import RevocationList
from fedinfer.simulation.folder import EVENTS, EventLog
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import NO_END
from fedinfer.system import SimulatedEntropy, SystemClock
from fedinfer.types import AggregationMode
from fedinfer.wire import Most, Name, Shown, decode, encode
from tests.protocol.fleet import settings, simulated, work

EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\u202e\u2066\u200b\x9b\x85\ud7ff\U000e0001"
CLASSES = [
    kind for kind in vars(messages).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__.startswith(f"{messages.__name__}.")
]  # fmt: skip
AUTHORITY = IdentityKey.generate(SimulatedEntropy(1, "authority"))
AGAINST = Validation(AUTHORITY.public_bytes, RevocationList(1, 0, NO_END, ()), 1)
CHALLENGE = Challenge("run", b"n" * 32, build_id())
LINE_BYTES = 16 * 1024
"""Of one line of events.jsonl about one node, JSON's escapes included."""


# --- the table of messages ---


def test_every_kind_of_message_has_its_limits_and_somebody_who_answers() -> None:
    assert set(EXCHANGES) == set(Kind) == set(dispatch._USE_CASES)
    for exchange in EXCHANGES.values():
        assert 0 < exchange.most_request <= wire.MAX_BYTES
        assert 0 < exchange.most_reply <= wire.MAX_BYTES
        for kind in (exchange.request, exchange.reply):
            assert kind is None or "MOST_BYTES" in vars(kind)


def _parts(hint: Any) -> tuple[Any, Any]:
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__[0]
    return hint, None


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _without_limit(hint: Any) -> Iterator[Any]:
    hint, limit = _parts(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if (hint in (str, bytes) or origin in (tuple, dict, np.ndarray)) and not isinstance(limit, Most | Shown | Name):
        yield hint
    for argument in arguments if origin in (tuple, dict) else ():
        yield from _without_limit(argument)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_field_of_every_message_declares_its_limit(kind: type) -> None:
    missing = {name: list(_without_limit(hint)) for name, hint in _hints(kind).items()}
    assert not {name: found for name, found in missing.items() if found}


# --- every field at its limit, and beyond ---


def _example(hint: Any) -> Any:
    hint, limit = _parts(hint)
    origin = typing.get_origin(hint)
    if isinstance(limit, Name):
        return "d1"
    if dataclasses.is_dataclass(hint):
        return hint(*map(_example, _hints(hint).values()))  # type: ignore[operator]  # a class
    if origin in (tuple, dict):
        return origin()
    if origin is np.ndarray:
        return np.zeros(1, np.float32)
    if hint in (bool, int, float, str, bytes):
        return hint()
    return next(iter(hint))


def _twin(kind: type, values: dict[str, Any]) -> bytes:
    """These fields as somebody sends them who has no limits."""
    plain = {name: _plain(hint) for name, hint in _hints(kind).items() if name in values}
    twin = dataclasses.make_dataclass(kind.__name__, list(plain.items()), frozen=True)
    return encode(twin(**values))


def _plain(hint: Any) -> Any:
    hint, _ = _parts(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return tuple[_plain(arguments[0]), ...]
    if origin is dict:
        return dict[_plain(arguments[0]), _plain(arguments[1])]
    return hint


def _full(hint: Any, limit: Any) -> Any:
    """A value at the limit of its field, of a megabyte where the limit is larger."""
    count = min(limit.count, messages.MIB) if isinstance(limit, Most) else 0
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(limit, Name):
        return "~" * LONGEST_NAME
    if isinstance(limit, Shown):
        return "x" * limit.characters
    if origin is tuple:
        return (_example(arguments[0]),) * count
    if origin is dict:
        return {f"{number:03d}": b"" for number in range(count)}
    if origin is np.ndarray:
        return np.zeros(count // 4, np.float32)
    return "x" * count if hint is str else b"x" * count


FIELDS = [
    (kind, name, *_parts(hint))
    for kind in CLASSES
    for name, hint in _hints(kind).items()
    if _parts(hint)[1] is not None
]
NAMES = [f"{kind.__name__}.{name}" for kind, name, _, _ in FIELDS]


@pytest.mark.parametrize(("kind", "name", "hint", "limit"), FIELDS, ids=NAMES)
def test_a_field_at_its_limit_is_taken_whole(kind: type, name: str, hint: Any, limit: Any) -> None:
    values = {field: _example(example) for field, example in _hints(kind).items()} | {name: _full(hint, limit)}
    found = getattr(decode(kind, _twin(kind, values)), name)
    assert np.array_equal(found, values[name]) if isinstance(found, np.ndarray) else found == values[name]


@pytest.mark.parametrize(("kind", "name", "hint", "limit"), FIELDS, ids=NAMES)
def test_a_field_beyond_its_limit_is_refused_or_cut(kind: type, name: str, hint: Any, limit: Any) -> None:
    examples = {field: _example(example) for field, example in _hints(kind).items()}
    if isinstance(limit, Shown):
        found = getattr(decode(kind, _twin(kind, examples | {name: EVIL + "x" * 2 * limit.characters})), name)
        assert len(found) == limit.characters
        assert found.isprintable()
        return
    if isinstance(limit, Name):
        for odd in ("", "x" * (LONGEST_NAME + 1), "a\x1b[2J", "Hôpital", "a\nb", "a\u202eb", "x" * 500):
            with pytest.raises(BadMessage) as caught:
                decode(kind, _twin(kind, examples | {name: odd}))
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 300
        return
    before = dict(list(examples.items())[: list(examples).index(name)])
    origin, size = typing.get_origin(hint), limit.count + 1
    if origin is np.ndarray:
        size = 4 * (limit.count // 4 + 1)
        announced = b"\0\1" + struct.pack("<I", size // 4)
    else:  # elements may take no more than a byte each: those of a tuple or dict are there, the others are not
        announced = struct.pack("<I", size) + bytes(size if origin in (tuple, dict) else 16)
    said = f"{kind.__name__}.{name} has {size} bytes or elements, limit {limit.count}$"
    if origin is np.ndarray and limit.count == wire.MAX_BYTES:
        said = "is larger than a message may be$"
    with pytest.raises(BadMessage, match=said):  # from the announced length alone: nothing of that size is held
        decode(kind, _twin(kind, before) + announced)


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if "MOST_BYTES" in vars(kind)], ids=lambda kind: kind.__name__
)
def test_a_message_beyond_its_limit_is_refused_unread(kind: type) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return wire.most_bytes(kind) + 1

    with pytest.raises(BadMessage, match=f"{kind.__name__}: .* limit {wire.most_bytes(kind)}"):
        decode(kind, Huge())


@pytest.mark.parametrize("make", [lambda text: PushReply(False, 0, text), lambda text: WithdrawReply(False, 0, text)])
def test_an_honest_device_cuts_its_own_reason_so_that_it_is_read(make: Callable[[str], Any]) -> None:
    reply = decode(type(make("")), encode(make("why\n" + "x" * 10**6)))
    assert reply.reason == "why " + "x" * (messages.MOST_REASON - 4)


def test_what_is_shown_keeps_letters_of_all_scripts_and_no_character_that_steers() -> None:
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    kept = shown(every, len(every))
    assert len(kept) == len(every)
    assert kept.isprintable()
    for text in ("Hôpital Nº 7", "דקה", "病院"):
        assert shown(text, 99) == text


# --- real attacks, through the transport ---


class Node:
    """Node 0 sends what it is given; the others are honest."""

    def __init__(self, said: Callable[[Ask], Answer]) -> None:
        self.said = said

    def find(self, context: Context) -> tuple[str, Node]:
        return f"d{int(context.node_config['partition-id'])}", self

    def answer(self, asks: list[Ask]) -> list[Answer]:
        return [self.said(ask) if ask.device == "d0" else _honest(ask) for ask in asks]


def _honest(ask: Ask, device: str = "") -> Answer:
    name = device or ask.device
    key = IdentityKey.generate(SimulatedEntropy(1, name))
    certificate = sign_enrolment(AUTHORITY, Enrolment(name, key.public_bytes, 0, NO_END))
    proof = prove_possession(key, Possession(Step.ENROLL, CHALLENGE, name, certificate))
    return Answer(ask.device, encode(EnrollReply(name, key.public_bytes, certificate, proof)))


def _transport(said: Callable[[Ask], Answer], nodes: int = 2) -> GridTransport:
    return GridTransport(LocalGrid(CohortClientApp(Node(said).find), nodes, {}))


def _introduced(device: str) -> Callable[[Ask], Answer]:
    return lambda ask: Answer("x", encode(EnrollReply(device, b"k" * 32, b"c" * 64, b"p" * 64)))


@pytest.mark.parametrize(
    "said",
    [
        _introduced(EVIL + "\x01" * 4_000_000),
        _introduced(EVIL),
        lambda ask: Answer(EVIL * 10**5, b"", EVIL * 10**5, EVIL * 10**5),
        lambda ask: Answer("x", b"\x1b" * 4_000_000),
        lambda ask: Answer("x", encode(PushReply(False, 0, EVIL * 10**5))),
    ],
    ids=["a name of 4 MB", "a name that steers", "three texts", "no message", "another message"],
)
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_node_that_nobody_enrolled_cannot_fill_the_log_or_steer_a_terminal(
    said: Callable[[Ask], Answer], nodes: int, tmp_path: Path
) -> None:
    """An EnrollReply.device of 4 MB grew events.jsonl by 44 MB, and the error that ended the run began with ESC."""
    transport, reported, believed = _transport(said, nodes), "", []
    log = EventLog(tmp_path, SystemClock(), "run")
    try:
        believed = [reply.device for reply in enrol(transport, AGAINST, CHALLENGE, 1.0, log)]
    except TransportError as error:
        reported = str(error)
    written = (tmp_path / EVENTS).read_bytes()
    assert len(written) < LINE_BYTES
    assert believed == ([] if nodes == 1 else ["d1"])
    assert len(reported) < 2500
    fields = [text for line in written.splitlines() for text in json.loads(line).values()]
    assert all(text.isprintable() for text in (reported, *fields))


def test_an_enrolled_name_that_no_session_takes_leaves_out_that_device_alone(tmp_path: Path) -> None:
    transport = _transport(lambda ask: _honest(ask, "Hôpital"))
    reported: list[dict[str, Any]] = []
    members = enrol(transport, AGAINST, CHALLENGE, 1.0, lambda _name, fields: reported.append(fields))
    assert [member.device for member in members] == ["d1"]
    assert "1 to 64 printable ASCII characters" in reported[0]["reason"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.PUSH, encode(PushReply(False, 0, "no"))[:-6] + struct.pack("<I", 2 * 10**6) + b"\x1b" * 2_000_001),
        (Kind.WITHDRAW, b"\x1b" * 2_000_000),
        (Kind.HEALTH, encode(HealthReply(1, "a", 0)) + b"\0" * 2_000),
        (Kind.WINDOW, b"\0" * 10_000_000),
        (Kind.JOIN, b"\0" * 2_000),
        (Kind.KEYS, b"\0" * 5_000),
        (Kind.SURVIVORS, b"\0" * 100_000),
    ],
    ids=lambda value: str(value) if isinstance(value, Kind) else "",
)
def test_a_server_keeps_no_more_of_an_answer_than_its_kind_may_have(kind: Kind, body: bytes) -> None:
    def said(ask: Ask) -> Answer:
        return _honest(ask) if ask.kind == Kind.ENROLL else Answer("x", body)

    transport = _transport(said, 1)
    enrol(transport, AGAINST, CHALLENGE, 1.0, lambda *_: None)
    (answer,) = transport.ask([Ask("d0", kind, b"")], 1.0)
    assert (answer.body, answer.error) == (b"", "BadMessage")
    assert f"limit {EXCHANGES[kind].most_reply}" in answer.detail


def test_an_ask_may_expect_less_than_its_kind_allows() -> None:
    def said(ask: Ask) -> Answer:
        return _honest(ask) if ask.kind == Kind.ENROLL else Answer("x", b"\0" * 1000)

    transport = _transport(said, 1)
    enrol(transport, AGAINST, CHALLENGE, 1.0, lambda *_: None)
    for most, kept in ((1000, 1000), (999, 0), (0, 1000)):
        (answer,) = transport.ask([Ask("d0", Kind.MASKED, b"", most_reply=most)], 1.0)
        assert len(answer.body) == kept


class Scales:
    """A transport that notes what was expected of each answer, and its size."""

    def __init__(self, post: Transport) -> None:
        self.post, self.weighed = post, list[tuple[int, int]]()

    def devices(self) -> Sequence[str]:
        return self.post.devices()

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        most = {ask.device: ask.most_reply for ask in asks}
        answers = self.post.ask(asks, timeout_seconds)
        self.weighed += [(len(answer.body), most[answer.device]) for answer in answers]
        return answers


@pytest.mark.parametrize("mode", [AggregationMode.PROTOCOL, AggregationMode.IDEAL])
def test_a_sum_expects_of_each_answer_what_its_plan_needs_and_no_more(mode: AggregationMode, tmp_path: Path) -> None:
    fleet = simulated(tmp_path, settings(), 4)
    scales = Scales(fleet.post)
    assert isinstance(
        private_sums((fleet.promise("round-1", work(), mode=mode),), work(), fleet.roster, scales, 1.0)[0], Total
    )
    assert scales.weighed
    assert all(0 < size <= most < size + 1000 for size, most in scales.weighed)


# --- names ---


@pytest.mark.parametrize("name", ["", "x" * 65, "Hôpital", "a\n", "\x1b[2J", "a\u202e"])
def test_a_name_that_no_session_takes_is_refused_at_enrolment(name: str, tmp_path: Path) -> None:
    """Such a device was enrolled and joined, and then every round of everybody failed."""
    with pytest.raises(BadMessage, match="device name"):
        Session("r", "1", "train", b"m" * 32, tuple(sorted(("a", name))), 1, 2, 2, 16, 4, b"h" * 32)
    folder = tmp_path / "store"
    with pytest.raises(ConfigError) as caught:
        enrol_device(
            folder, name, tmp_path / "rows.csv", Budget(8.0, 1e-5), 3, AUTHORITY, SimulatedEntropy(1), SystemClock()
        )
    assert "1 to 64 printable ASCII characters" in caught.value.hint
    assert not folder.exists()
