"""One device after another with any torch module: plain SGD by autograd, private SGD and clipped sums.

Rule: rows and noise come from the device's own source through `sampling` and `noise`, in the same order as in
`batched`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedinfer.config import TrainingSection
from fedinfer.training.engines.noise import gaussian_noise, grid_unit
from fedinfer.training.engines.sampling import PrivateSteps, RandomSource, Rows, minibatches, poisson_rows, uniform
from fedinfer.training.engines.seeding import seeded
from fedinfer.training.objective import Objective
from fedinfer.training.update import size, trainable, write
from fedinfer.types import FloatVector, WideVector

Features = Sequence[tuple[Tensor, Tensor]]
"""Per device: prepared rows (n, ...) float32 and labels (n,), as `objective.labels_of` gives them."""


class Clipper(Protocol):
    """Gives clipped sums for whatever `parameters` hold: `per_example.RowsAlone` or `opacus.RowsTogether`."""

    @property
    def module(self) -> nn.Module:
        """In training mode, in use by nobody else."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that get a gradient, in the order of the flat vector."""

    def clipped_sum(self, x: Tensor, y: Tensor, rows: Rows, source: RandomSource) -> Tensor:
        """Sum of the clipped gradients of some rows.

        Args:
            x: all prepared rows of the device (n, ...) float32.
            y: their labels (n,).
            rows: which of them take part, (m,) in [0, n).
            source: of the device they belong to, for dropout.

        Returns:
            (d,) float64; zeros for no rows.
        """


def updates(
    net: nn.Module,
    start: FloatVector,
    data: Features,
    sources: Sequence[RandomSource],
    training: TrainingSection,
    objective: Objective,
) -> FloatVector:
    """Local SGD of every device from the same start (FedAvg, McMahan et al. 2017, Algorithm 1, ClientUpdate).

    Args:
        net: the part that is trained; it is copied.
        start: (d,) float32, the same for all devices.
        data: prepared rows and labels per device; a device may have none.
        sources: one source of randomness per device.
        training: local work: epochs or steps, batch size, learning rate, momentum, FedProx.
        objective: the loss.

    Returns:
        New minus old weights, (devices, d) float32; zeros for a device without rows.
    """
    work = copy.deepcopy(net).train()
    parameters = trainable(work)
    result = np.zeros((len(data), start.size), dtype=np.float32)
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        batches = minibatches(source, len(y), training)
        with seeded(_dropout_seed(work, source)):
            write(parameters, start)
            _descend(work, parameters, x, y, batches, training, objective)
        result[row] = _flat(parameters) - start
    return result


def gradient_sums(
    work: Clipper, start: FloatVector, data: Features, sources: Sequence[RandomSource], rate: float
) -> WideVector:
    """Sum of the clipped gradients of Poisson-sampled rows, per device.

    Args:
        work: computes them; its parameters are overwritten with `start`.
        start: (d,) float32.
        data: prepared rows and labels per device.
        sources: one source of randomness per device, for samples and dropout.
        rate: probability of each row, in (0, 1].

    Returns:
        (devices, d) float64.
    """
    write(work.parameters, start)
    result = np.zeros((len(data), start.size))
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        rows = poisson_rows(source, len(y), rate)
        with seeded(_dropout_seed(work.module, source)):
            result[row] = work.clipped_sum(x, y, rows, source).numpy()
    return result


def private_updates(
    work: Clipper,
    start: FloatVector,
    data: Features,
    sources: Sequence[RandomSource],
    training: TrainingSection,
    private: PrivateSteps,
) -> FloatVector:
    """DP-SGD (Abadi et al. 2016, Algorithm 1) on each device.

    Args:
        work: computes clipped sums; its parameters are overwritten.
        start: (d,) float32, the same for all devices.
        data: prepared rows and labels per device; the number of rows counts as public.
        sources: one source of randomness per device, for samples, dropout and noise.
        training: learning rate, momentum, FedProx.
        private: steps, Poisson rate, clipping norm (that of `work`), noise multiplier.

    Returns:
        New minus old weights, (devices, d) float32.
    """
    result = np.zeros((len(data), start.size), dtype=np.float32)
    for row, ((x, y), source) in enumerate(zip(data, sources, strict=True)):
        write(work.parameters, start)
        with seeded(_dropout_seed(work.module, source)):
            _descend_privately(work, x, y, source, training, private)
        result[row] = _flat(work.parameters) - start
    return result


def _descend_privately(
    work: Clipper, x: Tensor, y: Tensor, source: RandomSource, training: TrainingSection, private: PrivateSteps
) -> None:
    optimizer, anchor = _optimizer(work.parameters, training), _copies(work.parameters)
    # The expected size of a sample, not its real one: that depends on who is in it, and the sensitivity would with it.
    expected = max(1.0, private.rate * len(y))
    deviation = private.noise_multiplier * private.clipping_norm
    noise = gaussian_noise(source, grid_unit(private.clipping_norm))
    noisy = torch.empty(size(work.parameters), dtype=torch.float64)
    for _ in range(private.steps):
        rows = poisson_rows(source, len(y), private.rate)
        noise(noisy, deviation)
        total = (
            work.clipped_sum(x, y, rows, source) + noisy
        ).float()  # exact, and rounded once, when the noise is in it
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
    objective: Objective,
) -> None:
    optimizer, anchor = _optimizer(parameters, training), _copies(parameters)
    for batch in batches:
        rows = torch.from_numpy(batch)
        optimizer.zero_grad()
        objective.mean(net(x[rows]), y[rows]).backward()
        _pull(parameters, anchor, training.proximal)
        optimizer.step()


def _optimizer(parameters: list[nn.Parameter], training: TrainingSection) -> Any:
    return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum)


def _pull(parameters: list[nn.Parameter], anchor: list[Tensor], proximal: float) -> None:
    """FedProx (Li et al. 2020, eq. 2): add mu * (w - w_start) to the gradient."""
    if proximal > 0:
        for parameter, origin in zip(parameters, anchor, strict=True):
            if parameter.grad is not None:  # one that forward does not use stays where it is
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


def _dropout_seed(net: nn.Module, source: RandomSource) -> int:
    """A seed for dropout masks; drawn only where the model has any, so that other models follow the same plan."""
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in net.modules()):
        return int(uniform(source, 1)[0] * 2**53)
    return 0
