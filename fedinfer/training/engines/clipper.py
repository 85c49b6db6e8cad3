"""Who computes clipped gradients device by device: Opacus where it can, else every row by itself.

Opacus has no hooks for recurrent and attention layers of torch, and none for what a module does beside its layers. The
per-example engine takes any module, at the price of one backward pass per row, and gives the same sums up to rounding.
"""

from __future__ import annotations

import copy
import warnings
from typing import assert_never

import numpy as np
import torch
from torch import Tensor, nn

from fedinfer.errors import MissingExtra
from fedinfer.system import SimulatedEntropy
from fedinfer.training.engines.device_by_device import Clipper
from fedinfer.training.engines.gradient_engine import GradientEngine
from fedinfer.training.engines.opacus import work_together
from fedinfer.training.engines.per_example import work_alone
from fedinfer.training.engines.seeding import seeded
from fedinfer.training.objective import Objective

_WIDE = 1e3
"""A clipping norm that clips nothing of the probe."""


def clipper_of(engine: GradientEngine, net: nn.Module, clipping_norm: float, objective: Objective) -> Clipper:
    """What computes clipped sums; a batched step that overflowed, or has no program, is left to Opacus.

    Args:
        engine: as `Trainer.engine` says.
        net: the part that is trained.
        clipping_norm: L2 bound C > 0 on one example's gradient.
        objective: the loss.

    Raises:
        MissingExtra: Opacus is not installed.
        ConfigError: the module cannot be trained privately.
    """
    match engine:
        case GradientEngine.PER_EXAMPLE:
            return work_alone(net, clipping_norm, objective)
        case GradientEngine.BATCHED | GradientEngine.OPACUS:
            return work_together(net, clipping_norm, objective)
        case _:
            assert_never(engine)


def takes_rows_together(net: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> bool:
    """Whether Opacus finds the per-example gradients of a module, and they are those of the rows by themselves.

    Args:
        net: the part that is trained.
        x: prepared rows, at least one.
        y: their labels.
        objective: the loss.

    Raises:
        MissingExtra: Opacus is not installed.
    """
    still = copy.deepcopy(net)
    for module in still.modules():  # dropout would draw other masks for the two
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    everyone, source = np.arange(len(y)), SimulatedEntropy(0)
    try:
        with seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = work_together(still, _WIDE, objective).clipped_sum(x, y, everyone, source)
            alone = work_alone(still, _WIDE, objective).clipped_sum(x, y, everyone, source)
    except MissingExtra:
        raise
    except Exception:  # Opacus and functorch raise whatever their tracing stumbles over
        return False
    return bool(torch.allclose(found, alone, rtol=1e-3, atol=1e-5))
