"""A Flower Grid that fetches replies soon after they arrive.

Flower's own `HttpGrid.send_and_receive` polls every three seconds, and a round of secure aggregation asks five times.
Polling more often meets more replies whose parts are still on their way, for which Flower then waits a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedinfer.ports import Clock

SHORTEST_WAIT, LONGEST_WAIT = 0.02, 1.0
"""Seconds between two polls. Between these bounds the wait is a tenth of the time waited so far, so that an exchange
takes at most a tenth longer than the slowest device and a long one asks seldom."""
FIRST_RETRY, LONGEST_RETRY = 0.05, 1.0
"""Seconds before a part of a message that is still on its way is asked for again; doubled each time."""


def retry_soon(module: ModuleType, function: str, **more: float) -> None:
    """Shorten the waits of one of flwr's functions that pull the parts of a message, for callers in one module.

    Args:
        module: of flwr; its own name for the function is replaced.
        function: takes initial_backoff and backoff_cap, in seconds.
        more: further arguments of it, for instance max_time.
    """
    pull = vars(module)[function]
    setattr(module, function, partial(pull, initial_backoff=FIRST_RETRY, backoff_cap=LONGEST_RETRY, **more))


def retry_until(module: ModuleType, function: str, left: Callable[[], float]) -> None:
    """As `retry_soon`; a part that has not come when no time is left is given up.

    Args:
        module: of flwr; its own name for the function is replaced.
        function: takes max_time too, in seconds.
        left: seconds that are left now, >= 0.
    """
    retry_soon(module, function)
    pull = vars(module)[function]
    setattr(module, function, lambda *args, **named: pull(*args, **{"max_time": left(), **named}))


def make_prompt_grid(grid: Grid, clock: Clock) -> Grid:
    """A grid of a real or simulated deployment that fetches replies soon after they arrive.

    Args:
        grid: of Flower; carries the messages.
        clock: measures how long an exchange has taken.
    """
    from flwr.superlink.grid import http_grid

    prompt = PromptGrid(grid, clock)
    retry_until(http_grid, "pull_objects", lambda: prompt.seconds_left)
    return prompt


class PromptGrid(Grid):
    """Hands everything to another grid; only the waiting for replies is its own.

    Args:
        grid: carries the messages.
        clock: measures how long an exchange has taken.
        sleep: waits so many seconds.
    """

    def __init__(self, grid: Grid, clock: Clock, sleep: Callable[[float], None] = time.sleep) -> None:
        self._grid = grid
        self._clock = clock
        self._sleep = sleep
        self._end = math.inf

    @property
    def seconds_left(self) -> float:
        """Until the exchange that goes on ends, >= 0; infinite when it has no end.

        A device that is killed while it answers leaves half a reply; its rest would be waited for beyond the deadline.
        """
        return max(self._end - self._clock.seconds(), 0.0)

    def set_run(self, run: Any) -> None:
        """As `flwr.serverapp.Grid.set_run`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As `flwr.serverapp.Grid.run`."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As `flwr.serverapp.Grid.create_message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """As `flwr.serverapp.Grid.get_node_ids`."""
        return list(self._grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As `flwr.serverapp.Grid.push_messages`."""
        return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """As `flwr.serverapp.Grid.pull_messages`."""
        return list(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and collect their replies.

        A message that could not be sent is not waited for.

        Args:
            messages: one per node.
            timeout: seconds to wait for all replies together; None: until all have come.

        Returns:
            The replies in order of arrival.
        """
        begin = self._clock.seconds()
        self._end = math.inf if timeout is None else begin + timeout
        open_ids = [number for number in self._grid.push_messages(messages) if number]
        replies: list[Message] = []
        while open_ids:
            over = self._clock.seconds() >= self._end  # after a long pull another one finds what came meanwhile
            found = list(self._grid.pull_messages(open_ids))
            replies += found
            answered = {message.metadata.reply_to_message_id for message in found}
            open_ids = [number for number in open_ids if number not in answered]
            waited = self._clock.seconds() - begin
            if not open_ids or over:
                break
            wait = min(max(waited / 10, SHORTEST_WAIT), LONGEST_WAIT)
            self._sleep(min(wait, self.seconds_left))
        self._end = math.inf
        return replies
