"""What a trainer does with a graph: try it, split it at the head, make its recurrent layers native."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedinfer.config import Tune
from fedinfer.errors import ConfigError
from fedinfer.schema import Schema
from fedinfer.training.models.additive import AdditivePrepare, TermSum
from fedinfer.training.models.build import Model
from fedinfer.training.models.sequence import Recurrent
from fedinfer.training.objective import Objective
from fedinfer.training.update import trainable, tuned_parameters


def try_forward(model: Model, schema: Schema) -> None:
    """Send one row of zeros through the graph: a model that cannot take it is a configuration error.

    Args:
        model: the graph.
        schema: what a row looks like.

    Raises:
        ConfigError: the graph fails, or gives something other than (1, outputs).
    """
    try:
        with torch.no_grad():
            shape = tuple(model(torch.zeros(1, schema.width)).shape)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(f"[model] does not fit the data: {error}") from error
    if shape != (1, schema.outputs):
        what = "logits" if schema.label_range is None else "number"
        raise ConfigError(f"[model] gives shape {shape} for one row, needed are (1, {schema.outputs}) {what}")


def split(core: nn.Module, tune: Tune) -> tuple[nn.Module, nn.Module]:
    """The part that stays as it is, and the part that is trained.

    Args:
        core: module with the parameters; gradients of what stays are switched off in it where it cannot be cut.
        tune: all parameters, or those of the head.

    Returns:
        Two modules that share the parameters of `core`; the output of the first is the input of the second.
    """
    match tune:
        case Tune.ALL:
            return nn.Identity(), core
        case Tune.HEAD:
            return _split_head(core)
        case _:
            assert_never(tune)


def freeze_unused(net: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> None:
    """Switch the gradients of parameters off that forward does not use: they would be noise and nothing else.

    Args:
        net: the part that is trained; changed in place.
        x: prepared rows, at least one.
        y: their labels.
        objective: the loss.

    Raises:
        ConfigError: the loss cannot be differentiated.
    """
    parameters = trainable(net)
    if not parameters:
        return
    try:
        gradients = torch.autograd.grad(objective.mean(net.eval()(x), y), parameters, allow_unused=True)
    except RuntimeError as error:
        raise ConfigError(f"[model] cannot be trained: {error}") from error
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def keep_frozen(model: Model, free: Sequence[bool]) -> Model:
    """Give the parameters of a model back what its author said of them, whatever rounds tune.

    Args:
        model: changed in place.
        free: per parameter of the core, whether it may change.
    """
    for parameter, may_change in zip(model.core.parameters(), free, strict=True):
        parameter.requires_grad_(may_change)
    return model


def trained_places(core: nn.Module, tune: Tune) -> npt.NDArray[np.bool_]:
    """Which numbers of the whole weight vector rounds change.

    Args:
        core: module with the parameters; a parameter whose `requires_grad` is off stays as it is.
        tune: all of them, or those of the head.

    Returns:
        (size,) bool.

    Raises:
        ConfigError: none of them.
    """
    tuned = {id(parameter) for parameter in tuned_parameters(core, tune) if parameter.requires_grad}
    pieces = [np.full(each.numel(), id(each) in tuned) for each in tuned_parameters(core, Tune.ALL)]
    places = np.concatenate(pieces)
    if not places.any():
        raise ConfigError("[model] has no parameter that rounds could change", hint="unfreeze one, or tune = 'all'")
    return places


def make_native(model: Model) -> None:
    """Give a model the form in which it is exported, with the same answers.

    Recurrent layers become one operator, which runs faster; an additive model adds up its terms one by one.

    Args:
        model: changed in place; its parameters then have other names.
    """
    if isinstance(model.prepare, AdditivePrepare) and isinstance(model.core, nn.Sequential):
        head = model.core[-1]
        if isinstance(head, nn.Linear):
            model.core = TermSum(head, model.prepare.terms)
    for name, child in model.core.named_children():
        if isinstance(child, Recurrent):
            setattr(model.core, name, child.native())


def _split_head(core: nn.Module) -> tuple[nn.Module, nn.Module]:
    # Cut in two, the layers below the head run once per round and not once per step.
    if type(core) is nn.Sequential and isinstance(core[-1], nn.Linear):
        return core[:-1], core[-1]
    keep = {id(parameter) for parameter in tuned_parameters(core, Tune.HEAD)}
    for parameter in core.parameters():
        parameter.requires_grad_(id(parameter) in keep)
    return nn.Identity(), core
