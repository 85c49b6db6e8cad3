"""What training minimises for one row: cross-entropy of classes, Huber or squared loss of a number.

A numeric label y with the public range [low, high] is scaled to t in [-1, 1] in double precision before anything else
sees it; the model's one output z estimates t. Losses:

* `huber`: h(z - t) / delta with delta = HUBER_DELTA (Huber 1964): its derivative by z is clip((z - t) / delta, -1, 1);
* `squared`: (z - t)^2 / 2 with the derivative z - t.

Privacy does not depend on the loss. A row's gradient is (derivative) x (derivative of z by the weights); as for classes
its L2 norm is clipped to C before rows are added up, so one row moves a sum by at most C (Abadi et al. 2016, Algorithm
1), whatever the label is. The label is clipped to a range that is public, so the scaling tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from fedinfer.config import NumberLoss, TrainingSection, class_factors, class_gain
from fedinfer.errors import DataError
from fedinfer.schema import Schema

HUBER_DELTA = 0.2
"""Where Huber's loss turns from squared to linear, on the label scaled to [-1, 1]: a tenth of the range."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of a task.

    Args:
        loss: None for classes.
        factors: of the loss of a row of each class, in (0, 1]; empty: all rows count alike. None is above 1, so that
            clipping, not a weight, decides how far one row moves a sum.
    """

    loss: NumberLoss | None
    factors: tuple[float, ...] = ()

    def total(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Sum of the losses of some rows, a scalar.

        Args:
            outputs: (n, classes) logits, or (n, 1).
            y: (n,) class numbers int64, or scaled labels float32.
        """
        if self.loss is None:
            return cross_entropy(outputs, y, weight=self._weights(), reduction="sum")
        error = outputs[:, 0] - y
        match self.loss:
            case NumberLoss.SQUARED:
                return 0.5 * error.square().sum()
            case NumberLoss.HUBER:
                inside = error.abs().clamp(max=HUBER_DELTA)
                return (inside * (error.abs() - 0.5 * inside)).sum() / HUBER_DELTA
            case _:
                assert_never(self.loss)

    def each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of every row, (n,).

        Args:
            outputs: (n, classes) logits, or (n, 1).
            y: (n,), as in `total`.
        """
        if self.loss is None:
            return cross_entropy(outputs, y, weight=self._weights(), reduction="none")
        error = outputs[:, 0] - y
        match self.loss:
            case NumberLoss.SQUARED:
                return 0.5 * error.square()
            case NumberLoss.HUBER:
                inside = error.abs().clamp(max=HUBER_DELTA)
                return inside * (error.abs() - 0.5 * inside) / HUBER_DELTA
            case _:
                assert_never(self.loss)

    def mean(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss of some rows, a scalar.

        Args:
            outputs: (n, outputs), n >= 1.
            y: (n,), as in `total`.
        """
        # cross_entropy's own mean rounds otherwise than the sum divided by n.
        plain = self.loss is None and not self.factors
        return cross_entropy(outputs, y) if plain else self.total(outputs, y) / len(y)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Derivative of each row's loss by the outputs; may reuse the memory of `outputs`.

        Args:
            outputs: (G, B, classes) logits, or (G, B, 1).
            y: (G, B), as in `total`.

        Returns:
            (G, B, outputs).
        """
        if self.loss is None:  # probabilities minus the one-hot label
            # For few classes torch.softmax along the last axis is four times as slow as its steps by themselves.
            delta = torch.sub(outputs, outputs.amax(2, keepdim=True)).exp_()
            delta.div_(delta.sum(2, keepdim=True))
            delta.scatter_add_(2, y.unsqueeze(2), delta.new_full((), -1.0).expand(*y.shape, 1))
            weights = self._weights()
            return delta if weights is None else delta.mul_(weights.to(delta.device).take(y).unsqueeze(2))
        error = outputs - y.unsqueeze(2)
        match self.loss:
            case NumberLoss.SQUARED:
                return error
            case NumberLoss.HUBER:
                return (error / HUBER_DELTA).clamp(-1.0, 1.0)
            case _:
                assert_never(self.loss)

    def _weights(self) -> Tensor | None:
        return torch.tensor(self.factors) if self.factors else None

    def imitated(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Mean loss against another model's answers (Hinton et al. 2015, section 2), a scalar.

        Args:
            outputs: (n, outputs), n >= 1.
            teacher: (n, outputs), from `answers`.
        """
        if self.loss is None:
            return cross_entropy(outputs, teacher)
        return 0.5 * (outputs - teacher).square().mean()

    def answers(self, outputs: Tensor) -> Tensor:
        """Outputs as an answer that can be imitated: probabilities, or the scaled value.

        Args:
            outputs: (n, outputs).
        """
        return softmax(outputs, dim=1) if self.loss is None else outputs


def objective_of(schema: Schema, training: TrainingSection) -> Objective:
    """The loss of a task.

    Args:
        schema: says whether the label is a number.
        training: loss of a number, weights of classes.
    """
    if schema.label_range is not None:
        return Objective(training.loss)
    return Objective(None, class_factors(training, schema.labels))


def weighted_steps(training: TrainingSection) -> TrainingSection:
    """Local work with steps as long as the weights of classes ask for: factors of the loss are at most 1.

    Args:
        training: resolved; without weights it stays as it is.
    """
    gain = class_gain(training)
    if gain == 1.0:
        return training
    longer = {"learning_rate": training.learning_rate * gain, "proximal": training.proximal / gain}
    return training.model_copy(update=longer)


def labels_of(y: npt.NDArray[Any], schema: Schema) -> Tensor:
    """Labels as losses take them.

    Args:
        y: (n,) class numbers, or values in the label's unit, clipped to its range.
        schema: classes or range.

    Returns:
        (n,) int64 class numbers, or float32 in [-1, 1].

    Raises:
        DataError: a label is no class of the schema, or no number.
    """
    if schema.label_range is None:
        if len(y) and not (0 <= int(y.min()) and int(y.max()) < schema.classes):
            last = schema.classes - 1
            raise DataError(f"labels in [{int(y.min())}, {int(y.max())}]; the schema has classes 0 to {last}")
        return torch.from_numpy(np.array(y, dtype=np.int64))
    low, high = schema.label_range
    values = np.asarray(y, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {len(values)} labels are not finite")
    scaled = (np.clip(values, low, high) - low) * (2.0 / (high - low)) - 1.0
    return torch.from_numpy(scaled.astype(np.float32))


def values_of(outputs: npt.NDArray[np.float32], schema: Schema) -> npt.NDArray[np.float32]:
    """The model's output in the label's unit, within its range: what the exported graph computes.

    Args:
        outputs: (n, 1) float32.
        schema: with a label range.

    Returns:
        (n, 1) float32.
    """
    half, middle = scale_of(schema)
    return (np.clip(outputs, -1.0, 1.0) * half + middle).astype(np.float32)


def scale_of(schema: Schema) -> tuple[np.float32, np.float32]:
    """Half of the width of the label's range, and its middle, as float32.

    Args:
        schema: with a label range.

    Raises:
        DataError: the label is a class.
    """
    if schema.label_range is None:
        raise DataError(f"label {schema.label} is a class, it has no range")
    low, high = schema.label_range
    return np.float32((high - low) / 2), np.float32((high + low) / 2)
