"""Refusals as ordinary replies: one device's no is no error of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedinfer.errors import FedInferError
from fedinfer.ports import Answer, Ask
from fedinfer.types import DeviceId


def failure(device: DeviceId, error: FedInferError) -> Answer:
    """A typed error as an ordinary reply.

    Args:
        device: that refuses.
        error: why; its text is filtered later, in `fedinfer.device.dispatch`.
    """
    return Answer(device, b"", type(error).__name__, str(error))


def sorted_out(asks: Sequence[Ask], check: Callable[[Ask], object]) -> tuple[list[Ask], dict[DeviceId, Answer]]:
    """Asks that pass a check, and the answers of those that do not.

    Args:
        asks: to devices of this process.
        check: raises FedInferError for a device that does not take part.
    """
    alive: list[Ask] = []
    answers: dict[DeviceId, Answer] = {}
    for ask in asks:
        try:
            check(ask)
            alive.append(ask)
        except FedInferError as error:
            answers[ask.device] = failure(ask.device, error)
    return alive, answers


def answered(ask: Ask, body: Callable[[Ask], bytes]) -> Answer:
    """What a stage answers to one ask: its body, or the device's refusal.

    Args:
        ask: to a device of this process.
        body: makes the answer's body.
    """
    try:
        return Answer(ask.device, body(ask))
    except FedInferError as error:
        return failure(ask.device, error)
