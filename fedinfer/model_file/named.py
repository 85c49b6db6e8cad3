"""Runs a graph with its own inputs and outputs, confined: for models of which nothing is known yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file.confined_tensors import ANSWER, SIZES, TEXT, packed, unpacked
from fedinfer.model_file.inspection import CheckedModel
from fedinfer.model_file.process import confined_process, taken
from fedinfer.model_file.sandbox import RUN_LIMITS, RunLimits
from fedinfer.ports import Clock
from fedinfer.types import Json

Feed = Mapping[str, npt.NDArray[Any]]
_MAIN = "fedinfer.model_file.confined_tensors"
_MOST_HEAD_BYTES = 2**20
_MOST_ANSWER_BYTES = 2**28


def run_named(
    model: CheckedModel, feeds: Sequence[Feed], clock: Clock, limits: RunLimits = RUN_LIMITS
) -> list[dict[str, npt.NDArray[Any]]]:
    """Run a graph in a confined process, once per feed.

    Args:
        model: that `check_model` accepted.
        feeds: by input name, numbers or texts (dtype object); the same inputs in each.
        clock: for time limits.
        limits: of memory and time; `run_seconds` counts for each feed.

    Returns:
        Values of every output by name, one dictionary per feed.

    Raises:
        GateFailed: the model does not load or run there, takes too long or too much memory, or answers too much.
    """
    entries = [[packed(name, np.asarray(values)) for name, values in feed.items()] for feed in feeds]
    seconds = limits.open_seconds + limits.run_seconds * len(feeds)
    head = {
        "runs": [[item for item, _ in run] for run in entries],
        "memory_bytes": limits.memory_bytes + limits.memory_per_byte * len(model.data),
        "processor_seconds": int(seconds) + 1,
    }
    encoded = json.dumps(head).encode()
    tensors = [data for run in entries for _, data in run]
    with confined_process(_MAIN, (SIZES.pack(len(encoded), len(model.data)), encoded, model.data, *tensors)) as pipe:
        return _answers(pipe, len(feeds), seconds, clock)


def _answers(pipe: IO[bytes], runs: int, seconds: float, clock: Clock) -> list[dict[str, npt.NDArray[Any]]]:
    size = taken(pipe, ANSWER.size, seconds, clock)
    if size is None:
        raise GateFailed("the model was ended: it takes too long, or more memory than it may", Refusal.CONFINED)
    head = _head(pipe, ANSWER.unpack(size)[0], seconds, clock)
    if "error" in head:
        raise GateFailed(ascii(str(head["error"])[:300])[1:-1], Refusal.NOT_RUN)
    try:
        plan = [[(str(item["name"]), item, _bytes_of(item)) for item in run] for run in head["runs"]]
        total = sum(count for run in plan for _, _, count in run)
        if len(plan) != runs or total > _MOST_ANSWER_BYTES:
            raise GateFailed(f"the model answers {total} bytes, at most {_MOST_ANSWER_BYTES}", Refusal.TOO_LARGE)
        return [
            {name: unpacked(item, taken(pipe, count, seconds, clock) or b"") for name, item, count in run}
            for run in plan
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise GateFailed("the confined process answers something else", Refusal.CONFINED) from error


def _head(pipe: IO[bytes], size: int, seconds: float, clock: Clock) -> Json:
    data = taken(pipe, size, seconds, clock) if size <= _MOST_HEAD_BYTES else None
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError) as error:
        raise GateFailed("the confined process answers something else", Refusal.CONFINED) from error
    if not isinstance(found, dict):
        raise GateFailed("the confined process answers something else", Refusal.CONFINED)
    return found


def _bytes_of(item: Any) -> int:
    """How many bytes follow for a tensor; numbers of simple types only, because a dtype may also name objects."""
    dtype, count = item["dtype"], item["bytes"]
    known = dtype == TEXT or (isinstance(dtype, str) and np.dtype(dtype).kind in "fiub")
    if not known or type(count) is not int or count < 0:
        raise ValueError("no plain tensor")
    return count
