"""Adam (Kingma and Ba 2015) with a cosine schedule (Loshchilov and Hutter 2017, eq. 5), for a planned number of steps.

By torch's function, not by its class: constructing a torch.optim.Optimizer imports torch's compiler and with it sympy,
which takes longer than many a run trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # as in the paper, and as torch has them


class CosineAdam:
    """The optimizer of what is trained in one place, without privacy.

    Args:
        parameters: changed in place.
        learning_rate: at the start, > 0; it falls to 0 at the end.
        steps: planned, >= 1.
        weight_decay: added to the gradient, times the weight; >= 0.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, steps: int, weight_decay: float = 0.0
    ) -> None:
        self._parameters = list(parameters)
        self._learning_rate, self._steps, self._weight_decay = learning_rate, steps, weight_decay
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._counts = [torch.tensor(0.0) for _ in self._parameters]
        self._done = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        own = [place for place, parameter in enumerate(self._parameters) if parameter.grad is not None]
        gradients = [grad for parameter in self._parameters if (grad := parameter.grad) is not None]
        rate = self._learning_rate * 0.5 * (1.0 + math.cos(math.pi * self._done / self._steps))
        adam(
            [self._parameters[place] for place in own], gradients,
            [self._means[place] for place in own], [self._squares[place] for place in own], [],
            [self._counts[place] for place in own],
            amsgrad=False, beta1=_BETA1, beta2=_BETA2, lr=rate, weight_decay=self._weight_decay, eps=_EPSILON,
            maximize=False, foreach=False,
        )  # fmt: skip
        self._done += 1
