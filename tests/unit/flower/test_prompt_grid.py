"""Replies are fetched soon after they arrive, for as long as the caller is willing to wait and no longer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import ModuleType

import pytest
from flwr.app import Message
from flwr.superlink.grid import http_grid
from flwr.supernode.runtime import run_clientapp

from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.prompt_grid import (
    FIRST_RETRY,
    LONGEST_RETRY,
    LONGEST_WAIT,
    SHORTEST_WAIT,
    PromptGrid,
    retry_soon,
    retry_until,
)
from fedinfer.flower.records import request_message
from fedinfer.messages import Kind
from fedinfer.ports import Answer, Ask
from fedinfer.simulation.grid import LocalGrid
from fedinfer.system import FrozenClock


class Echo:
    def find(self, _context: object) -> tuple[str, Echo]:
        return "a", self

    def answer(self, asks: Iterable[Ask]) -> list[Answer]:
        return [Answer(ask.device, ask.common) for ask in asks]


class SlowGrid(LocalGrid):
    """Hands out a reply when the clock has reached its time; a node that is not named never answers."""

    def __init__(self, clock: FrozenClock, after: dict[int, float]) -> None:
        super().__init__(CohortClientApp(Echo().find), 3, {})
        self.clock, self.begin, self.after = clock, clock.seconds(), after
        self.evaluations = 0
        self.unsent: set[int] = set()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        ids = super().push_messages(asked)
        self.due = {
            number: self.after.get(message.metadata.dst_node_id, float("inf"))
            for number, message in zip(ids, asked, strict=True)
        }
        return [
            "" if message.metadata.dst_node_id in self.unsent else number
            for number, message in zip(ids, asked, strict=True)
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.evaluations += 1
        now = self.clock.seconds() - self.begin
        return super().pull_messages([number for number in message_ids if self.due[number] <= now])


def exchange(after: dict[int, float], timeout: float | None) -> tuple[list[int], float, SlowGrid, list[float]]:
    clock, waits = FrozenClock(datetime(2026, 1, 1, tzinfo=UTC)), []
    grid = SlowGrid(clock, after)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    messages = [request_message(Ask("a", Kind.KEYS, b"", b""), node, "g") for node in grid.get_node_ids()]
    replies = PromptGrid(grid, clock, sleep).send_and_receive(messages, timeout=timeout)
    return [reply.metadata.src_node_id for reply in replies], clock.seconds() - grid.begin, grid, waits


def test_an_exchange_takes_a_tenth_longer_than_the_slowest_device() -> None:
    for slowest in (0.0, 0.3, 2.0, 8.0):
        nodes, took, _, _ = exchange({2: 0.0, 3: slowest / 2, 4: slowest}, 60.0)
        assert nodes == [2, 3, 4]
        assert took <= slowest * 1.1 + SHORTEST_WAIT


def test_a_long_wait_asks_seldom() -> None:
    _, took, grid, waits = exchange({2: 0.0, 3: 0.0, 4: 600.0}, 1000.0)
    assert took <= 600 + LONGEST_WAIT
    assert max(waits) == LONGEST_WAIT
    assert grid.evaluations < 700


def test_a_device_that_does_not_answer_is_waited_for_until_the_deadline_and_no_longer() -> None:
    nodes, took, _, _ = exchange({2: 0.1, 4: 29.95}, 30.0)
    assert nodes == [2, 4]
    assert abs(took - 30.0) < 1e-6


def test_a_message_that_could_not_be_sent_is_not_waited_for() -> None:
    clock = FrozenClock(datetime(2026, 1, 1, tzinfo=UTC))
    grid = SlowGrid(clock, {2: 0.0, 3: 0.0})
    grid.unsent = {4}
    messages = [request_message(Ask("a", Kind.KEYS, b"", b""), node, "g") for node in grid.get_node_ids()]
    assert len(PromptGrid(grid, clock, clock.advance).send_and_receive(messages, timeout=30.0)) == 2
    assert clock.seconds() == grid.begin


def test_a_part_that_is_still_on_its_way_is_asked_for_again_soon() -> None:
    asked: list[dict[str, float]] = []
    module = ModuleType("of flwr")
    vars(module)["pull"] = lambda _ids, **waits: asked.append(waits)
    retry_soon(module, "pull")
    module.pull(["a"])
    assert asked == [{"initial_backoff": FIRST_RETRY, "backoff_cap": LONGEST_RETRY}]
    retry_soon(module, "pull", max_time=7.0)
    module.pull(["a"])
    assert asked[1]["max_time"] == 7.0


@pytest.mark.parametrize("pull", [http_grid.pull_objects, run_clientapp.pull_and_inflate_object_from_tree])
def test_flower_has_the_waits_that_are_shortened(pull: Callable[..., object]) -> None:
    assert {"initial_backoff", "backoff_cap", "max_time"} <= set(inspect.signature(pull).parameters)


def test_the_rest_of_a_reply_is_waited_for_until_the_exchange_ends_and_no_longer() -> None:
    """A device that was killed while it answered must not keep the replies of the others from the round."""
    clock, left = FrozenClock(datetime(2026, 1, 1, tzinfo=UTC)), list[float]()
    module = ModuleType("of flwr")

    def pull(_ids: object, *, max_time: float, **_waits: float) -> None:
        left.append(max_time)

    vars(module)["pull"] = pull
    grid = SlowGrid(clock, {2: 0.0, 3: 7.0, 4: 0.0})
    prompt = PromptGrid(grid, clock, clock.advance)
    for _ in range(2):  # a process may make more than one
        retry_until(module, "pull", lambda: prompt.seconds_left)
    whole, halves = grid.pull_messages, iter([True])

    def half(ids: Iterable[str]) -> list[Message]:
        """The reply of node 4 never comes whole: it takes all the time there is, and is given up."""
        module.pull(ids)
        found = whole(ids)
        if next(halves, False):
            clock.advance(left[0])
            return [message for message in found if message.metadata.src_node_id != 4]
        return found

    grid.pull_messages = half  # type: ignore[method-assign]
    messages = [request_message(Ask("a", Kind.KEYS, b"", b""), node, "g") for node in (2, 3, 4)]
    replies = prompt.send_and_receive(messages, timeout=30.0)
    assert sorted(reply.metadata.src_node_id for reply in replies)[:2] == [2, 3]
    assert left == [30.0, 0.0]
    assert clock.seconds() - grid.begin == 30.0
    assert prompt.seconds_left == float("inf")


def test_everything_else_is_the_other_grids() -> None:
    clock = FrozenClock(datetime(2026, 1, 1, tzinfo=UTC))
    inner = SlowGrid(clock, {})
    grid = PromptGrid(inner, clock)
    grid.set_run("run")
    assert grid.run == inner.run == "run"
    assert grid.get_node_ids() == inner.get_node_ids()
    assert grid.send_and_receive([], timeout=5.0) == []
