"""Per-example gradients of any torch module by Opacus, many rows of one device in a batch: for simulations.

Rules:
* The clip factor of an example is min(1, C / (norm + 1e-6)), Opacus' own.
* An example whose gradient is not finite counts as zero, so one example never moves a sum by more than C.
* Clipped gradients are added in double precision.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.training.engines.sampling import RandomSource, Rows
from fedinfer.training.objective import Objective
from fedinfer.training.update import size, trainable

_PER_EXAMPLE_NUMBERS = 32_000_000
"""Per-example gradients held at once (128 MB)."""


@dataclass(frozen=True, slots=True)
class RowsTogether:
    """A module wrapped by Opacus.

    Args:
        module: in training mode, in use by nobody else.
        parameters: those that get a gradient.
        optimizer: Opacus' own; it clips and never steps.
        objective: the loss.
    """

    module: Any
    parameters: list[nn.Parameter]
    optimizer: Any
    objective: Objective

    def clipped_sum(self, x: Tensor, y: Tensor, rows: Rows, source: RandomSource) -> Tensor:
        """As `Clipper.clipped_sum`: in batches; dropout follows torch's global seed (set by the caller), not `source`.

        Raises:
            ConfigError: a parameter that forward does not use.
        """
        total = torch.zeros(size(self.parameters), dtype=torch.float64)
        together = max(1, _PER_EXAMPLE_NUMBERS // len(total))
        for at in range(0, len(rows), together):
            piece = torch.from_numpy(rows[at : at + together])
            total += self._clipped_piece(x[piece], y[piece])
        return total

    def _clipped_piece(self, x: Tensor, y: Tensor) -> Tensor:
        with warnings.catch_warnings():  # inputs need no gradient; torch warns about hooks that then see less
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            self.objective.total(self.module(x), y).backward()
        for parameter in self.parameters:
            if _sampled(parameter).grad_sample is None:
                raise ConfigError(
                    "Opacus found no per-example gradient of a parameter", hint="use every parameter in forward"
                )
        _drop_broken(self.parameters)
        self.optimizer.clip_and_accumulate()
        total = torch.cat([_sampled(parameter).summed_grad.reshape(-1) for parameter in self.parameters])
        self.optimizer.zero_grad()
        return total


def work_together(net: nn.Module, clipping_norm: float, objective: Objective) -> RowsTogether:
    """Copy a module and give it Opacus' hooks.

    Args:
        net: the part that is trained.
        clipping_norm: L2 bound C > 0 on one example's gradient.
        objective: the loss.

    Raises:
        MissingExtra: Opacus is not installed.
        ConfigError: Opacus refuses the module.
    """
    try:
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer
    except ImportError as error:
        raise MissingExtra("private training needs the package opacus", hint="pip install 'fedinfer[train]'") from error
    try:
        module = GradSampleModule(copy.deepcopy(net).train(), loss_reduction="sum")
    except NotImplementedError as error:
        raise ConfigError(
            f"Opacus cannot train this model privately: {error}", hint="a layer with weights must not own buffers"
        ) from error
    parameters = trainable(module)
    # Opacus clips and sums here and no more: noise is added by whoever the run trusts with it.
    plain = torch.optim.SGD(parameters, lr=1.0)
    optimizer = DPOptimizer(
        plain, noise_multiplier=0.0, max_grad_norm=clipping_norm, expected_batch_size=None, loss_reduction="sum"
    )
    return RowsTogether(module, parameters, optimizer, objective)


def _drop_broken(parameters: list[nn.Parameter]) -> None:
    """Set the per-example gradients of rows that are not finite to zero."""
    samples: list[Tensor] = [_sampled(parameter).grad_sample for parameter in parameters]
    keep = torch.stack([sample.reshape(len(sample), -1).isfinite().all(dim=1) for sample in samples]).all(dim=0)
    if not bool(keep.all()):
        for sample in samples:
            sample[~keep] = 0.0


def _sampled(parameter: nn.Parameter) -> Any:
    """A parameter with what Opacus hangs on it, which torch's types do not know: grad_sample and summed_grad."""
    return parameter
