"""The one binary encoding: what goes in comes out, equal messages have equal bytes, and nothing else is accepted."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedinfer import messages
from fedinfer.errors import BadMessage, FedInferError, VersionMismatch
from fedinfer.messages import EnrollReply, FitWork, JoinFacts, JoinReply, PushRequest, SumPlan, WindowReply
from fedinfer.wire import MAX_DIMENSIONS, decode, encode


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class Everything:
    number: int
    real: float
    text: str
    data: bytes
    colour: Colour
    inner: Inner
    many: tuple[Inner, ...]
    table: dict[str, bytes]
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class Arrays:
    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise ValueError(f"{self.value} is not positive")


inners = st.builds(Inner, st.text(), st.booleans())
whole = st.integers(-(2**63), 2**63 - 1)
everything = st.builds(
    Everything, whole, st.floats(allow_nan=False), st.text(), st.binary(), st.sampled_from(Colour), inners,
    st.lists(inners, max_size=4).map(tuple), st.dictionaries(st.text(), st.binary(), max_size=4),
    st.dictionaries(whole, whole, max_size=4),
)  # fmt: skip
EXAMPLE = Everything(1, 0.5, "é", b"\0", Colour.BLUE, Inner("i", True), (Inner("", False),), {"k": b"v"}, {3: 4})


@given(everything)
def test_what_goes_in_comes_out(message: Everything) -> None:
    assert decode(Everything, encode(message)) == message


@given(everything)
def test_equal_messages_have_equal_bytes_in_whatever_order_a_mapping_was_filled(message: Everything) -> None:
    turned = {name: getattr(message, name) for name in (field.name for field in fields(message))}
    turned["table"] = dict(reversed(list(message.table.items())))
    assert encode(Everything(**turned)) == encode(message)


@given(
    hnp.arrays(
        st.sampled_from([np.dtype(code) for code in ("<f4", "<f8", "<u2", "<u4", "<i8", ">f4", ">u4")]),
        hnp.array_shapes(min_dims=1, max_dims=MAX_DIMENSIONS, min_side=0, max_side=4),
    )
)
def test_arrays_keep_shape_type_and_bits(array: np.ndarray) -> None:
    back = decode(Arrays, encode(Arrays(array, array[..., ::-1]))).a
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("array", [np.zeros(3, complex), np.array(1.0, np.float32), np.zeros((1,) * 5, np.float32)])
def test_other_arrays_have_no_encoding(array: np.ndarray) -> None:
    with pytest.raises(BadMessage, match="no encoding"):
        encode(Arrays(array, array))


@given(everything, st.data())
def test_a_truncated_message_is_refused(message: Everything, data: st.DataObject) -> None:
    encoded = encode(message)
    with pytest.raises(BadMessage):
        decode(Everything, encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(everything, st.binary(min_size=1, max_size=3))
def test_bytes_left_over_are_refused(message: Everything, more: bytes) -> None:
    with pytest.raises(BadMessage, match="left over"):
        decode(Everything, encode(message) + more)


def _anything() -> st.SearchStrategy[bytes]:
    start = encode(EXAMPLE)
    changed = st.builds(
        lambda at, new: start[:at] + new + start[at + len(new) :], st.integers(0, len(start)), st.binary(max_size=8)
    )
    return changed | st.binary(max_size=64)


@given(_anything())
def test_whatever_comes_it_is_that_message_or_a_bad_message(data: bytes) -> None:
    """What is accepted encodes to the same bytes again: nobody can send one message in two ways."""
    try:
        message = decode(Everything, data)
    except BadMessage:
        return
    if not math.isnan(message.real):
        assert encode(message) == data


ARRAY_HEAD = b"FI\x01" + struct.pack("<I", 6) + b"Arrays"


@given(st.binary(max_size=40))
def test_whatever_comes_as_an_array_is_one_or_a_bad_message(data: bytes) -> None:
    try:
        decode(Arrays, ARRAY_HEAD + data)
    except BadMessage:
        return


@pytest.mark.parametrize(
    "shape", [(0, 2**32 - 1, 2**32 - 1, 2**32 - 1), (2**32 - 1,) * 4, (2**31, 4), (0,), (2**32 - 1, 0)]
)
def test_announced_sizes_cost_no_memory(shape: tuple[int, ...]) -> None:
    head = ARRAY_HEAD + bytes([0, len(shape)]) + b"".join(struct.pack("<I", size) for size in shape)
    with pytest.raises(BadMessage):
        decode(Arrays, head)


def test_announced_counts_cost_no_memory() -> None:
    @dataclass(frozen=True)
    class Names:
        names: tuple[str, ...]

    globals()["Names"] = Names
    with pytest.raises(BadMessage, match="announced"):
        decode(Names, encode(Names(()))[:-4] + struct.pack("<I", 2**32 - 1))


def test_another_version_is_named() -> None:
    data = bytearray(encode(EXAMPLE))
    data[2] = 9
    with pytest.raises(VersionMismatch, match="9"):
        decode(Everything, bytes(data))


def test_another_message_is_named() -> None:
    with pytest.raises(BadMessage, match="expected Everything, got 'Inner'"):
        decode(Everything, encode(Inner("x", True)))


def test_a_limit_is_kept() -> None:
    data = encode(EXAMPLE)
    assert decode(Everything, data, limit_bytes=len(data)) == EXAMPLE
    with pytest.raises(BadMessage, match=f"limit {len(data) - 1}"):
        decode(Everything, data, limit_bytes=len(data) - 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": 2**63}, {"number": "1"}, {"text": b"x"}, {"text": "\ud800"}, {"data": "x"}, {"inner": None},
        {"many": 3}, {"table": {"a": "text"}}, {"real": "x"},
    ],
)  # fmt: skip
def test_values_that_do_not_fit_their_type_are_not_sent(wrong: dict[str, object]) -> None:
    values = {field.name: getattr(EXAMPLE, field.name) for field in fields(EXAMPLE)} | wrong
    with pytest.raises(BadMessage):
        encode(Everything(**values))  # type: ignore[arg-type] # on purpose


def test_unsorted_or_doubled_keys_unknown_words_and_odd_truth_values_are_refused() -> None:
    def patched(old: bytes, new: bytes) -> bytes:
        data = encode(Everything(1, 0.5, "t", b"", Colour.RED, Inner("i", True), (), {"a": b"", "b": b""}, {}))
        assert old in data
        return data.replace(old, new)

    text = lambda word: struct.pack("<I", len(word)) + word  # noqa: E731 - two letters of a format
    for old, new, reason in (
        (text(b"b"), text(b"a"), "sorted"),
        (text(b"red"), text(b"ced"), "no value 'ced'"),
        (text(b"i") + b"\1", text(b"i") + b"\2", "truth value 2"),
        (text(b"i"), text(b"\xff"), "UTF-8"),
    ):
        with pytest.raises(BadMessage, match=reason):
            decode(Everything, patched(old, new))


def test_what_a_constructor_refuses_is_a_bad_message() -> None:
    good = encode(Positive(1))
    with pytest.raises(BadMessage, match="not positive"):
        decode(Positive, good[:-8] + struct.pack("<q", 0))


MESSAGES = [
    kind for kind in vars(messages).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__.startswith("fedinfer.messages.")
]  # fmt: skip


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@given(data=st.binary(max_size=200))
def test_every_message_refuses_noise_with_a_typed_error(kind: type, data: bytes) -> None:
    name = kind.__name__.encode()
    for body in (data, b"FI\x01" + struct.pack("<I", len(name)) + name + data):
        try:
            decode(kind, body)
        except FedInferError:
            continue


@pytest.mark.parametrize(
    "message",
    [
        EnrollReply("d", b"k" * 32, b"c" * 64, b"p" * 64),
        JoinReply(JoinFacts(4, 100), b"p" * 64),
        PushRequest(1, {"metadata/1.root.json": b"{}"}),
        WindowReply(True, 1, 20, 19, (1.0, 2.0)),
    ],
)
def test_messages_of_the_protocol_come_back(message: object) -> None:
    assert decode(type(message), encode(message)) == message


def test_the_size_of_an_update_is_its_own() -> None:
    """A message adds a few dozen bytes to the vector it carries."""
    vector = np.zeros(10_000, np.float32)
    assert len(encode(FitWork(vector, 3))) <= vector.nbytes + 64
    assert "mechanism" in {field.name for field in fields(SumPlan)}
