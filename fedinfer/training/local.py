"""One device after another with any torch module: plain SGD by autograd, private SGD and clipped sums by Opacus.

Rules:
* The clip factor of an example is min(1, C / (norm + 1e-6)), Opacus' own.
* An example whose gradient is not finite counts as zero, so one example never moves a sum by more than C.
* Clipped gradients are added in double precision; on a real device each is computed by itself (`worked_alone`), so that
  the sum over all examples but one is the same to the last bit whether that one takes part or not.
* Rows and noise come from the device's own source through `sampling` and `noise`, in the same order in both engines.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedinfer.config import TrainingSection
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.training.noise import gaussian_noise
from fedinfer.training.sampling import PrivateSteps, Source, minibatches, poisson_rows, uniform, worked_alone
from fedinfer.training.seeding import seeded
from fedinfer.training.update import size, write
from fedinfer.types import FloatVector, WideVector

Features = Sequence[tuple[Tensor, Tensor]]
"""Per device: prepared rows (n, ...) float32 and labels (n,) int64."""

_PER_EXAMPLE_NUMBERS = 32_000_000
"""Per-example gradients held at once (128 MB)."""


def updates(
    net: nn.Module, start: FloatVector, data: Features, sources: Sequence[Source], training: TrainingSection
) -> FloatVector:
    """Local SGD of every device from the same start; new minus old weights, (devices, d) float32."""
    work = copy.deepcopy(net).train()
    parameters = _trainable(work)
    result = np.zeros((len(data), start.size), dtype=np.float32)
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        batches = minibatches(source, len(y), training)
        with seeded(_dropout_seed(work, source)):
            write(parameters, start)
            _descend(work, parameters, x, y, batches, training)
        result[row] = _flat(parameters) - start
    return result


def gradient_sums(
    net: nn.Module,
    start: FloatVector,
    data: Features,
    sources: Sequence[Source],
    rate: float,
    clipping_norm: float,
) -> WideVector:
    """Sum of the clipped gradients of Poisson-sampled rows, per device, (devices, d) float64."""
    private = _wrap(net, clipping_norm)
    write(private.parameters, start)
    result = np.zeros((len(data), start.size))
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        rows = torch.from_numpy(poisson_rows(source, len(y), rate))
        with seeded(_dropout_seed(net, source)):
            result[row] = private.clipped_sum(x[rows], y[rows], _together(start.size, source)).numpy()
    return result


def private_updates(
    net: nn.Module,
    start: FloatVector,
    data: Features,
    sources: Sequence[Source],
    training: TrainingSection,
    private: PrivateSteps,
) -> FloatVector:
    """DP-SGD (Abadi et al. 2016, Algorithm 1) on each device; new minus old weights, (devices, d) float32."""
    work = _wrap(net, private.clipping_norm)
    result = np.zeros((len(data), start.size), dtype=np.float32)
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        write(work.parameters, start)
        with seeded(_dropout_seed(net, source)):
            _descend_privately(work, x, y, source, training, private)
        result[row] = _flat(work.parameters) - start
    return result


@dataclass(frozen=True, slots=True)
class _Private:
    """A module wrapped by Opacus, with its trainable parameters and the optimizer that clips."""

    module: Any
    parameters: list[nn.Parameter]
    optimizer: Any

    def clipped_sum(self, x: Tensor, y: Tensor, together: int) -> Tensor:
        """Clipped sum over all rows, `together` at a time, as one flat float64 vector; no rows give zeros."""
        total = torch.zeros(size(self.parameters), dtype=torch.float64)
        for at in range(0, len(y), together):
            piece = slice(at, at + together)
            total += self._clipped_piece(
                x[piece].clone(), y[piece]
            )  # a copy: where a row lies in memory can matter too
        return total

    def _clipped_piece(self, x: Tensor, y: Tensor) -> Tensor:
        with warnings.catch_warnings():  # inputs need no gradient; torch warns about hooks that then see less
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            cross_entropy(self.module(x), y, reduction="sum").backward()
        for parameter in self.parameters:
            if parameter.grad_sample is None:
                raise ConfigError(
                    "Opacus found no per-example gradient of a parameter", hint="use every parameter in forward"
                )
        _drop_broken(self.parameters)
        self.optimizer.clip_and_accumulate()
        total = torch.cat([parameter.summed_grad.reshape(-1) for parameter in self.parameters])
        self.optimizer.zero_grad()
        return total


def _wrap(net: nn.Module, clipping_norm: float) -> _Private:
    """Copy a module and give it Opacus' hooks.

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
    parameters = _trainable(module)
    plain = torch.optim.SGD(parameters, lr=1.0)
    optimizer = DPOptimizer(
        plain, noise_multiplier=0.0, max_grad_norm=clipping_norm, expected_batch_size=None, loss_reduction="sum"
    )
    return _Private(module, parameters, optimizer)


def _together(dimension: int, source: Source) -> int:
    """How many rows go through the network at a time."""
    return 1 if worked_alone(source) else max(1, _PER_EXAMPLE_NUMBERS // dimension)


def _drop_broken(parameters: list[nn.Parameter]) -> None:
    """Set the per-example gradients of rows that are not finite to zero."""
    finite = torch.stack([p.grad_sample.reshape(len(p.grad_sample), -1).isfinite().all(dim=1) for p in parameters])
    keep = finite.all(dim=0)
    if not bool(keep.all()):
        for parameter in parameters:
            parameter.grad_sample[~keep] = 0.0


def _descend_privately(
    work: _Private, x: Tensor, y: Tensor, source: Source, training: TrainingSection, private: PrivateSteps
) -> None:
    optimizer, anchor = _optimizer(work.parameters, training), _copies(work.parameters)
    expected = max(1.0, private.rate * len(y))
    deviation = private.noise_multiplier * private.clipping_norm
    noise, noisy = gaussian_noise(source), torch.empty(size(work.parameters))
    together = _together(noisy.numel(), source)
    for _ in range(private.steps):
        rows = torch.from_numpy(poisson_rows(source, len(y), private.rate))
        noise(noisy, deviation)
        total = (work.clipped_sum(x[rows], y[rows], together) + noisy).float()  # rounded when the noise is in it
        _set_gradients(work.parameters, total / expected)
        _pull(work.parameters, anchor, training.proximal)
        optimizer.step()


def _descend(
    net: nn.Module,
    parameters: list[nn.Parameter],
    x: Tensor,
    y: Tensor,
    batches: list[Any],
    training: TrainingSection,
) -> None:
    optimizer, anchor = _optimizer(parameters, training), _copies(parameters)
    for batch in batches:
        rows = torch.from_numpy(batch)
        optimizer.zero_grad()
        cross_entropy(net(x[rows]), y[rows]).backward()
        _pull(parameters, anchor, training.proximal)
        optimizer.step()


def _optimizer(parameters: list[nn.Parameter], training: TrainingSection) -> Any:
    return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum)


def _pull(parameters: list[nn.Parameter], anchor: list[Tensor], proximal: float) -> None:
    """FedProx (Li et al. 2020, eq. 2): add mu * (w - w_start) to the gradient."""
    if proximal > 0:
        for parameter, origin in zip(parameters, anchor, strict=True):
            parameter.grad.add_(parameter.detach() - origin, alpha=proximal)


def _set_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    pieces = flat.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _trainable(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def _flat(parameters: list[nn.Parameter]) -> FloatVector:
    flat: FloatVector = torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).numpy()
    return flat


def _dropout_seed(net: nn.Module, source: Source) -> int:
    """A seed for dropout masks; drawn only where the model has any, so that other models follow the same plan."""
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in net.modules()):
        return int(uniform(source, 1)[0] * 2**53)
    return 0
