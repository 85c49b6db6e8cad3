"""The device's one entry point: asks of one kind in, answers out. It knows which use case answers which message.

Rule: a real device sends no text that can hold a value of its rows, a word of a model, a path, or a stack trace. Which
texts leave is decided in `fedinfer.device.reported`; what stays is in the device's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from fedinfer.device import enrolment as join
from fedinfer.device import inference as observe
from fedinfer.device import install, reported
from fedinfer.device.aggregate import stages as sums
from fedinfer.device.aggregate.cohort import add_up
from fedinfer.device.aggregate.refusals import failure
from fedinfer.device.host import Host
from fedinfer.errors import BadMessage, FedInferError
from fedinfer.messages import Kind
from fedinfer.ports import Added, Answer, Ask
from fedinfer.types import DeviceId

_log = logging.getLogger(__name__)

_USE_CASES: dict[Kind, Callable[[Host, Sequence[Ask]], list[Answer]]] = {
    Kind.ENROLL: join.answer_enroll,
    Kind.JOIN: join.answer_join,
    Kind.KEYS: sums.answer_keys,
    Kind.SHARES: sums.answer_shares,
    Kind.MASKED: sums.answer_masked,
    Kind.PLAIN: sums.answer_plain,
    Kind.SURVIVORS: sums.answer_survivors,
    Kind.UNMASK: sums.answer_unmask,
    Kind.PUSH: install.answer_push,
    Kind.WITHDRAW: install.answer_withdraw,
    Kind.WINDOW: observe.answer_window,
    Kind.HEALTH: observe.answer_health,
}


class DeviceResponder:
    """Answers for all devices of a host.

    Args:
        host: wiring of this process.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """One Answer per Ask, in order. All asks have the same kind; those with one common part in a row go together.

        An error that concerns the common part concerns everyone; errors of one device stay with it. On a real device
        a programming error is an answer too: Flower would send its text to the server.

        Args:
            asks: all of one kind, each to another device of this host.
        """
        if not asks:
            return []
        try:
            kind = Kind(asks[0].kind)
        except ValueError:
            error = BadMessage(f"message type {asks[0].kind!r} has no use case")
            return [failure(ask.device, error) for ask in asks]
        if self.host.policy.reveals_simulation:
            return self._answers(kind, asks)
        try:
            return [_discreet(answer) for answer in self._answers(kind, asks)]
        except Exception:  # whatever it is, neither its text nor its class may reach the server
            _log.exception("%s failed", kind)
            return [Answer(ask.device, b"", FedInferError.__name__, reported.UNTOLD) for ask in asks]

    def add_up(self, common: bytes, devices: Sequence[DeviceId]) -> Added:
        """What the answers of these devices to a plain request add up to; as `Adder.add_up`, in a simulation only.

        Args:
            common: encoded `PlainRequest`.
            devices: of this host, sorted and unique.
        """
        return add_up(self.host, common, devices)

    def _answers(self, kind: Kind, asks: Sequence[Ask]) -> list[Answer]:
        parts = groupby(asks, key=lambda ask: ask.common)
        return [answer for _, part in parts for answer in self._answers_to_one(kind, list(part))]

    def _answers_to_one(self, kind: Kind, asks: Sequence[Ask]) -> list[Answer]:
        try:
            return _USE_CASES[kind](self.host, asks)
        except FedInferError as error:
            return [failure(ask.device, error) for ask in asks]


def _discreet(answer: Answer) -> Answer:
    """The answer without what the server must not read."""
    if not answer.error:
        return answer
    error, detail = reported.discreet(answer.error, answer.detail)
    if detail != answer.detail:
        _log.warning("%s: %s", answer.error, answer.detail)
    return replace(answer, error=error, detail=detail)
