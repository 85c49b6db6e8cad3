"""Tensors of the Open Inference Protocol v2, from JSON or binary data to arrays and back. Types are strict.

Rules:
* a value must lie in the range of the datatype that its tensor names, and be whole where that is a type of integers;
* true and false are BOOL and nothing else, texts are BYTES and nothing else;
* null (in binary data NaN) is a missing value of a number; null is a missing text;
* binary data stands behind the JSON, tensor by tensor, little endian; a text is its length (uint32) and its UTF-8.

Sources: KServe, Open Inference Protocol (V2), "Tensor Data Types"; its extension "Binary Tensor Data" (Triton).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.tensors import MOST_SIZES
from fedinfer.types import Json

MOST_ROWS = 100_000
_MOST_SHAPE = 1 + MOST_SIZES
_MOST_SIZE = 2**31
"""A product of a few bounded sizes is quick to compute and short to print; of a million sizes it takes hours."""
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{f"{sign}INT{8 * size}": np.dtype(f"<{kind}{size}") for sign, kind in (("", "i"), ("U", "u"))
       for size in (1, 2, 4, 8)},
}  # fmt: skip
"""Datatypes of the protocol with elements of one size."""
TEXTS = "BYTES"
NUMERIC = frozenset(DTYPES) - {"BOOL"}
"""Datatypes of numbers. BOOL is none: who means 0 and 1 says so."""
_LENGTH = np.dtype("<u4")
_BINARY_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a request.

    Args:
        name: of the input.
        datatype: a key of DTYPES, or TEXTS.
        shape: sizes, the first one the number of rows.
        values: flat, one per element: float32 or float64 for numbers, NaN where one is missing; bool; object for texts,
            None where one is missing.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any]


class BinaryData:
    """What stands behind the JSON of a request; tensors take their parts of it in order.

    Args:
        data: untrusted.
    """

    def __init__(self, data: bytes = b"") -> None:
        self._data = memoryview(data)
        self._used = 0

    def take(self, name: str, size: Any) -> memoryview:
        """The next part.

        Args:
            name: of the tensor, for the message.
            size: its length in bytes, as the client says; untrusted.

        Raises:
            DataError: there is not so much.
        """
        left = len(self._data) - self._used
        if type(size) is not int or not 0 <= size <= left:
            raise DataError(f"tensor {name!r}: {_BINARY_SIZE} is {str(size)[:20]}, {left} bytes are left")
        self._used += size
        return self._data[self._used - size : self._used]

    def end(self) -> None:
        """Nothing may be left.

        Raises:
            DataError: no tensor took the rest.
        """
        if self._used != len(self._data):
            raise DataError(f"{len(self._data) - self._used} bytes of binary data belong to no tensor")


def read_tensor(document: Mapping[str, Any], binary: BinaryData) -> Tensor:
    """One tensor of a request, checked.

    Args:
        document: an item of "inputs"; untrusted.
        binary: what stands behind the JSON.

    Raises:
        DataError: names the tensor and the rule.
    """
    name, datatype, shape = document.get("name"), document.get("datatype"), document.get("shape")
    if not isinstance(name, str):
        raise DataError(f"tensor name {str(name)[:60]!r} is no text")
    if not isinstance(datatype, str) or (datatype not in DTYPES and datatype != TEXTS):
        raise DataError(f"tensor {name[:60]!r} has datatype {str(datatype)[:40]!r}, known are {', '.join(_known())}")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= _MOST_SHAPE
        or not all(type(size) is int and 0 <= size <= _MOST_SIZE for size in shape)
    ):
        raise DataError(f"tensor {name[:60]!r}: shape is not a list of 1 to {_MOST_SHAPE} sizes, 0 to {_MOST_SIZE}")
    parameters = document.get("parameters")
    size = parameters.get(_BINARY_SIZE) if isinstance(parameters, Mapping) else None
    values = (
        _of_json(name[:60], datatype, document.get("data"))
        if size is None
        else _of_bytes(name[:60], datatype, math.prod(shape), binary.take(name[:60], size))
    )
    if math.prod(shape) != len(values) or shape[0] > MOST_ROWS:
        raise DataError(
            f"tensor {name[:60]!r}: {len(values)} values for shape {str(shape)[:80]}, at most {MOST_ROWS} rows"
        )
    return Tensor(name, datatype, tuple(shape), values)


def tensor_json(name: str, datatype: str, values: npt.NDArray[Any]) -> Json:
    """One tensor of a reply, its data in JSON.

    Args:
        name: of the output.
        datatype: a key of DTYPES, or TEXTS.
        values: of its shape; texts as str.
    """
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.ravel().tolist()}


def tensor_binary(name: str, datatype: str, values: npt.NDArray[Any]) -> tuple[Json, bytes]:
    """One tensor of a reply, its data to stand behind the JSON.

    Args:
        name: of the output.
        datatype: a key of DTYPES, or TEXTS.
        values: of its shape; texts as str.

    Returns:
        The tensor without data, and its data.
    """
    if datatype == TEXTS:
        data = b"".join(len(text).to_bytes(4, "little") + text for text in map(str.encode, values.ravel().tolist()))
    else:
        data = values.astype(DTYPES[datatype], copy=False).tobytes()
    shape = list(values.shape)
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {_BINARY_SIZE: len(data)}}, data


def _known() -> list[str]:
    return [*sorted(DTYPES), TEXTS]


def _of_json(name: str, datatype: str, data: Any) -> npt.NDArray[Any]:
    if not isinstance(data, list):
        raise DataError(f"tensor {name!r}: data is not a list, and there is no {_BINARY_SIZE}")
    values, kinds = _flat(data)
    if datatype == TEXTS:
        return _texts(name, values, kinds)
    if datatype == "BOOL":
        if not kinds <= {bool}:
            _refuse(name, next(value for value in values if type(value) is not bool), "BOOL: true or false")
        return np.array(values, np.bool_)
    return _numbers(name, DTYPES[datatype], datatype, values, kinds)


def _texts(name: str, values: Sequence[Any], kinds: set[type]) -> npt.NDArray[Any]:
    if not kinds <= {str, type(None)}:
        _refuse(name, next(value for value in values if type(value) not in (str, type(None))), "BYTES: a text or null")
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _numbers(
    name: str, dtype: np.dtype[Any], datatype: str, values: Sequence[Any], kinds: set[type]
) -> npt.NDArray[np.float64]:
    rule = f"{datatype}: {_rule(dtype)}"
    if not kinds <= {int, float, type(None)}:
        _refuse(name, next(value for value in values if type(value) not in (int, float, type(None))), rule)
    try:
        found = np.array(values, np.float64)  # null becomes NaN
    except OverflowError:  # an integer of JSON may be too large for a float
        _refuse(name, max((value for value in values if value is not None), key=abs), rule)
    bad = _out_of_range(found, dtype)
    if bad.any():
        _refuse(name, values[int(bad.argmax())], rule)
    return found


def _out_of_range(found: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[np.bool_]:
    """Comparisons with NaN are false, so a missing value passes."""
    if dtype.kind == "f":
        return np.asarray(np.abs(found) > float(np.finfo(dtype).max))
    limits = np.iinfo(dtype)
    bad = (found < float(limits.min)) | (found > float(limits.max))
    return np.asarray(bad | (np.abs(found - np.rint(np.where(bad, 0, found))) > 0))


def _rule(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return "a finite number or null"
    return f"a whole number from {np.iinfo(dtype).min} to {np.iinfo(dtype).max} or null"


def _refuse(name: str, value: Any, rule: str) -> NoReturn:
    raise DataError(f"value {str(value)[:60]!r} of tensor {name!r} breaks the rule of its datatype {rule}")


def _flat(data: list[Any]) -> tuple[list[Any], set[type]]:
    """Values and their types, level by level: the protocol's dimensions bound the nesting, not Python's stack."""
    for _ in range(8):
        kinds = set(map(type, data))
        if list not in kinds:
            return data, kinds
        if kinds != {list}:
            raise DataError("data mixes lists and values")
        data = [value for item in data for value in item]
    raise DataError("data is nested deeper than 8 levels")


def _of_bytes(name: str, datatype: str, count: int, data: memoryview) -> npt.NDArray[Any]:
    if datatype == TEXTS:
        return _texts_of_bytes(name, data)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise DataError(
            f"tensor {name!r}: {len(data)} bytes of binary data, {count} values of {datatype} are "
            f"{count * dtype.itemsize}"
        )
    if datatype == "BOOL":
        flags = np.frombuffer(data, np.uint8)
        if (flags > 1).any():
            _refuse(name, flags.max(), "BOOL: 0 or 1")
        return flags.astype(np.bool_)
    found = np.frombuffer(data, dtype)
    return found.astype(np.float32 if dtype.itemsize <= 4 and dtype.kind == "f" else np.float64)


def _texts_of_bytes(name: str, data: memoryview) -> npt.NDArray[Any]:
    texts, place, size = [], 0, _LENGTH.itemsize
    while place < len(data):
        end = place + size + int.from_bytes(data[place : place + size], "little")
        if place + size > len(data) or end > len(data):
            raise DataError(f"tensor {name!r}: the text at byte {place} of its binary data is cut off")
        try:
            texts.append(str(data[place + size : end], "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"tensor {name!r}: the text at byte {place} of its binary data is not UTF-8") from error
        place = end
    found = np.empty(len(texts), object)
    found[:] = texts
    return found
