"""What fedinfer needs from outside (time, entropy, devices, a graph to write): protocols of one to three methods.

A port is an argument, never a global. Deployment passes `fedinfer.system`, tests and simulation pass their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fedinfer.types import DeviceId, RingVector


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Wall-clock time, timezone-aware UTC."""

    def seconds(self) -> float:
        """Monotonic seconds, for durations only."""


class Entropy(Protocol):
    """Bytes for keys, shares and noise."""

    def take(self, count: int) -> bytes:
        """Take fresh uniform bytes; no two calls give the same ones.

        Args:
            count: bytes, >= 0.
        """


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to one device. `common` is shared by a whole cohort and encoded once.

    Args:
        device: who is asked.
        kind: message type, for instance "query.secagg_keys".
        common: encoded part that all devices of the cohort get.
        own: encoded part that only this device gets; may be empty.
        most_reply: bytes of the answer that are kept, where fewer will do than the kind of message allows; 0: those.
    """

    device: DeviceId
    kind: str
    common: bytes
    own: bytes = b""
    most_reply: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a body, or an error.

    Args:
        device: who answers.
        body: encoded reply; empty when there is an error.
        error: name of its class in fedinfer.errors; empty when there is none.
        detail: its text, printable; empty when there is none.
    """

    device: DeviceId
    body: bytes
    error: str = ""
    detail: str = ""


class Transport(Protocol):
    """Carries requests to devices; the only way the coordinator reaches them."""

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """Ask all; a device that does not answer in time is missing from the result.

        Args:
            asks: one per device, each to another device.
            timeout_seconds: how long to wait for all answers together, > 0.

        Returns:
            Answers in any order, each under the name of the device that was asked.
        """


@dataclass(frozen=True, slots=True)
class Added:
    """What devices of one process add up to when nobody looks at their single vectors.

    Args:
        ring: their sum modulo 2^bits, uint32 (padded,); zeros when there are no survivors.
        survivors: devices whose vectors are in it, sorted.
        refusals: one answer for each of the others, with its error.
        reply_bytes: what each survivor would have sent.
    """

    ring: RingVector
    survivors: tuple[DeviceId, ...]
    refusals: tuple[Answer, ...]
    reply_bytes: int


@runtime_checkable
class Adder(Protocol):
    """A transport whose devices all live in this process, which adds their vectors up where they are: a simulation."""

    def add_up(self, common: bytes, devices: Sequence[DeviceId]) -> Added:
        """The sum that the answers of these devices would give, without an answer for each.

        Args:
            common: encoded `PlainRequest`, as in `Ask`.
            devices: sorted and unique.
        """


class Nodes(Transport, Protocol):
    """A transport that does not know yet which device lives on which node."""

    def introduce(self, common: bytes, timeout_seconds: float) -> Sequence[tuple[int, Answer]]:
        """Ask every node which device it is.

        Args:
            common: encoded `EnrollRequest`.
            timeout_seconds: how long to wait for all answers together, > 0.

        Returns:
            (node number, answer) for every node: its first answer, or the reason why there is none that can be read.
        """

    def settle(self, homes: Mapping[DeviceId, int]) -> None:
        """Remember on which node each device lives; asks go there from now on.

        Args:
            homes: node number by device, for the devices whose introduction was believed; replaces what was known.
        """


class GraphWriter(Protocol):
    """Takes down an ONNX graph node by node; a model describes itself to it."""

    def add(self, operator: str, *inputs: str, place: int = 0, **attributes: Any) -> str:
        """Append a node.

        Args:
            operator: of ai.onnx, operator set 20.
            inputs: names of its inputs; "" for one that is left out.
            place: which of its outputs is used.
            attributes: of the operator.

        Returns:
            Name of that output.
        """

    def constant(self, value: npt.NDArray[Any]) -> str:
        """Append a constant and return its name.

        Args:
            value: float32 or int64.
        """

    def weight(self, name: str, value: npt.NDArray[np.float32]) -> str:
        """Append a constant under a name that others know and return that name.

        Args:
            name: of the parameter.
            value: of the parameter.
        """


Listener = Callable[[str, dict[str, Any]], None]
"""Called with (event name, JSON-able fields): the live view, events.jsonl and tests listen."""


def both(first: Listener, second: Listener) -> Listener:
    """A listener that tells two.

    Args:
        first: is told before the other.
        second: is told after it.
    """

    def emit(name: str, fields: dict[str, Any]) -> None:
        first(name, fields)
        second(name, fields)

    return emit
