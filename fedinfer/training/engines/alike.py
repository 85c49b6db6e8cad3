"""Devices of one step sorted into groups that are computed as one stack.

Rule: how many rows a device's batch is padded to follows from its own batch alone, never from its company. A matrix
product of another shape may add up in another order, so this is what gives a device equal bits in every cohort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedinfer.training.engines.sampling import Rows, pieces


@dataclass(frozen=True, slots=True)
class Alike:
    """Devices whose batches have one width.

    Args:
        devices: their numbers; a slice where they are neighbours, so that their weights need no copy.
        at: (G, B) row numbers, int64.
        present: (G, B), 0.0 for padding; None: every row is there.
    """

    devices: slice | list[int]
    at: Tensor
    present: Tensor | None

    def to(self, device: torch.device) -> Alike:
        """The same where the rows are.

        Args:
            device: of torch.
        """
        present = None if self.present is None else self.present.to(device)
        return Alike(self.devices, self.at.to(device), present)

    @property
    def share(self) -> Tensor | None:
        """(G, B) factor that makes sums means; None: one over the width for every row."""
        return None if self.present is None else self.present / self.present.sum(1, keepdim=True)


def padded_width(length: int, usual: int) -> int:
    """Rows that a batch takes: its own number, or a little more so that there are few different widths.

    Args:
        length: rows of the batch, >= 1.
        usual: rows of a full batch, which is never padded.

    Returns:
        `length` up to 8 and for a full batch; else the next number with at most three binary digits that are not zero
        at its end, so at most a quarter more.
    """
    if length == usual or length <= 8:
        return length
    step = 1 << (length.bit_length() - 3)
    return -(-length // step) * step


def groups(picks: Sequence[Rows], offsets: Sequence[int], usual: int) -> Iterator[Alike]:
    """The devices of one step in groups; a device without rows is in none.

    Args:
        picks: row numbers of each device, within its own rows.
        offsets: where the rows of each device begin.
        usual: rows of a full batch.
    """
    found: dict[tuple[int, bool], list[int]] = {}
    for device, pick in enumerate(picks):
        if len(pick):
            width = padded_width(len(pick), usual)
            found.setdefault((width, len(pick) == width), []).append(device)
    for (width, full), devices in found.items():
        own = [picks[device] for device in devices]
        starts = np.array([offsets[device] for device in devices], dtype=np.int64)
        yield _stacked(slice_of(devices), own, starts, width, full)


def laid_out(
    orders: Sequence[Rows], offsets: Sequence[int], lengths: Sequence[Sequence[int]], widths: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Row numbers of all steps of devices with equal work.

    Args:
        orders: of each device the rows that its steps use, one step behind the other.
        offsets: where the rows of each device begin.
        lengths: rows of each step, per device.
        widths: the same as `padded_width` gives it, for all of them.

    Returns:
        (G, rows of all steps) int64; and float32 of that shape, the weight of each row in its step's mean, 0 for
        padding, or None where nothing is padded.
    """
    starts = np.array(offsets, dtype=np.int64)
    if all(len(order) == sum(widths) for order in orders):
        return torch.from_numpy(np.stack(orders) + starts[:, None]), None
    plans = [pieces(order, own) for order, own in zip(orders, lengths, strict=True)]
    steps = [
        _stacked(slice(0, len(plans)), list(batches), starts, width, full=False)
        for batches, width in zip(zip(*plans, strict=True), widths, strict=True)
    ]
    shares = [step.share for step in steps]
    return torch.cat([step.at for step in steps], 1), torch.cat([share for share in shares if share is not None], 1)


def _stacked(devices: slice | list[int], picks: list[Rows], starts: np.ndarray, width: int, full: bool) -> Alike:
    if full:
        return Alike(devices, torch.from_numpy(np.stack(picks) + starts[:, None]), None)
    at = np.zeros((len(picks), width), dtype=np.int64)
    present = np.zeros((len(picks), width), dtype=np.float32)
    for row, pick in enumerate(picks):
        at[row, : len(pick)] = pick + starts[row]
        present[row, : len(pick)] = 1.0
    return Alike(devices, torch.from_numpy(at), torch.from_numpy(present))


def slice_of(devices: list[int]) -> slice | list[int]:
    """The same devices as a slice where they are neighbours in order, so that nothing is copied.

    Args:
        devices: numbers, at least one, each once.
    """
    neighbours = devices == list(range(devices[0], devices[0] + len(devices)))
    return slice(devices[0], devices[-1] + 1) if neighbours else devices
