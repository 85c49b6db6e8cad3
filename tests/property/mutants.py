"""Damaged input by the ten thousand: seeded, much faster than drawing each case, so the time goes into the decoder."""

from __future__ import annotations

import copy
import io
import json
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import FedInferError

CASES = 10_000
ODD_VALUES = (
    None, True, False, 0, -1, 1, 2, 255, 2**31, 2**63, 2**64, 10**26, 10**400, -0.0, 0.5, 1e-320, 1e308, float("nan"),
    float("inf"), "", "a", "NaN", "\x1b[31m", "é", "\ud800", "../x", "9" * 70, "x" * 300, [], {}, [[]], [None],
    {"": None},
)  # fmt: skip
WORDS = (
    b"", b"\0", b"\n", b"\r\n", b'"', b",", b";", b"nan", b"inf", b"-1", b"1e999", b"9" * 40, b"9" * 5000,
    b"[" * 2000, b"{", b"}", b"]", b"[[", b"=", b"null", b"true", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\\u001b", 
    b"\x1b", b"\xff" * 8, b"\x80" * 4,
)  # fmt: skip


def bytes_mutants(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Cut, grown, flipped, spliced or with a word put in; one to three changes each.

    Args:
        seeds: valid inputs, taken in turn.
        count: how many.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = seeds[number % len(seeds)]
        for _ in range(int(rng.integers(1, 4))):
            data = _changed(data, seeds, rng)
        yield data


def _changed(data: bytes, seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    kind, at = int(rng.integers(10)), int(rng.integers(len(data) + 1))
    if kind < 4 and at < len(data):
        return data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]
    if kind == 4:
        return data[:at]
    if kind == 5:
        end = min(len(data), at + int(rng.integers(1, 40)))
        return data[:at] + data[end:]
    if kind == 6:
        end = min(len(data), at + int(rng.integers(1, 40)))
        return data[:end] + data[at:end] + data[end:]
    if kind == 7:
        other = seeds[int(rng.integers(len(seeds)))]
        return data[:at] + other[int(rng.integers(len(other) + 1)) :]
    word = WORDS[int(rng.integers(len(WORDS)))]
    return data[:at] + word + data[at + (len(word) if kind == 8 else 0) :]


def json_mutants(documents: Sequence[Any], count: int, seed: int) -> Iterator[Any]:
    """One or two values of a valid document replaced by an odd one, removed or doubled; the shape stays readable."""
    rng = np.random.default_rng(seed)
    places = [list(_places(document)) for document in documents]
    for number in range(count):
        which = number % len(documents)
        document = copy.deepcopy(documents[which])
        for _ in range(int(rng.integers(1, 3))):
            document = _edited(document, places[which][int(rng.integers(len(places[which])))], rng)
        yield document


def _edited(document: Any, path: tuple[Any, ...], rng: np.random.Generator) -> Any:
    odd = copy.deepcopy(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))])
    if not path:
        return odd
    place = document
    try:
        for key in path[:-1]:
            place = place[key]
        kind = int(rng.integers(6))
        if kind == 0:
            del place[path[-1]]
        elif kind == 1 and isinstance(place, list):
            place.insert(path[-1], copy.deepcopy(place[path[-1]]))
        elif kind == 2 and isinstance(place, dict):
            place[str(odd)] = place.pop(path[-1])
        else:
            place[path[-1]] = odd
    except (LookupError, TypeError):
        pass  # the first change took that place away
    return document


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in children:
        yield from _places(item, (*path, key))


def json_texts(documents: Sequence[Any], count: int, seed: int) -> Iterator[bytes]:
    """Half of them edited documents, half damaged texts."""
    for document in json_mutants(documents, count // 2, seed):
        yield json.dumps(document).encode()
    texts = [json.dumps(document).encode() for document in documents]
    yield from bytes_mutants(texts, count - count // 2, seed + 1)


def example(hint: Any, rng: np.random.Generator) -> Any:
    """A value of a type that messages may have, without the checks of its constructor."""
    hint = getattr(hint, "__value__", hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        made = object.__new__(typing.cast(type, hint))
        hints = typing.get_type_hints(hint)
        for field in fields(hint):
            object.__setattr__(made, field.name, example(hints[field.name], rng))
        return made
    if hint is npt.NDArray or origin is np.ndarray:
        return rng.integers(0, 9, 5).astype(arguments[1].__args__[0] if arguments else np.float32)
    if origin in (typing.Union, types.UnionType):
        return example(arguments[0], rng)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return list(hint)[int(rng.integers(len(hint)))]
    if origin is tuple:
        return tuple(example(item, rng) for item in (arguments[:1] * 2 if arguments[-1] is ... else arguments))
    if origin is not None and len(arguments) == 2:
        return {example(arguments[0], rng): example(arguments[1], rng)}
    return {str: "d1", bytes: b"k" * 32, bool: True, int: 3, float: 0.5}[hint]


class MemoryFile(type(Path())):
    """A path whose file is `data`: ten thousand files on a disk would take longer than all decoders together."""

    data = b""

    def open(self, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        raw = io.BytesIO(self.data)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding, errors, newline)


def survives(check: Callable[[Any], object], cases: Iterator[Any], wanted: type[Exception] = FedInferError) -> int:
    """Give every case to a decoder; how many it took. Any other error than `wanted` fails the test with its input."""
    taken = number = 0
    for number, case in enumerate(cases, 1):
        try:
            check(case)
        except wanted:
            continue
        except Exception as error:
            raise AssertionError(f"case {number}: {case!r:.2000}") from error
        taken += 1
    assert number == CASES
    return taken
