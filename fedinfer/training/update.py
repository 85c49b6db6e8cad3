"""Model parameters as one flat float32 vector and back.

The order is that of `core.named_parameters()`. With `Tune.HEAD` only the tail that belongs to the head is meant.
"""

from __future__ import annotations

from typing import Protocol, assert_never

import numpy as np
import torch
from torch import nn

from fedinfer.config import Tune
from fedinfer.errors import ConfigError
from fedinfer.types import FloatVector


class WithCore(Protocol):
    """A graph whose parameters are all in its core: a `models.build.Model`."""

    @property
    def core(self) -> nn.Module:
        """The module with the parameters."""


def tuned_parameters(core: nn.Module, tune: Tune) -> list[nn.Parameter]:
    """The parameters that rounds change, in the order of the flat vector.

    Args:
        core: module with the parameters.
        tune: all of them, or those of the last module that owns any.
    """
    named = list(core.named_parameters())
    match tune:
        case Tune.ALL:
            return [parameter for _, parameter in named]
        case Tune.HEAD:
            owner = named[-1][0].rpartition(".")[0]
            return [parameter for name, parameter in named if name.rpartition(".")[0] == owner]
        case _:
            assert_never(tune)


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that get a gradient, in the order of the flat vector.

    Args:
        net: what is trained; parameters that stay as they are have `requires_grad` off.
    """
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def size(parameters: list[nn.Parameter]) -> int:
    """How many numbers the parameters hold.

    Args:
        parameters: any.
    """
    return sum(int(parameter.numel()) for parameter in parameters)


def get_vector(model: WithCore, tune: Tune) -> FloatVector:
    """Copy parameters of `model.core` into a new flat vector.

    Args:
        model: the graph.
        tune: which parameters.

    Returns:
        (d,) float32; it shares no memory with the model.
    """
    pieces = [parameter.detach().reshape(-1) for parameter in tuned_parameters(model.core, tune)]
    vector: FloatVector = torch.cat(pieces).numpy().astype(np.float32, copy=True)
    return vector


def set_vector(model: WithCore, vector: FloatVector, tune: Tune) -> None:
    """Write a vector of the same layout into `model.core`.

    Args:
        model: the graph; changed in place.
        vector: (d,), converted to float32.
        tune: which parameters, as in `get_vector`.

    Raises:
        ConfigError: the vector has another length.
    """
    write(tuned_parameters(model.core, tune), vector)


def write(parameters: list[nn.Parameter], vector: FloatVector) -> None:
    """Write a flat vector into parameters.

    Args:
        parameters: changed in place.
        vector: (d,), converted to float32, in the order of the parameters.

    Raises:
        ConfigError: the vector has another length.
    """
    expected = size(parameters)
    if vector.shape != (expected,):
        raise ConfigError(f"weights of shape {vector.shape}, the model has {expected} parameters")
    flat = torch.from_numpy(np.array(vector, dtype=np.float32))
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.copy_(flat[start:stop].view_as(parameter))
            start = stop
