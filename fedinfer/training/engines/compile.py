"""A torch module read as a list of stacked layers, or None when it holds something the stack does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedinfer.training.engines.batched_layers import (
    Convolution,
    Dense,
    Flat,
    GroupNormal,
    Layer,
    Rectifier,
    Shape,
    SpatialMean,
    Tangent,
    Tap,
    Views,
)
from fedinfer.training.engines.noise import CPU
from fedinfer.training.objective import Objective


@dataclass(frozen=True, slots=True)
class Program:
    """A network as stacked layers.

    Args:
        layers: in order.
        shapes: per layer, the shapes of its parameters, in the order of the flat vector.
        dimension: length of the flat vector.
        objective: the loss.
        numbers_per_example: activations of one example, a measure of memory.
        device: of torch, where the steps run.
    """

    layers: tuple[Layer, ...]
    shapes: tuple[tuple[Shape, ...], ...]
    dimension: int
    objective: Objective
    numbers_per_example: int
    device: torch.device = CPU


def read_program(net: nn.Module, features: Shape, objective: Objective) -> Program | None:
    """Read a module whose input is (n, *features).

    Args:
        net: the part that is trained.
        objective: the loss.
        features: shape of one prepared row, channels first as torch has it.

    Returns:
        None when a layer, an option or a shape is not known to the stack; the caller then goes device by device.
    """
    modules = list(_leaves(net))
    if len({id(module) for module in modules}) != len(modules):
        return None
    layers: list[Layer] = []
    shapes: list[tuple[Shape, ...]] = []
    shape, numbers = features, _count(features)
    for module in modules:
        reader = _READERS.get(type(module))
        read = reader(module, shape) if reader else None
        if read is None:
            return None
        layer, shape, held = read
        numbers += held
        layers.append(layer)
        shapes.append(tuple(tuple(parameter.shape) for parameter in module.parameters()))
    if len(shape) != 1 or not all(parameter.requires_grad for parameter in net.parameters()):
        return None
    dimension = sum(_count(item) for group in shapes for item in group)
    return Program(tuple(layers), tuple(shapes), dimension, objective, numbers)


def views_of(program: Program, flat: Tensor) -> list[Views]:
    """The parameters of each layer as views into the flat weights.

    Args:
        program: the network.
        flat: (G, d) float32, one row per model.

    Returns:
        Per layer its parameters, each (G, *its shape), sharing memory with `flat`.
    """
    result, start = [], 0
    for group in program.shapes:
        views = []
        for shape in group:
            stop = start + _count(shape)
            views.append(flat[:, start:stop].view(flat.shape[0], *shape))
            start = stop
        result.append(views)
    return result


def stacked_rows(x: Tensor) -> Tensor:
    """Rows in torch's order to what the layers take: channels last, a series with height 1.

    Args:
        x: (G, B, features), (G, B, channels, length) or (G, B, channels, height, width).

    Returns:
        (G, B, features) or (G, B, height, width, channels), a view.
    """
    if x.dim() == 3:
        return x
    if x.dim() == 4:
        return x.transpose(2, 3).unsqueeze(2)
    return x.permute(0, 1, 3, 4, 2)


def taps(program: Program, views: list[Views], x: Tensor, y: Tensor, weight: Tensor | None) -> list[Tap | None]:
    """Gradients of the loss of every example, one tap per layer.

    Args:
        program: the network.
        views: its parameters, (G, ...).
        x: (G, B, *features).
        y: (G, B) class numbers or scaled labels.
        weight: (G, B) factor of each example's loss, 0 for padding; None for one everywhere.

    Returns:
        None for a layer without parameters.
    """
    _, found = propagate(program.layers, program.objective, views, stacked_rows(x), y, weight, 1.0, lowest=True)
    return found


def propagate(
    layers: Sequence[Layer],
    objective: Objective,
    views: Sequence[Views],
    h: Tensor,
    y: Tensor,
    weight: Tensor | None,
    scale: float,
    *,
    lowest: bool,
) -> tuple[Tensor, list[Tap | None]]:
    """Forward through some layers up to the loss, and back.

    Args:
        layers: in order, the last ones of a network; none: `h` is its output.
        objective: the loss.
        views: their parameters, (G, ...).
        h: what goes in, (G, B, ...), channels last.
        y: (G, B) class numbers or scaled labels.
        weight: (G, B) factor of each example's loss, 0 for padding; None for one everywhere.
        scale: of all errors and gradients, for instance minus the step size.
        lowest: no layer lies below them.

    Returns:
        Error of what went in (unspecified where they are the lowest), and a tap per layer, None for one without
        parameters.
    """
    saved = []
    for layer, own in zip(layers, views, strict=True):
        h, kept = layer.forward(own, h)
        saved.append(kept)
    delta = objective.error(h, y)
    if weight is not None:
        delta = delta * weight.unsqueeze(2)
    if scale != 1.0:  # here errors are fewest numbers
        delta = delta * scale
    found: list[Tap | None] = [None] * len(layers)
    for at in range(len(layers) - 1, -1, -1):
        delta, found[at] = layers[at].backward(views[at], saved[at], delta, lowest and at == 0)
    return delta, found


def _leaves(net: nn.Module) -> Iterator[nn.Module]:
    if type(net) is nn.Sequential:
        for child in net:
            yield from _leaves(child)
    else:
        yield net


Read = tuple[Layer, Shape, int] | None
"""A layer, the shape after it, and how many numbers of one example it keeps."""


def _read_linear(module: Any, shape: Shape) -> Read:
    if shape != (module.in_features,):
        return None
    return Dense(module.bias is not None), (module.out_features,), module.out_features


def _read_convolution(module: Any, shape: Shape) -> Read:
    plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    dimensions = len(module.kernel_size)
    if not plain or len(shape) != dimensions + 1 or shape[0] != module.in_channels:
        return None
    layer = Convolution(
        kernel=_pair(module.kernel_size, 1),
        stride=_pair(module.stride, 1),
        padding=_pair(module.padding, 0),
        dilation=_pair(module.dilation, 1),
        bias=module.bias is not None,
    )
    tall, wide = layer.size(shape[1] if dimensions == 2 else 1, shape[-1])
    if min(tall, wide) < 1:
        return None
    after = (module.out_channels, tall, wide) if dimensions == 2 else (module.out_channels, wide)
    patch = module.in_channels * layer.kernel[0] * layer.kernel[1]
    return layer, after, tall * wide * (module.out_channels + patch) + patch * module.out_channels


def _pair(option: tuple[int, ...], lead: int) -> tuple[int, int]:
    return (option[0], option[1]) if len(option) == 2 else (lead, option[0])


def _read_group_norm(module: Any, shape: Shape) -> Read:
    if shape[0] != module.num_channels:
        return None
    return GroupNormal(module.num_groups, module.eps, module.affine), shape, 2 * _count(shape)


def _read_flatten(module: Any, shape: Shape) -> Read:
    if (module.start_dim, module.end_dim) != (1, -1):
        return None
    return Flat(), (_count(shape),), _count(shape)


def _read_mean(module: Any, shape: Shape) -> Read:
    sizes = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,)
    if any(size != 1 for size in sizes) or len(shape) < 2:
        return None
    return SpatialMean(), (shape[0], *(1,) * (len(shape) - 1)), shape[0]


def _same(layer: Layer) -> Callable[[Any, Shape], Read]:
    return lambda module, shape: (layer, shape, _count(shape))


_READERS: dict[type, Callable[[Any, Shape], Read]] = {
    nn.Linear: _read_linear,
    nn.Conv1d: _read_convolution,
    nn.Conv2d: _read_convolution,
    nn.GroupNorm: _read_group_norm,
    nn.ReLU: _same(Rectifier()),
    nn.Tanh: _same(Tangent()),
    nn.Flatten: _read_flatten,
    nn.AdaptiveAvgPool1d: _read_mean,
    nn.AdaptiveAvgPool2d: _read_mean,
}


def _count(shape: Shape) -> int:
    total = 1
    for length in shape:
        total *= length
    return total
