"""Training on public rows before the first round: ordinary, central, without privacy cost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedinfer.config import TrainingSection, Tune
from fedinfer.training.cosine_adam import CosineAdam
from fedinfer.training.engines.seeding import seeded
from fedinfer.training.models.build import Model
from fedinfer.training.objective import Objective
from fedinfer.training.update import get_vector
from fedinfer.types import FloatVector

LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-4


def pretrain(
    model: Model,
    x: Tensor,
    y: Tensor,
    training: TrainingSection,
    objective: Objective,
    rng: np.random.Generator,
) -> FloatVector:
    """Train all layers with Adam (Kingma and Ba 2015) and a cosine schedule; changes `model`.

    Args:
        model: the graph.
        x: public raw rows (n, width).
        y: their labels (n,).
        training: pretrain_epochs and batch_size.
        objective: the loss.
        rng: order of the rows and dropout.

    Returns:
        The whole weight vector (size,) float32; the start weights when there are no rows.
    """
    count = len(y)
    if count:
        with seeded(int(rng.integers(2**53))):
            _train(model, x, y, training, objective, rng)
    model.eval()
    return get_vector(model, Tune.ALL)


def _train(
    model: Model,
    x: Tensor,
    y: Tensor,
    training: TrainingSection,
    objective: Objective,
    rng: np.random.Generator,
) -> None:
    per_epoch = -(-len(y) // training.batch_size)
    steps = training.pretrain_epochs * per_epoch
    optimizer = CosineAdam(model.core.parameters(), LEARNING_RATE, steps, WEIGHT_DECAY)
    model.train()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(len(y)))
        at = (step % per_epoch) * training.batch_size
        rows = order[at : at + training.batch_size]
        optimizer.zero_grad()
        objective.mean(model(x[rows]), y[rows]).backward()
        optimizer.step()
