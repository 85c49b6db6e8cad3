"""What a net is trained by: layers that are known one by one, the whole net mapped, or device by device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedinfer.schema import Schema
from fedinfer.training.engines.compile import Program, read_program
from fedinfer.training.engines.mapped import Mapped, map_net
from fedinfer.training.models.build import Model
from fedinfer.training.models.parts import freeze_unused
from fedinfer.training.objective import Objective, labels_of


def probe_of(model: Model, frozen: nn.Module, schema: Schema) -> tuple[Tensor, Tensor]:
    """Two rows as the trained part gets them, and labels.

    Args:
        model: the graph.
        frozen: the part that stays as it is.
        schema: what a row looks like.
    """
    with torch.no_grad():
        rows = torch.rand(2, schema.width, generator=torch.Generator().manual_seed(0))
        return frozen(model.prepare(rows)), labels_of(np.zeros(2, np.int64), schema)


def read_programs(
    net: nn.Module, probe: tuple[Tensor, Tensor], objective: Objective, device: torch.device
) -> tuple[Program | None, Program | Mapped | None]:
    """Layers that are known one by one, and what plain training goes by: those, or the whole net mapped.

    Args:
        net: the part that is trained; gradients of parameters that forward does not use are switched off.
        probe: from `probe_of`.
        objective: the loss.
        device: of torch, where batched steps run.

    Returns:
        None twice: device by device.

    Raises:
        ConfigError: the loss cannot be differentiated.
    """
    shape = tuple(probe[0].shape[1:])
    program = read_program(net, shape, objective)
    if program is not None:
        program = replace(program, device=device)
        return program, program
    freeze_unused(net, *probe, objective)
    # Frozen parameters have no place in a mapped net, and torch maps its recurrent layers one row after the other.
    whole = all(parameter.requires_grad for parameter in net.parameters())
    recurrent = any(isinstance(module, nn.RNNBase) for module in net.modules())
    return None, map_net(net, shape, objective) if whole and not recurrent else None
