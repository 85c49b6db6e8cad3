"""The rows of many devices in one tensor, so that a batched step picks them by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Prepared rows (n, ...) float32 and labels (n,) of one device."""


@dataclass(frozen=True, slots=True)
class Joined(Sequence[Pair]):
    """Rows of devices behind each other; as a sequence, the pair of each device.

    Args:
        x: rows of all devices, (n, ...).
        y: their labels, (n,).
        counts: rows of each device, in order; they add up to n.
    """

    x: Tensor
    y: Tensor
    counts: tuple[int, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the rows of each device begin."""
        return tuple(accumulate(self.counts, initial=0))[:-1]

    def to(self, device: torch.device) -> Joined:
        """The same rows where batched steps run.

        Args:
            device: of torch.
        """
        return Joined(self.x.to(device), self.y.to(device), self.counts)

    def picked(self, at: Tensor) -> Pair:
        """Rows and labels by number.

        Args:
            at: int64 of any shape, on the device of the rows.

        Returns:
            (*at.shape, ...) and (*at.shape,).
        """
        flat = at.reshape(-1)
        x = self.x.index_select(0, flat).view(*at.shape, *self.x.shape[1:])
        return x, self.y.index_select(0, flat).view(at.shape)

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        """Rows and labels of one device, or of some."""
        pairs = list(zip(self.x.split(self.counts), self.y.split(self.counts), strict=True))
        return pairs[index]


def joined(data: Sequence[Pair]) -> Joined:
    """The rows of some devices in one tensor.

    Args:
        data: rows and labels per device, at least one device.
    """
    if isinstance(data, Joined):
        return data
    x, y = torch.cat([rows for rows, _ in data]), torch.cat([labels for _, labels in data])
    return Joined(x, y, tuple(len(labels) for _, labels in data))
