"""Nodes of this process: messages go over a grid, and sums that nobody masks are made where the devices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedinfer.ports import Added, Adder, Answer, Ask, Nodes
from fedinfer.types import DeviceId


@dataclass(frozen=True, slots=True)
class LocalNodes:
    """Nodes whose devices all live in this process.

    Args:
        messages: carries asks to them.
        adder: adds up their vectors.
    """

    messages: Nodes
    adder: Adder

    def introduce(self, common: bytes, timeout_seconds: float) -> Sequence[tuple[int, Answer]]:
        """As `Nodes.introduce`."""
        return self.messages.introduce(common, timeout_seconds)

    def settle(self, homes: Mapping[DeviceId, int]) -> None:
        """As `Nodes.settle`."""
        self.messages.settle(homes)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """As `Transport.ask`."""
        return self.messages.ask(asks, timeout_seconds)

    def add_up(self, common: bytes, devices: Sequence[DeviceId]) -> Added:
        """As `Adder.add_up`."""
        return self.adder.add_up(common, devices)
