"""The same model on all rows in one place, without noise: only to compare with. A simulation alone can do this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedinfer.config import TrainingSection, Tune
from fedinfer.schema import Schema
from fedinfer.training.cosine_adam import CosineAdam
from fedinfer.training.engines.seeding import seeded, threads
from fedinfer.training.models.build import Model
from fedinfer.training.objective import Objective, labels_of, objective_of
from fedinfer.training.trainer import Trainer
from fedinfer.training.update import get_vector
from fedinfer.types import FloatVector

LEARNING_RATE = 0.03
WEIGHT_DECAY = 1e-4
STEPS = 1500
BATCH = 256


@dataclass(frozen=True, slots=True)
class PooledTask:
    """What a model is trained for.

    Args:
        schema: says what the label is.
        training: loss and weights of classes.
    """

    schema: Schema
    training: TrainingSection


def pooled_weights(
    trainer: Trainer, task: PooledTask, x: npt.NDArray[np.float32], y: npt.NDArray[Any], rng: np.random.Generator
) -> FloatVector:
    """Train all layers with Adam (Kingma and Ba 2015) and a cosine schedule for a fixed number of steps.

    Args:
        trainer: of the model, which starts anew from its start weights; nothing of the trainer changes.
        task: what is trained for.
        x: raw rows (n, width) float32, n >= 1.
        y: their labels (n,): class numbers, or values in the label's unit.
        rng: draws the batches and dropout.

    Returns:
        The whole weight vector (size,) float32.
    """
    model = trainer.module(trainer.initial(), native=False)
    with threads(1):
        rows, labels = torch.from_numpy(np.array(x, np.float32)), labels_of(y, task.schema)
        return _trained(model, rows, labels, objective_of(task.schema, task.training), rng)


def _trained(model: Model, x: Tensor, y: Tensor, objective: Objective, rng: np.random.Generator) -> FloatVector:
    with seeded(int(rng.integers(2**53))):
        optimizer = CosineAdam(model.core.parameters(), LEARNING_RATE, STEPS, WEIGHT_DECAY)
        model.train()
        for _ in range(STEPS):
            rows = torch.from_numpy(rng.integers(0, len(y), min(BATCH, len(y))))
            optimizer.zero_grad()
            objective.mean(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    return get_vector(model, Tune.ALL)
