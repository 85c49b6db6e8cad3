"""Clipped sums of a real device: every row goes through the network by itself, so no row can touch another.

Rules:
* A row's gradient depends on the weights, the row and its own dropout seed only. It is a copy of its own, because where
  a row lies in memory can matter to rounding; a batch of one row, because the size of a batch does (`GradientEngine`).
* Seeds of dropout come from the device's entropy, one for each row that it holds, whether the row takes part or not.
* A gradient that is not finite counts as zero. The clip factor is min(1, C / (norm + 1e-6)), in double precision.
* Clipped numbers are cut, towards zero, to whole multiples of at most 2^-32 C. Sums of up to 2^20 of them are exact in
  double precision: what the other rows add up to is the same to the last bit, with a row or without it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedinfer.errors import ConfigError
from fedinfer.training.engines.noise import grid_unit
from fedinfer.training.engines.sampling import RandomSource, Rows, uniform
from fedinfer.training.engines.seeding import reseed, seeded
from fedinfer.training.objective import Objective
from fedinfer.training.update import size, trainable

_SEEDS = 2**53


@dataclass(frozen=True, slots=True)
class RowsAlone:
    """A module that takes one row at a time.

    Args:
        module: in training mode, in use by nobody else.
        parameters: those that get a gradient.
        clipping_norm: L2 bound C on one row's gradient.
        objective: the loss.
    """

    module: nn.Module
    parameters: list[nn.Parameter]
    clipping_norm: float
    objective: Objective

    def clipped_sum(self, x: Tensor, y: Tensor, rows: Rows, source: RandomSource) -> Tensor:
        """Sum of the clipped gradients of some rows.

        Args:
            x: all prepared rows of the device (n, ...) float32.
            y: their labels (n,).
            rows: which of them take part, (m,) in [0, n).
            source: entropy of the device, for dropout.

        Returns:
            (d,) float64, whole multiples of the grid's unit; no rows give zeros.
        """
        unit = grid_unit(self.clipping_norm)
        total = torch.zeros(size(self.parameters), dtype=torch.float64)
        seeds = (uniform(source, len(y)) * _SEEDS).astype(np.int64).tolist()
        with seeded(0):
            for row in rows.tolist():
                reseed(seeds[row])
                gradient = self._gradient(x[row : row + 1].clone(), y[row : row + 1])
                norm = float(torch.linalg.vector_norm(gradient))
                if math.isfinite(norm):  # squares of float32 do not overflow here: finite means that all numbers are
                    factor = min(1.0, self.clipping_norm / (norm + 1e-6))
                    total += gradient.mul_(factor / unit).trunc_()
        return total.mul_(unit)

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of one row's loss, flat, (d,) float64."""
        loss = self.objective.mean(self.module(x), y)
        pieces = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return torch.cat([piece.reshape(-1) for piece in pieces]).double()


def work_alone(net: nn.Module, clipping_norm: float, objective: Objective) -> RowsAlone:
    """Copy a module for work on one row at a time.

    Args:
        net: the part that is trained.
        clipping_norm: L2 bound C > 0 on one example's gradient.
        objective: the loss.

    Raises:
        ConfigError: a layer with weights owns buffers: what forward writes there would go from row to row.
    """
    for name, module in net.named_modules():
        if any(own.requires_grad for own in module.parameters(recurse=False)) and list(module.buffers()):
            raise ConfigError(
                f"layer {name or type(module).__name__} owns buffers: it cannot be trained privately",
                hint="a layer with weights must not own buffers",
            )
    work = copy.deepcopy(net).train()
    return RowsAlone(work, trainable(work), clipping_norm, objective)
