"""A small, bounded reader of the protobuf wire format (protobuf.dev, "Encoding"), driven by `onnx_fields.MESSAGES`.

A device has no onnx package, and the runtime must not see a file before it is judged. What two readers could
understand differently is refused: a single field that comes twice (the runtime would merge them), groups, tags that do
not fit 32 bits, numbers of more than 64 bits, fields that the table does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file.onnx_fields import MESSAGES, Field, Scalar

_LENGTH = Scalar.BYTES.value
_SIZES = {Scalar.FIXED32: 4, Scalar.FIXED64: 8}
_MOST_TAG, _MOST_NUMBER = 2**32 - 1, 2**64 - 1
_HIGH = 0x80


@dataclass(slots=True)
class Message:
    """One message: its fields by name, in the order of the file.

    Args:
        kind: name in `MESSAGES`.
        fields: name to values. Numbers are ints in [0, 2^64), or, where they came packed, one memoryview for all of
            them; numbers of fixed size are memoryviews; texts are memoryviews.
    """

    kind: str
    fields: dict[str, list[Value]] = field(default_factory=dict)

    def messages(self, name: str) -> list[Message]:
        """The inner messages of a field, in the order of the file; none when it is absent.

        Args:
            name: of the field in `MESSAGES[self.kind]`.
        """
        return [value for value in self.fields.get(name, ()) if isinstance(value, Message)]

    def text(self, name: str) -> bytes:
        """The bytes of a text field; empty when it is absent.

        Args:
            name: of the field in `MESSAGES[self.kind]`.
        """
        values = self.fields.get(name)
        return bytes(values[-1]) if values and isinstance(values[-1], memoryview) else b""

    def texts(self, name: str) -> list[bytes]:
        """All texts of a repeated field, in the order of the file.

        Args:
            name: of the field in `MESSAGES[self.kind]`.
        """
        return [bytes(value) for value in self.fields.get(name, ()) if isinstance(value, memoryview)]

    def number(self, name: str) -> int:
        """A number as the runtime reads an int64; 0 when it is absent.

        Args:
            name: of the field in `MESSAGES[self.kind]`.

        Raises:
            GateFailed: when the field comes packed and its bytes are no varint.
        """
        return next(self.numbers(name), 0)

    def numbers(self, name: str) -> Iterator[int]:
        """All numbers of a field as int64, packed or not.

        Args:
            name: of the field in `MESSAGES[self.kind]`.

        Raises:
            GateFailed: when the field comes packed and its bytes are no varints; only while the numbers are read.
        """
        for value in self.fields.get(name, ()):
            if isinstance(value, int):
                yield signed(value)
            elif isinstance(value, memoryview):
                at = 0
                while at < len(value):
                    number, at = read_varint(value, at, _MOST_NUMBER)
                    yield signed(number)

    def payload(self, name: str) -> int:
        """How many values a repeated field can hold at most: one for each number, one for each byte of a packed one.

        Args:
            name: of the field in `MESSAGES[self.kind]`.
        """
        return sum(len(value) if isinstance(value, memoryview) else 1 for value in self.fields.get(name, ()))


Value: TypeAlias = int | memoryview | Message
Visit: TypeAlias = Callable[[Message], None]


@dataclass(slots=True)
class Reader:
    """Reads messages and counts what it reads.

    Args:
        fields_left: fields that may still come, of all messages together.
        nesting: messages inside each other.
        visit: called with every message when it is complete, the inner ones first.
    """

    fields_left: int
    nesting: int
    visit: Visit

    def read(self, data: memoryview, kind: str, depth: int = 0) -> Message:
        """Read one message and the messages inside it; `visit` sees each.

        Args:
            data: exactly the bytes of the message.
            kind: its name in `MESSAGES`.
            depth: how many messages it lies inside of; 0 for the outermost.

        Raises:
            GateFailed: malformed, an unknown field, too many fields or nested too deep, or `visit` refused it.
        """
        if depth >= self.nesting:
            raise GateFailed(f"more than {self.nesting} messages inside each other", Refusal.TOO_DEEP)
        message, known, at = Message(kind), MESSAGES[kind], 0
        while at < len(data):
            self.fields_left -= 1
            if self.fields_left < 0:
                raise GateFailed("too many fields in the model file", Refusal.TOO_LARGE)
            tag, at = read_varint(data, at, _MOST_TAG)
            wanted = known.get(tag >> 3)
            if wanted is None:
                raise GateFailed(f"{kind} has no field {tag >> 3}", Refusal.UNKNOWN_FIELD)
            value, at = self._value(data, at, wanted, tag & 7, depth)
            values = message.fields.setdefault(wanted.name, [])
            if values and not wanted.repeated:
                raise GateFailed(f"{kind}.{wanted.name} comes twice", Refusal.MALFORMED)
            values.append(value)
        self.visit(message)
        return message

    def _value(self, data: memoryview, at: int, wanted: Field, wire: int, depth: int) -> tuple[Value, int]:
        if isinstance(wanted.kind, str):
            piece, at = _piece(data, at, wire)
            return self.read(piece, wanted.kind, depth + 1), at
        packed = wire == _LENGTH and wanted.repeated
        if wanted.kind is not Scalar.BYTES and not packed and wire != wanted.kind.value:
            raise GateFailed(f"field {wanted.name} has wire type {wire}", Refusal.MALFORMED)
        match wanted.kind:
            case Scalar.BYTES:
                return _piece(data, at, wire)
            case Scalar.VARINT:
                return _piece(data, at, wire) if packed else read_varint(data, at, _MOST_NUMBER)
            case Scalar.FIXED32 | Scalar.FIXED64:
                return _piece(data, at, wire) if packed else _taken(data, at, _SIZES[wanted.kind])
            case _:
                assert_never(wanted.kind)


def read_varint(data: memoryview, at: int, most: int) -> tuple[int, int]:
    """A number of 7 bits per byte, and where the next field begins (protobuf.dev, "Encoding", "Base 128 Varints").

    Args:
        data: bytes of a message.
        at: position of the first byte.
        most: largest number allowed.

    Returns:
        (number, position behind it).

    Raises:
        GateFailed: truncated, more than `most`, or of more than ten bytes.
    """
    number = shift = 0
    while True:
        if at >= len(data):
            raise GateFailed("the model file ends within a number", Refusal.MALFORMED)
        byte = data[at]
        at += 1
        number |= (byte & ~_HIGH) << shift
        if number > most or shift > 63:  # ten bytes of 7 bits hold 64
            raise GateFailed(f"a number of more than {most.bit_length()} bits", Refusal.MALFORMED)
        if byte < _HIGH:
            return number, at
        shift += 7


def signed(number: int) -> int:
    """The int64 that a varint stands for (two's complement).

    Args:
        number: in [0, 2^64).
    """
    return number - 2**64 if number >= 2**63 else number


def _piece(data: memoryview, at: int, wire: int) -> tuple[memoryview, int]:
    if wire != _LENGTH:
        raise GateFailed(f"wire type {wire} where a length is expected", Refusal.MALFORMED)
    size, at = read_varint(data, at, _MOST_NUMBER)
    return _taken(data, at, size)


def _taken(data: memoryview, at: int, size: int) -> tuple[memoryview, int]:
    if size > len(data) - at:
        raise GateFailed(f"a field of {size} bytes where {len(data) - at} are left", Refusal.MALFORMED)
    return data[at : at + size], at + size
