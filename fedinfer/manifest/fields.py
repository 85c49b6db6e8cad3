"""Typed reading of untrusted JSON: every reader either returns the asked type or raises ArtifactRejected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from fedinfer.errors import ArtifactRejected
from fedinfer.printable import STEERING

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DECIMAL = re.compile(r"inf|[0-9]{1,12}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?")
_T = TypeVar("_T")


def is_name(text: str) -> bool:
    """True for 1 to 64 of a-z, 0-9, _ and -, where the first is a letter or a digit.

    Args:
        text: of any length.
    """
    return bool(_NAME.fullmatch(text))


def is_decimal(text: str) -> bool:
    """True for a non-negative decimal number of at most 12 digits before and 20 after the point, or "inf".

    Args:
        text: of any length; an exponent of up to three digits is allowed, a leading sign is not.
    """
    return bool(_DECIMAL.fullmatch(text))


def demand(holds: bool, rule: str) -> None:
    """Refuse the manifest unless a rule holds.

    Args:
        holds: whether it does.
        rule: the broken rule in words, with the value that broke it; becomes the message.

    Raises:
        ArtifactRejected: when it does not hold.
    """
    if not holds:
        raise ArtifactRejected(f"manifest: {rule}")


def demand_plain(value: Any) -> None:
    """Refuse a JSON value with a control character in it, keys included, or with an infinite number.

    Args:
        value: decoded JSON, nested to any depth.

    Raises:
        ArtifactRejected: when there is one.
    """
    waiting = [value]
    while waiting:  # no recursion: the nesting is somebody else's
        item = waiting.pop()
        if isinstance(item, str):
            demand(not STEERING.search(item), f"control character in {ascii(item)[:80]}")
        elif isinstance(item, float):
            demand(math.isfinite(item), "a number is not finite")
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item


def is_sha256(text: str) -> bool:
    """True for 64 lower-case hexadecimal digits.

    Args:
        text: of any length.
    """
    return bool(_SHA256.fullmatch(text))


def value_of(data: Any, key: str, kind: type[_T]) -> _T:
    """The value of a key, of exactly that type: True is no integer here.

    Args:
        data: what should be a JSON object; anything else has no keys.
        key: to look up.
        kind: type that the value must have; a subclass does not do.

    Raises:
        ArtifactRejected: when the key is missing or its value has another type.
    """
    if not isinstance(data, dict) or key not in data:
        raise ArtifactRejected(f"manifest: {key} is missing")
    value = data[key]
    if type(value) is not kind:
        raise ArtifactRejected(f"manifest: {key} is {type(value).__name__}, not {kind.__name__}")
    return value


def number(data: Any, key: str) -> float:
    """The finite number of a key, as a float.

    Args:
        data: what should be a JSON object; anything else has no keys.
        key: to look up.

    Raises:
        ArtifactRejected: when the key is missing or its value is not a finite number.
    """
    if not isinstance(data, dict) or key not in data:
        raise ArtifactRejected(f"manifest: {key} is missing")
    return finite(data[key], key)


def finite(value: Any, key: str = "a value") -> float:
    """An int or float of magnitude at most 1e300, as a float.

    Args:
        value: any decoded JSON value; a bool is no number.
        key: where it stands, for the message.

    Raises:
        ArtifactRejected: when it is anything else.
    """
    if type(value) not in (int, float) or not abs(value) <= 1e300:
        raise ArtifactRejected(f"manifest: {key} is not a finite number")
    return float(value)


def whole(value: Any) -> int:
    """An integer that stands for a class number; its range is checked by `check_variant`.

    Args:
        value: any decoded JSON value; a bool is no integer.

    Raises:
        ArtifactRejected: when it is anything else.
    """
    if type(value) is not int:
        raise ArtifactRejected("manifest: a label is not an integer")
    return value


def row(value: Any) -> tuple[float, ...] | tuple[str, ...]:
    """A self-check row: numbers with null for a missing value, or one text.

    Args:
        value: what should be a JSON list; its length is checked by `Manifest`, which knows the schema.

    Returns:
        Floats with NaN where the list has null, or a tuple of one string.

    Raises:
        ArtifactRejected: when it is no list, or holds something else, or its text is no valid Unicode.
    """
    if not isinstance(value, list):
        raise ArtifactRejected("manifest: a self-check row is not a list")
    if len(value) == 1 and type(value[0]) is str:
        return (_unicode(value[0]),)
    return tuple(math.nan if cell is None else finite(cell) for cell in value)


def _unicode(text: str) -> str:
    """JSON can write half of a surrogate pair, which no graph takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArtifactRejected("manifest: a self-check text is no Unicode") from error
    return text


def numbers(value: Any) -> tuple[float, ...]:
    """A list of finite numbers, as floats.

    Args:
        value: any decoded JSON value.

    Raises:
        ArtifactRejected: when it is no list, or one item is not a finite number.
    """
    if not isinstance(value, list):
        raise ArtifactRejected("manifest: a list of numbers is missing")
    return tuple(finite(cell) for cell in value)


def items(data: Any, key: str, read: Callable[[Any], _T], most: int) -> tuple[_T, ...]:
    """The items of a list, each read and checked.

    Args:
        data: what should be a JSON object.
        key: of the list in it.
        read: turns one decoded JSON value into the wanted type or raises ArtifactRejected.
        most: largest number of items.

    Raises:
        ArtifactRejected: when the key is missing, is no list, or holds more items, or one cannot be read.
    """
    found = value_of(data, key, list)
    if len(found) > most:
        raise ArtifactRejected(f"manifest: {len(found)} {key}, at most {most}")
    return tuple(read(item) for item in found)


def no_constant(name: str) -> float:
    """For `json.loads(parse_constant=...)`: NaN and infinity are no JSON (RFC 8259, section 6).

    Args:
        name: "NaN", "Infinity" or "-Infinity", as the decoder found it.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not allowed")
