"""The program that runs a graph with its own inputs and outputs in a confined process; see `named`.

It reads a head (JSON), the model and the tensors, and answers with a head (JSON) and the tensors of all runs. Whoever
started it trusts nothing of the answer and bounds what is read.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fedinfer.errors import GateFailed
from fedinfer.model_file.confinement import confine
from fedinfer.model_file.inspection import CheckedModel
from fedinfer.model_file.session import first_line, open_checked
from fedinfer.types import Json

TEXT = "text"
"""Instead of a dtype: the tensor is a list of texts, as JSON."""
SIZES = struct.Struct("<QQ")
"""Before everything else: bytes of the head, of the model."""
ANSWER = struct.Struct("<Q")
"""Before the answer: bytes of its head."""


def main() -> None:
    """Run what standard input says, then end."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sizes = SIZES.unpack(_read(source, SIZES.size))
    head = json.loads(_read(source, sizes[0]))
    model = _read(source, sizes[1])
    feeds = [{item["name"]: unpacked(item, _read(source, item["bytes"])) for item in run} for run in head["runs"]]
    confine(head["memory_bytes"], head["processor_seconds"])  # before the runtime sees a byte of the model
    answer, tensors = _answer(model, feeds)
    encoded = json.dumps(answer).encode()
    for part in (ANSWER.pack(len(encoded)), encoded, *tensors):
        target.write(part)
    target.flush()


def packed(name: str, values: npt.NDArray[Any]) -> tuple[Json, bytes]:
    """A tensor as an entry of a head, and its bytes.

    Args:
        name: of the input or output.
        values: numbers, or texts of dtype object or str.
    """
    if values.dtype.kind in "OUS":
        data, dtype = json.dumps([str(value) for value in values.ravel().tolist()]).encode(), TEXT
    else:
        data, dtype = np.ascontiguousarray(values).tobytes(), values.dtype.str
    return {"name": name, "dtype": dtype, "shape": list(values.shape), "bytes": len(data)}, data


def unpacked(item: Json, data: bytes) -> npt.NDArray[Any]:
    """Inverse of `packed`.

    Args:
        item: entry of a head; the caller bounds its sizes. A wrong one raises ValueError, TypeError or KeyError.
        data: its bytes.
    """
    if item["dtype"] == TEXT:
        texts = np.empty(len(found := json.loads(data)), object)
        texts[:] = found
        return texts.reshape(item["shape"])
    return np.frombuffer(data, np.dtype(item["dtype"])).reshape(item["shape"])


def _answer(model: bytes, feeds: list[dict[str, npt.NDArray[Any]]]) -> tuple[Json, list[bytes]]:
    runs: list[list[Json]] = []
    tensors: list[bytes] = []
    try:
        session = open_checked(CheckedModel(model, ""), arena=False)
        names = [output.name for output in session.get_outputs()]
        for feed in feeds:
            entries = [packed(name, value) for name, value in zip(names, session.run(names, feed), strict=True)]
            runs.append([entry for entry, _ in entries])
            tensors += [data for _, data in entries]
    except GateFailed as error:
        return {"error": str(error)}, []
    except Exception as error:  # whatever it is, it is the model's
        return {"error": f"the model fails when it runs: {first_line(error)}"}, []
    return {"runs": runs}, tensors


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise SystemExit(1)
    return data
