"""One binary encoding for every message: a frozen dataclass to bytes and back, nothing else.

Rules:
* A message starts with "FI", the version of this encoding, and the name of its class; another name is refused.
* Fields follow in the order of the class, without names. Types: bool, int (signed 64 bits), float, str, bytes,
  str enums, numpy arrays (float32, float64, uint16, uint32, int64; one dimension or more), nested dataclasses,
  tuple[T, ...] and dict[K, V] (sorted by key).
* Every length is checked against what is left, every count against a bound; bytes left over are an error.
* A field may declare its own limit: `Annotated[str, Shown(1000)]`; a message class its own in MOST_BYTES.
* decode(encode(x)) == x, and equal messages have equal bytes, so a hash of the bytes identifies a message.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fedinfer.errors import BadMessage, VersionMismatch
from fedinfer.printable import NAME_RULE, is_device_name, shown

WIRE_VERSION = 1
MAX_BYTES = 1 << 30
"""No message is larger than this (1 GiB)."""
MAX_DIMENSIONS = 4

_MAGIC = b"FI"
_DTYPES = (np.dtype("<f4"), np.dtype("<f8"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<i8"))
_ARRAYS = (np.ndarray, npt.NDArray)
"""Origins of array types; numpy 2.5 made NDArray an alias with a name of its own."""
_LENGTH = struct.Struct("<I")
_INT = struct.Struct("<q")
_FLOAT = struct.Struct("<d")

T = TypeVar("T")
Writer = Callable[[Any, list[bytes]], None]


@dataclass(frozen=True, slots=True)
class Most:
    """Limit of a field: at most `count` bytes (str, bytes, array) or elements (tuple, dict); more is refused."""

    count: int


@dataclass(frozen=True, slots=True)
class Shown:
    """Limit of a text that people read: on both sides made printable, and cut after so many characters."""

    characters: int


@dataclass(frozen=True, slots=True)
class Name:
    """Limit of a text that names a device: `fedinfer.printable.is_device_name`, anything else is refused."""


Limit: TypeAlias = Most | Shown | Name
_NO_LIMIT = Most(MAX_BYTES)


class _Reader:
    """Bytes with a position; every read is checked."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise BadMessage(f"message is truncated: {count} bytes wanted, {len(self.data) - self.at} left")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def length(self) -> int:
        return int(_LENGTH.unpack(self.take(4))[0])


def encode(message: Any) -> bytes:
    """Encode a frozen dataclass.

    Args:
        message: a frozen dataclass with fields of the types listed above; a text longer than its `Shown` is cut.

    Returns:
        At most MAX_BYTES; equal messages give equal bytes.

    Raises:
        BadMessage: when a value does not fit its declared type or the result is too large.
    """
    parts: list[bytes] = [_MAGIC, bytes([WIRE_VERSION])]
    _write_text(type(message).__name__, parts)
    try:
        kind: type = type(message)
        for name, write in _writers(kind):
            write(getattr(message, name), parts)
    except (struct.error, TypeError, AttributeError, ValueError) as error:
        raise BadMessage(f"{type(message).__name__} cannot be encoded: {error}") from error
    data = b"".join(parts)
    if len(data) > MAX_BYTES:
        raise BadMessage(f"{type(message).__name__} has {len(data)} bytes, limit {MAX_BYTES}")
    return data


def most_bytes(kind: type) -> int:
    """Largest message of a class: what it declares in MOST_BYTES, else MAX_BYTES.

    Args:
        kind: a message class.

    Returns:
        Bytes.
    """
    return int(getattr(kind, "MOST_BYTES", MAX_BYTES))


def decode(kind: type[T], data: bytes | memoryview, *, limit_bytes: int = MAX_BYTES) -> T:
    """Decode bytes into `kind`.

    Args:
        kind: dataclass that is expected.
        data: the whole message.
        limit_bytes: refuse anything longer; what the class declares holds besides.

    Raises:
        VersionMismatch: another version of the encoding.
        BadMessage: anything else that is not exactly one well-formed message of this kind.
    """
    limit = min(limit_bytes, most_bytes(kind))
    if len(data) > limit:
        raise BadMessage(f"{kind.__name__}: {len(data)} bytes, limit {limit}")
    reader = _Reader(memoryview(data))
    if bytes(reader.take(2)) != _MAGIC:
        raise BadMessage(f"{kind.__name__}: not a fedinfer message")
    version = reader.take(1)[0]
    if version != WIRE_VERSION:
        raise VersionMismatch(f"message encoding {version}, this program speaks {WIRE_VERSION}")
    name = _read_text(reader)
    if name != kind.__name__:
        raise BadMessage(f"expected {kind.__name__}, got {name[:40]!r}")
    value: T = _read_fields(kind, reader)
    if reader.at != len(reader.data):
        raise BadMessage(f"{kind.__name__}: {len(reader.data) - reader.at} bytes left over")
    return value


@cache
def _writers(kind: type) -> tuple[tuple[str, Writer], ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple((field.name, _writer(hints[field.name])) for field in dataclasses.fields(kind))


@cache
def _readers(kind: type) -> tuple[Callable[[_Reader], Any], ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(_field_reader(hints[f.name], f"{kind.__name__}.{f.name}") for f in dataclasses.fields(kind))


def _read_fields(kind: type, reader: _Reader) -> Any:
    values = [read(reader) for read in _readers(kind)]
    try:
        return kind(*values)
    except BadMessage:
        raise
    except Exception as error:  # a constructor may check its arguments in any way it likes
        raise BadMessage(f"{kind.__name__}: {error}") from error


def _write_text(value: str, parts: list[bytes]) -> None:
    _write_bytes(value.encode(), parts)


def _write_bytes(value: bytes, parts: list[bytes]) -> None:
    parts.append(_LENGTH.pack(len(value)))
    parts.append(value if isinstance(value, bytes) else bytes(value))


def _write_bool(value: bool, parts: list[bytes]) -> None:
    parts.append(b"\1" if value else b"\0")


def _write_array(value: Any, parts: list[bytes]) -> None:
    dtype = value.dtype.newbyteorder("<")
    if dtype not in _DTYPES or not 1 <= value.ndim <= MAX_DIMENSIONS:
        raise BadMessage(f"array of {value.dtype} with {value.ndim} dimensions has no encoding")
    parts.append(bytes([_DTYPES.index(dtype), value.ndim]))
    parts.extend(_LENGTH.pack(size) for size in value.shape)
    parts.append(np.ascontiguousarray(value, dtype).tobytes())


def _read_bool(reader: _Reader) -> bool:
    byte = reader.take(1)[0]
    if byte > 1:
        raise BadMessage(f"truth value {byte}")
    return bool(byte)


def _read_text(reader: _Reader, most: int = MAX_BYTES, what: str = "text") -> str:
    try:
        return str(reader.take(_bounded(reader.length(), most, what)), "utf-8")
    except UnicodeDecodeError as error:
        raise BadMessage("text is not UTF-8") from error


def _read_name(reader: _Reader, what: str) -> str:
    text = _read_text(reader)
    if not is_device_name(text):
        raise BadMessage(f"{what}: {shown(text, 64)!r} ({len(text)} characters); {NAME_RULE}")
    return text


def _bounded(count: int, most: int, what: str) -> int:
    if count > most:
        raise BadMessage(f"{what} has {count} bytes or elements, limit {most}")
    return count


def _read_array(reader: _Reader, most: int, what: str) -> Any:
    code, dimensions = reader.take(2)
    if code >= len(_DTYPES) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise BadMessage(f"array code {code} with {dimensions} dimensions")
    shape = [reader.length() for _ in range(dimensions)]
    dtype, count = _DTYPES[code], math.prod(shape)
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > MAX_BYTES:  # an empty array may announce any shape
        raise BadMessage(f"array of shape {tuple(shape)} is larger than a message may be")
    # A view of the received bytes: no copy on the wire path.
    piece = reader.take(_bounded(count * dtype.itemsize, most, what))
    return np.frombuffer(piece, dtype).reshape(shape)


def _parts(hint: Any) -> tuple[Any, Limit]:
    """A type without its limit, and the limit."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, next(item for item in hint.__metadata__ if isinstance(item, Most | Shown | Name))
    return hint, _NO_LIMIT


def _writer(hint: Any) -> Writer:
    hint, limit = _parts(hint)
    if isinstance(limit, Shown):
        most = limit.characters
        return lambda value, parts: _write_text(shown(value, most), parts)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        item = _writer(arguments[0])
        return lambda value, parts: _write_sequence(value, item, parts)
    if origin is dict:
        key, item = _writer(arguments[0]), _writer(arguments[1])
        return lambda value, parts: _write_mapping(value, key, item, parts)
    if origin in _ARRAYS:
        return _write_array
    if isinstance(hint, type):
        if issubclass(hint, StrEnum):
            return lambda value, parts: _write_text(str(value), parts)
        if dataclasses.is_dataclass(hint):
            return _write_nested(hint)
    simple: dict[Any, Writer] = {
        bool: _write_bool,
        int: lambda value, parts: parts.append(_INT.pack(value)),
        float: lambda value, parts: parts.append(_FLOAT.pack(value)),
        str: _write_text,
        bytes: _write_bytes,
    }
    if hint not in simple:
        raise TypeError(f"type {hint} has no encoding")
    return simple[hint]


def _write_nested(kind: type) -> Writer:
    def write(value: Any, parts: list[bytes]) -> None:
        for name, writer in _writers(kind):
            writer(getattr(value, name), parts)

    return write


def _write_sequence(value: Any, item: Writer, parts: list[bytes]) -> None:
    if item is _write_text and isinstance(value, tuple):
        parts.append(_texts(value))
        return
    parts.append(_LENGTH.pack(len(value)))
    for element in value:
        item(element, parts)


@lru_cache(maxsize=4)
def _texts(value: tuple[str, ...]) -> bytes:
    """Kept: the names of a cohort are part of many messages and states of one round."""
    parts = [_LENGTH.pack(len(value))]
    for text in value:
        _write_text(text, parts)
    return b"".join(parts)


def _write_mapping(value: Any, key: Writer, item: Writer, parts: list[bytes]) -> None:
    parts.append(_LENGTH.pack(len(value)))
    for name in sorted(value):
        key(name, parts)
        item(value[name], parts)


def _field_reader(hint: Any, what: str) -> Callable[[_Reader], Any]:
    hint, limit = _parts(hint)
    if isinstance(limit, Shown):
        characters = limit.characters
        return lambda reader: shown(_read_text(reader), characters)
    if isinstance(limit, Name):
        return lambda reader: _read_name(reader, what)
    most, origin, arguments = limit.count, typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        item = _field_reader(arguments[0], what)
        return lambda reader: _read_sequence(reader, item, most, what)
    if origin is dict:
        key, value = (_field_reader(argument, what) for argument in arguments)
        return lambda reader: _read_mapping(reader, key, value, most, what)
    if origin in _ARRAYS:
        return lambda reader: _read_array(reader, most, what)
    if isinstance(hint, type):
        if issubclass(hint, StrEnum):
            return lambda reader: _read_enum(reader, hint)
        if dataclasses.is_dataclass(hint):
            return lambda reader: _read_fields(hint, reader)
    simple: dict[Any, Callable[[_Reader], Any]] = {
        bool: _read_bool,
        int: lambda reader: int(_INT.unpack(reader.take(8))[0]),
        float: lambda reader: float(_FLOAT.unpack(reader.take(8))[0]),
        str: lambda reader: _read_text(reader, most, what),
        bytes: lambda reader: bytes(reader.take(_bounded(reader.length(), most, what))),
    }
    return simple[hint]


def _read_enum(reader: _Reader, kind: type[StrEnum]) -> StrEnum:
    text = _read_text(reader)
    try:
        return kind(text)
    except ValueError as error:
        raise BadMessage(f"{kind.__name__} has no value {text[:40]!r}") from error


def _count(reader: _Reader, most: int, what: str) -> int:
    count = reader.length()
    if count > len(reader.data) - reader.at:  # every element takes at least one byte
        raise BadMessage(f"{count} elements announced, {len(reader.data) - reader.at} bytes left")
    return _bounded(count, most, what)


def _read_sequence(reader: _Reader, item: Callable[[_Reader], Any], most: int, what: str) -> tuple[Any, ...]:
    return tuple(item(reader) for _ in range(_count(reader, most, what)))


def _read_mapping(
    reader: _Reader, key: Callable[[_Reader], Any], value: Callable[[_Reader], Any], most: int, what: str
) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    last: Any = None
    for index in range(_count(reader, most, what)):
        name = key(reader)
        if index and not last < name:
            raise BadMessage("mapping keys are not sorted and unique")
        result[name], last = value(reader), name
    return result


__all__ = ["MAX_BYTES", "WIRE_VERSION", "Limit", "Most", "Name", "Shown", "decode", "encode", "most_bytes"]
