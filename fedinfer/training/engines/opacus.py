"""One device after another with any torch module: plain SGD by autograd, private SGD and clipped sums.

Per-example gradients are `alone`'s on a real device (`worked_alone`), and Opacus' in batches in a simulation.

Rules:
* The clip factor of an example is min(1, C / (norm + 1e-6)), Opacus' own.
* An example whose gradient is not finite counts as zero, so one example never moves a sum by more than C.
* Clipped gradients are added in double precision.
* Rows and noise come from the device's own source through `sampling` and `noise`, in the same order in both engines.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedinfer.config import TrainingSection
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.training.engines.noise import gaussian_noise
from fedinfer.training.engines.per_example import work_alone
from fedinfer.training.engines.sampling import (
    PrivateSteps,
    Rows,
    Source,
    minibatches,
    poisson_rows,
    uniform,
    worked_alone,
)
from fedinfer.training.engines.seeding import seeded
from fedinfer.training.update import size, trainable, write
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
    parameters = trainable(work)
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
    work = _clipper(net, clipping_norm, sources)
    write(work.parameters, start)
    result = np.zeros((len(data), start.size))
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        rows = poisson_rows(source, len(y), rate)
        with seeded(_dropout_seed(net, source)):
            result[row] = work.clipped_sum(x, y, rows, source).numpy()
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
    work = _clipper(net, private.clipping_norm, sources)
    result = np.zeros((len(data), start.size), dtype=np.float32)
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        write(work.parameters, start)
        with seeded(_dropout_seed(net, source)):
            _descend_privately(work, x, y, source, training, private)
        result[row] = _flat(work.parameters) - start
    return result


class _Clipper(Protocol):
    """Gives clipped sums for whatever `parameters` hold; `source` is that of the device whose rows these are."""

    @property
    def parameters(self) -> list[nn.Parameter]: ...

    def clipped_sum(self, x: Tensor, y: Tensor, rows: Rows, source: Source) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _Batched:
    """A module wrapped by Opacus, with its trainable parameters and the optimizer that clips."""

    module: Any
    parameters: list[nn.Parameter]
    optimizer: Any

    def clipped_sum(self, x: Tensor, y: Tensor, rows: Rows, source: Source) -> Tensor:
        """Clipped sum over some rows as one flat float64 vector; no rows give zeros. Dropout is the caller's seed's."""
        total = torch.zeros(size(self.parameters), dtype=torch.float64)
        together = max(1, _PER_EXAMPLE_NUMBERS // len(total))
        for at in range(0, len(rows), together):
            piece = torch.from_numpy(rows[at : at + together])
            total += self._clipped_piece(x[piece], y[piece])
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


def _clipper(net: nn.Module, clipping_norm: float, sources: Sequence[Source]) -> _Clipper:
    if any(worked_alone(source) for source in sources):
        return work_alone(net, clipping_norm)
    return _wrap(net, clipping_norm)


def _wrap(net: nn.Module, clipping_norm: float) -> _Batched:
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
    parameters = trainable(module)
    plain = torch.optim.SGD(parameters, lr=1.0)
    optimizer = DPOptimizer(
        plain, noise_multiplier=0.0, max_grad_norm=clipping_norm, expected_batch_size=None, loss_reduction="sum"
    )
    return _Batched(module, parameters, optimizer)


def _drop_broken(parameters: list[nn.Parameter]) -> None:
    """Set the per-example gradients of rows that are not finite to zero."""
    finite = torch.stack([p.grad_sample.reshape(len(p.grad_sample), -1).isfinite().all(dim=1) for p in parameters])
    keep = finite.all(dim=0)
    if not bool(keep.all()):
        for parameter in parameters:
            parameter.grad_sample[~keep] = 0.0


def _descend_privately(
    work: _Clipper, x: Tensor, y: Tensor, source: Source, training: TrainingSection, private: PrivateSteps
) -> None:
    optimizer, anchor = _optimizer(work.parameters, training), _copies(work.parameters)
    expected = max(1.0, private.rate * len(y))
    deviation = private.noise_multiplier * private.clipping_norm
    noise, noisy = gaussian_noise(source), torch.empty(size(work.parameters))
    for _ in range(private.steps):
        rows = poisson_rows(source, len(y), private.rate)
        noise(noisy, deviation)
        total = (work.clipped_sum(x, y, rows, source) + noisy).float()  # rounded when the noise is in it
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


def _flat(parameters: list[nn.Parameter]) -> FloatVector:
    flat: FloatVector = torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).numpy()
    return flat


def _dropout_seed(net: nn.Module, source: Source) -> int:
    """A seed for dropout masks; drawn only where the model has any, so that other models follow the same plan."""
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in net.modules()):
        return int(uniform(source, 1)[0] * 2**53)
    return 0
