"""The ClientApp: every message type goes to one list-taking function of the device, whether one device or a cohort.

Handlers only translate. A typed refusal is an ordinary reply; only a programming error becomes a Flower error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedinfer.errors import FedInferError
from fedinfer.flower.records import read_request, refusal, reply_message
from fedinfer.messages import Kind
from fedinfer.ports import Answer, Ask


class Responder(Protocol):
    """The device's side: answers any number of asks of one kind."""

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """Answer requests of one kind.

        Args:
            asks: each to another device of this process.

        Returns:
            One Answer per Ask, in order.
        """


Finder = Callable[[Context], tuple[str, Responder]]
"""From a Flower context to (device id, responder)."""


class CohortClientApp(ClientApp):
    """A ClientApp that can also answer a whole cohort in one call.

    Args:
        find: says which device a context stands for, and who answers for it.
    """

    def __init__(self, find: Finder) -> None:
        super().__init__()
        self._find = find
        for kind in Kind:
            category, action = kind.value.split(".")
            getattr(self, category)(action)(self._answer_one)

    def answer_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer messages of one kind to many devices of one process.

        Args:
            messages: as Flower delivered them.
            contexts: of Flower, one per message; they say which device each message is for.

        Returns:
            One reply per message, in order; a message that cannot be read is answered with a refusal.
        """
        asks: list[Ask] = []
        replies: list[Message | None] = []
        responder: Responder | None = None
        for message, context in zip(messages, contexts, strict=True):
            device, responder = self._find(context)
            try:
                asks.append(read_request(message, device))
                replies.append(None)
            except FedInferError as error:
                replies.append(reply_message(refusal(device, error), message))
        answers = iter(responder.answer(asks) if responder and asks else ())
        return [
            reply if reply is not None else reply_message(next(answers), message)
            for reply, message in zip(replies, messages, strict=True)
        ]

    def _answer_one(self, message: Message, context: Context) -> Message:
        return self.answer_cohort([message], [context])[0]
