"""A Flower Grid in this process: no Ray, no SuperLink, whole cohorts at a time.

It calls the same ClientApp with the same Messages as Flower's own runtimes. A `CohortClientApp` gets all messages of
one kind in one call, any other ClientApp one at a time. Two touches lie outside flwr's public API, as in Flower's own
in-memory grid: the task identity, which Message() reads, and the message id, which only a SuperLink sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedinfer.flower import CohortClientApp

FIRST_NODE = 2
CLIENT_FAILED = 3
"""Flower's error code for an exception in a ClientApp."""


class LocalGrid(Grid):
    """Runs a ClientApp for `nodes` simulated nodes.

    Args:
        client_app: answers the messages.
        nodes: number of nodes; node i gets partition-id i.
        run_config: Flower run config that every context carries.
    """

    def __init__(self, client_app: ClientApp, nodes: int, run_config: dict[str, Any]) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self._app = client_app
        self._count = nodes
        self._run_config = run_config
        self._run: Any = None
        self._numbers = itertools.count(1)
        self._contexts: dict[int, Context] = {}
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """Remember Flower's run object.

        Args:
            run: as Flower made it.
        """
        self._run = run

    @property
    def run(self) -> Any:
        """Flower's run object, None unless set."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """An instruction message; Flower keeps this for old strategies.

        Args:
            content: of the message.
            message_type: kind of message.
            dst_node_id: node of the device process.
            group_id: as Flower uses it.
            ttl: seconds that the message may live; None: Flower's default.
        """
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Ids of all simulated nodes."""
        return list(range(FIRST_NODE, FIRST_NODE + self._count))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer at once; the replies wait for `pull_messages`.

        Args:
            messages: to any of the nodes.

        Returns:
            Ids of the messages, in their order.
        """
        numbered = list(messages)
        replies = self.send_and_receive(numbered)
        self._replies.update(
            {message.metadata.message_id: reply for message, reply in zip(numbered, replies, strict=True)}
        )
        return [message.metadata.message_id for message in numbered]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies to these messages; each is handed out once.

        Args:
            message_ids: as `push_messages` gave them.
        """
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Replies in the order of the messages. Nothing takes time here, so `timeout` is not needed.

        Args:
            messages: to any of the nodes; neighbours of one kind are answered together.
            timeout: seconds; not used.
        """
        replies: list[Message] = []
        for _, group in groupby(messages, key=lambda message: message.metadata.message_type):
            batch = list(group)
            for message in batch:
                message.metadata.__dict__["_message_id"] = str(next(self._numbers))
            replies.extend(self._answer(batch))
        return replies

    def _answer(self, messages: Sequence[Message]) -> list[Message]:
        contexts = [self._context(message.metadata.dst_node_id) for message in messages]
        if isinstance(self._app, CohortClientApp):
            return self._app.answer_cohort(messages, contexts)
        return [self._answer_one(message, context) for message, context in zip(messages, contexts, strict=True)]

    def _answer_one(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as error:  # what a SuperNode does with any exception of a ClientApp
            return Message(Error(CLIENT_FAILED, repr(error)), reply_to=message)

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            config: dict[str, bool | float | int | str] = {
                "partition-id": node - FIRST_NODE,
                "num-partitions": self._count,
            }
            self._contexts[node] = Context(1, node, config, RecordDict(), dict(self._run_config))
        return self._contexts[node]
