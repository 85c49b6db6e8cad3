"""Gradients of many models at once for modules that `compile` does not know: autograd, mapped over devices.

torch.func writes every operation of one model as the same operation of G models, so embeddings, attention, recurrent
layers and modules of a user's own are batched without a line about them. What cannot be: dropout (each device has its
own seed), buffers (forward may write there), and a forward that decides by its numbers.

A device's numbers depend on its company in their last bits alone: torch computes the last few numbers of an array (exp
in a sigmoid, for instance) by other code than the rest, and which ones are last follows from the size of the stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedinfer.training.engines.noise import CPU
from fedinfer.training.objective import Objective

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mapped:
    """A module whose trained parameters are an argument.

    Args:
        net: the module; parameters that are not trained are used as they are.
        names, shapes: of the trained parameters, in the order of the flat vector.
        dimension: length of the flat vector.
        objective: the loss.
        numbers_per_example: outputs of all layers for one example, a measure of memory.
        device: of torch, where the steps run: the processor, because a module may hold constants there.
    """

    net: nn.Module
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    dimension: int
    objective: Objective
    numbers_per_example: int
    device: torch.device = CPU

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor | None) -> Tensor:
        """Gradients of each model's mean loss.

        Args:
            weights: (G, d), one row per model.
            x: (G, B, *features).
            y: (G, B).
            share: (G, B), factor of each example's loss; None: one over B.

        Returns:
            (G, d).
        """
        if len(weights) == 1:  # a batch of one product may be computed in another order than one of several
            twice = None if share is None else torch.cat([share, share])
            return self.gradients(weights.repeat(2, 1), torch.cat([x, x]), torch.cat([y, y]), twice)[:1]
        each = torch.full(y.shape, 1.0 / y.shape[1]) if share is None else share
        found = vmap(grad(self._loss))(self._parameters(weights), x, y, each)
        return torch.cat([found[name].reshape(len(weights), -1) for name in self.names], dim=1)

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        return (self.objective.each(functional_call(self.net, parameters, (x,)), y) * share).sum()

    def _parameters(self, weights: Tensor) -> dict[str, Tensor]:
        pieces = weights.split([torch.Size(shape).numel() for shape in self.shapes], dim=1)
        return {
            name: piece.reshape(len(weights), *shape)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }


def map_net(net: nn.Module, features: Shape, objective: Objective) -> Mapped | None:
    """Try to map a module over devices.

    Args:
        net: the part that is trained.
        features: shape of one prepared row.
        objective: the loss.

    Returns:
        None where the module cannot be mapped; the caller then goes device by device.
    """
    modules = list(net.modules())
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in modules) or list(net.buffers()):
        return None
    named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    mapped = Mapped(
        net,
        tuple(name for name, _ in named),
        tuple(tuple(parameter.shape) for _, parameter in named),
        sum(parameter.numel() for _, parameter in named),
        objective,
        _numbers(net, features),
    )
    return mapped if _works(mapped, features) else None


def _works(mapped: Mapped, features: Shape) -> bool:
    label = torch.zeros(2, 1) if mapped.objective.loss is not None else torch.zeros(2, 1, dtype=torch.int64)
    try:
        found = mapped.gradients(torch.zeros(2, mapped.dimension), torch.zeros(2, 1, *features), label, None)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
        return False  # torch says in many ways that it cannot map an operation
    return tuple(found.shape) == (2, mapped.dimension)


def _numbers(net: nn.Module, features: Shape) -> int:
    """Outputs of all layers for one example."""
    counts: list[int] = []

    def count(_: nn.Module, __: object, output: object) -> None:
        counts.append(output.numel() if isinstance(output, Tensor) else 0)

    hooks = [module.register_forward_hook(count) for module in net.modules() if not list(module.children())]
    try:
        with torch.no_grad():
            net(torch.zeros(1, *features))
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, sum(counts))
