"""Local SGD of many devices whose first layer, the widest of small networks, is written out for no device.

Every step moves the first layer by outer products of errors and rows, so after some steps its weights are
W_0 - r sum_k e_k x_k', and its output for row x is W_0 x - r sum_k (x_k . x) e_k: the dual form of a linear layer
(Aizerman, Braverman and Rozonoer 1964), exact for every network above it. Inner products of a device's few rows replace
a copy of the weights that each step would read twice and write once; what comes out is the same up to rounding.

Rule: whether a device works so follows from its own plan alone, never from its company (`alike`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedinfer.config import TrainingSection
from fedinfer.training.engines.batched_layers import Dense, Views
from fedinfer.training.engines.compile import Program, propagate, views_of
from fedinfer.training.engines.joined import Joined
from fedinfer.training.engines.mapped import Mapped


def suits(program: Program | Mapped, rows: int, training: TrainingSection) -> bool:
    """Whether the inner products of a device's rows cost less than the copy of the weights that they replace.

    With R rows, a inputs and b outputs they are R^2 (a + b / 2) multiplications beside the 2 R a b that are made either
    way; the limit is half as many.

    Args:
        program: the network.
        rows: that a device's whole local work goes through, each as often as it is used.
        training: local work; with momentum or FedProx a step is more than a sum of gradients.
    """
    if isinstance(program, Mapped) or training.momentum or training.proximal:
        return False
    if not isinstance(program.layers[0], Dense):
        return False
    outputs, inputs = program.shapes[0][0]
    return rows * (2 * inputs + outputs) <= 2 * inputs * outputs


def numbers(program: Program, rows: int) -> int:
    """Numbers that one device holds meanwhile.

    Args:
        program: that `suits`.
        rows: as there.
    """
    outputs, inputs = program.shapes[0][0]
    return program.dimension + rows * (inputs + 2 * outputs + rows)


def descend(
    program: Program,
    start: Tensor,
    rows: Joined,
    at: Tensor,
    share: Tensor | None,
    widths: Sequence[int],
    rate: float,
    into: Tensor,
) -> None:
    """SGD of devices with equal work.

    Args:
        program: that `suits`.
        start: (d,) weights of all devices.
        rows: of all devices.
        at: (G, R) numbers of the rows that the steps of each device use, in order.
        share: (G, R) weight of each row in its step's mean, 0 for padding; None: all rows of a step count alike.
        widths: rows of each step; they add up to R.
        rate: step size.
        into: (G, d), gets new minus old weights.
    """
    (x, y), own = rows.picked(at), views_of(program, start.unsqueeze(0))
    deeper = [[parameter.repeat(len(at), *(1,) * (parameter.dim() - 1)) for parameter in views] for views in own[1:]]
    moved = _moved(program, own[0], deeper, x, y, share, widths, rate)
    lowest, *above = views_of(program, into)
    lowest[0].copy_(torch.bmm(moved.transpose(1, 2), x))
    if len(lowest) > 1:  # the bias
        lowest[1].copy_(moved.sum(1))
    for view, new, old in _matched(above, deeper, own[1:]):
        torch.sub(new, old, out=view)


def _moved(
    program: Program,
    first: Views,
    deeper: list[Views],
    x: Tensor,
    y: Tensor,
    share: Tensor | None,
    widths: Sequence[int],
    rate: float,
) -> Tensor:
    """Minus the step size times the errors of the first layer's output, (G, R, outputs); moves the weights above it."""
    layer = program.layers[0]
    outputs, _ = layer.forward([parameter.expand(len(x), *parameter.shape[1:]) for parameter in first], x)
    # A bias is the weight of an input that is one for every row.
    alike = torch.bmm(x, x.transpose(1, 2)).add_(float(len(first) - 1))
    moved = torch.empty_like(outputs)
    for begin, end in _bounds(widths):
        known, steps = outputs[:, begin:end], moved[:, :begin]
        h = torch.baddbmm(known, alike[:, begin:end, :begin], steps) if begin else known.contiguous()
        weight = None if share is None else share[:, begin:end]
        scale = -rate if share is not None else -rate / (end - begin)
        delta, found = propagate(
            program.layers[1:], program.objective, deeper, h, y[:, begin:end], weight, scale, lowest=False
        )
        moved[:, begin:end] = delta
        for tap, own in zip(found, deeper, strict=True):
            if tap is not None:
                tap.accumulate(own, None, slice(None), 1.0)
    return moved


def _bounds(widths: Sequence[int]) -> Iterator[tuple[int, int]]:
    begin = 0
    for width in widths:
        yield begin, begin + width
        begin += width


def _matched(*parts: list[Views]) -> Iterator[tuple[Tensor, ...]]:
    """Parameters of equal place in several lists of layers."""
    for layers in zip(*parts, strict=True):
        yield from zip(*layers, strict=True)
