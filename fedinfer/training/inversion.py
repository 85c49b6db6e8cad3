"""What a vector of gradients says about the rows behind it: inputs of the first layer, recovered from its weights.

For a linear layer with bias, the gradient of its weights is an outer product of that of the bias with the input, so one
row is recovered exactly from its gradient (Phong et al. 2018, section III; Geiping et al. 2020, proposition 3.1). From
the gradient of several rows comes an average of them, and from noise comes noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedinfer.training.update import trainable

if TYPE_CHECKING:
    from fedinfer.training.trainer import Trainer

Floats = npt.NDArray[np.float64]


def first_layer(trainer: Trainer) -> tuple[slice, slice, int] | None:
    """Where the first layer lies in the flat vector.

    Args:
        trainer: of the model.

    Returns:
        Places of its weights (outputs x inputs) and of its bias, and the number of inputs; None where the first layer
        that is trained is not linear with a bias.
    """
    net, at = trainer.net, 0
    layers = [module for module in net.modules() if any(True for _ in module.parameters(recurse=False))]
    if not layers or not isinstance(layers[0], nn.Linear) or layers[0].bias is None:
        return None
    first, places = layers[0], {}
    for parameter in trainable(net):
        places[id(parameter)] = slice(at, at + parameter.numel())
        at += parameter.numel()
    weight, bias = places.get(id(first.weight)), places.get(id(first.bias))
    return None if weight is None or bias is None else (weight, bias, first.in_features)


def recovered(trainer: Trainer, gradient: Floats) -> Floats | None:
    """The input of the first layer that explains a gradient, least squares over the outputs.

    Args:
        trainer: of the model.
        gradient: (dimension,) of one row, of a sum, or what was released of one; its sign and scale do not matter.

    Returns:
        float64 (inputs,); None where the first layer is of another kind.
    """
    places = first_layer(trainer)
    if places is None:
        return None
    weight, bias, inputs = places
    of_bias, of_weight = gradient[bias], gradient[weight].reshape(-1, inputs)
    result: Floats = of_bias @ of_weight / max(float(of_bias @ of_bias), 1e-300)
    return result


def first_inputs(trainer: Trainer, x: npt.NDArray[np.float32]) -> Floats:
    """What the first layer sees of raw rows.

    Args:
        trainer: of the model.
        x: raw rows (n, width) float32.

    Returns:
        float64 (n, inputs).
    """
    with torch.no_grad():
        prepared = trainer.prepared(x)
    return prepared.reshape(len(x), -1).numpy().astype(np.float64)
