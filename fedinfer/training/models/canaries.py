"""Weights that no row can move: those of canary levels, categories that were declared for an audit and that no row has.

The gradient of such a weight is zero for every row, so all that a round adds to it is noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedinfer.schema import CANARY, Categorical, Schema
from fedinfer.training.models.build import Model
from fedinfer.types import FloatVector


def canary_weights(model: Model, schema: Schema) -> FloatVector:
    """The weights of canary levels of a model that is one linear map of its features and starts at zero.

    Args:
        model: with its weights.
        schema: of its rows.

    Returns:
        (levels x outputs,) float32; empty for other models, and where no level is a canary.
    """
    levels = [
        (place, float(code))
        for place, column in enumerate(schema.columns)
        if isinstance(column, Categorical)
        for code, name in enumerate(column.categories)
        if name.startswith(CANARY)
    ]
    layers = [module for module in model.core.modules() if not list(module.children())]
    if not levels or model.own or len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return np.zeros(0, np.float32)
    rows = torch.full((len(levels) + 1, schema.width), torch.nan)
    for row, (place, code) in enumerate(levels):
        rows[row, place] = code
    with torch.no_grad():
        features = model.prepare(rows)
        # What a level adds where all else is missing: its own feature, and in pairs the one beside a missing level.
        own = (features[:-1] > features[-1]).any(dim=0)
        found: FloatVector = layers[0].weight[:, own].flatten().numpy().astype(np.float32)
    return found
