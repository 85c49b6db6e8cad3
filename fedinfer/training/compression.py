"""A smaller download from finished weights: magnitude pruning, and fine-tuning that knows about int8.

Rules:
* the input is a weight vector and public rows. No function here takes a device's rows, so privacy costs nothing:
  what was released stays released (post-processing, Dwork & Roth 2014, proposition 2.1);
* every matrix and convolution loses the same share of its weights, those nearest to zero. Biases and norms are left
  alone, and so are the rows of an embedding table that mean padding or a missing value;
* what was pruned stays zero: fine-tuning works under a fixed mask;
* fine-tuning imitates the answers of the unpruned model on the public rows and needs no labels. The gates compare
  with that model, and a few public labels would pull towards the public rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.prune import L1Unstructured

from fedinfer.config import Tune
from fedinfer.errors import ConfigError
from fedinfer.training.cosine_adam import CosineAdam
from fedinfer.training.models.build import Model
from fedinfer.training.objective import Objective
from fedinfer.training.update import get_vector
from fedinfer.types import FloatVector

LEARNING_RATE = 0.002
_LARGEST = 127  # int8 weights are symmetric, so that zero stays zero


class Rounded(StrEnum):
    """What the quantization scheme rounds to int8 when the model runs."""

    WEIGHTS = "weights"
    INPUTS = "weights-and-inputs"


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """What to do with finished weights.

    Args:
        pruning: share of each matrix that becomes zero, in [0, 1).
        steps: of fine-tuning; 0 = none.
        batch_size: rows in a step.
        rounded: what fine-tuning rounds.
    """

    pruning: float
    steps: int
    batch_size: int
    rounded: Rounded


def compress(
    model: Model, x: Tensor, plan: CompressionPlan, objective: Objective, rng: np.random.Generator
) -> FloatVector:
    """Prune, then fine-tune what is left; changes `model`.

    Args:
        model: a graph with `prepare` and `core`.
        x: public raw rows (n, width); may be empty when `plan.steps` is 0.
        plan: share, steps, rounding.
        objective: says what an answer is.
        rng: order of the rows.

    Returns:
        The whole weight vector (size,) float32.

    Raises:
        ConfigError: fine-tuning without public rows.
    """
    if plan.steps and not len(x):
        raise ConfigError(
            f"[artifact] qat_steps = {plan.steps}: there are no public rows to fine-tune on",
            hint="set [data] public_fraction, or qat_steps = 0; pruning alone needs no rows",
        )
    model.eval()
    # The teacher is the model before anything is pruned: the gates compare with that one.
    with torch.no_grad():
        teacher = objective.answers(model(x)) if plan.steps else None
    masks = magnitude_masks(model, plan.pruning)
    weights = dict(model.named_parameters())
    if teacher is not None:
        with _rounded_inputs(model, x, plan.rounded):
            _imitate(model, masks, x, teacher, plan, objective, rng)
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)
    return get_vector(model, Tune.ALL)


def magnitude_masks(model: nn.Module, share: float) -> dict[str, Tensor]:
    """Zero for the `round(share * n)` smallest of the n weights of a matrix that may go, one for the others.

    Han et al. 2015, section 3, per tensor and in one step.

    Args:
        model: a graph with `prepare` and `core`.
        share: in [0, 1).

    Returns:
        Mask by parameter name, for every parameter with two dimensions or more.
    """
    masks = {}
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        scores = weight.detach().abs()
        kept = _kept_rows(model, name)
        scores[kept] = math.inf  # never among the smallest, so never pruned
        count = round(share * (weight.numel() - len(kept) * weight[0].numel()))
        masks[name] = L1Unstructured(count).compute_mask(scores, torch.ones_like(scores))
    return masks


def fake_int8(weight: Tensor, table: bool) -> Tensor:
    """The weight as int8 gives it back, with the gradient of the identity (Jacob et al. 2018, section 3).

    Args:
        weight: two dimensions or more, output channels first.
        table: an embedding table has one scale, as onnxruntime gives it; other weights one per output channel.
    """
    flat = weight.detach().abs().reshape(1 if table else len(weight), -1)
    scale = flat.amax(dim=1).clamp_min(1e-12) / _LARGEST
    if table:
        return torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, -_LARGEST, _LARGEST)
    zero = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -_LARGEST, _LARGEST)


def _imitate(
    model: nn.Module,
    masks: dict[str, Tensor],
    x: Tensor,
    teacher: Tensor,
    plan: CompressionPlan,
    objective: Objective,
    rng: np.random.Generator,
) -> None:
    """Adam with a cosine schedule towards the teacher's answers (Hinton et al. 2015, section 2)."""
    weights = dict(model.named_parameters())
    optimizer = CosineAdam(weights.values(), LEARNING_RATE, plan.steps)
    tables = _tables(model) if _rounds_inputs(plan.rounded) else {}
    for rows in _batches(len(x), plan, rng):
        rounded = {name: fake_int8(weights[name] * mask, name in tables) for name, mask in masks.items()}
        optimizer.zero_grad()
        objective.imitated(functional_call(model, rounded, (x[rows],)), teacher[rows]).backward()
        optimizer.step()


def _batches(count: int, plan: CompressionPlan, rng: np.random.Generator) -> Iterator[Tensor]:
    """`plan.steps` batches of row numbers; every row once before one comes twice."""
    size = min(plan.batch_size, count)
    order = np.empty(0, dtype=np.int64)
    for _ in range(plan.steps):
        if len(order) < size:
            order = rng.permutation(count)
        yield torch.from_numpy(order[:size])
        order = order[size:]


@contextmanager
def _rounded_inputs(model: nn.Module, x: Tensor, rounded: Rounded) -> Iterator[None]:
    """Round what enters a linear layer or a convolution to int8, with the range that the public rows have there.

    The range is that of the calibrator of the static quantization schemes: smallest and largest value, zero included.
    """
    from torch.ao.quantization import FakeQuantize, MinMaxObserver

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    hooks = []
    for layer in layers if _rounds_inputs(rounded) else ():
        fake = FakeQuantize(MinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8)
        hooks.append(layer.register_forward_pre_hook(_rounding(fake)))
    try:
        with torch.no_grad():
            model(x)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounds_inputs(rounded: Rounded) -> bool:
    match rounded:
        case Rounded.INPUTS:
            return True
        case Rounded.WEIGHTS:
            return False
        case _:
            assert_never(rounded)


def _rounding(fake: nn.Module) -> Any:
    return lambda _module, inputs: (fake(inputs[0]),)


def _tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """Embedding layers by the name of their weight."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    return {f"{name}.weight": module for name, module in found.items()}


def _kept_rows(model: nn.Module, name: str) -> list[int]:
    """Rows of an embedding table that stand for no word or category: padding, missing, unseen."""
    table = _tables(model).get(name)
    if table is None:
        return []
    special = set(getattr(model.prepare, "special_rows", ()))
    return sorted(special if table.padding_idx is None else special | {table.padding_idx})
