"""Server optimizers on flat numpy vectors.

FedAvg (McMahan et al. 2017), server momentum (Hsu et al. 2019) and FedAdagrad, FedYogi, FedAdam (Reddi et al. 2021,
"Adaptive Federated Optimization", Algorithm 2). As in Algorithm 2 there is no bias correction, and v starts at tau^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np

from fedinfer.config import ServerOptimizer
from fedinfer.errors import ConfigError
from fedinfer.types import FloatVector

BETA_2 = 0.99
"""Decay of the second moment (Reddi et al. 2021, section 5)."""
TAU = 1e-3
"""Degree of adaptivity tau (Reddi et al. 2021, section 5 and appendix)."""


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """How a released mean update is applied.

    Args:
        kind: which rule.
        learning_rate: server learning rate eta, > 0.
        momentum: beta_1 in [0, 1); unused by fedavg.
        beta_2: decay of the second moment, in [0, 1).
        tau: added to its root, > 0, in the unit of the update.
    """

    kind: ServerOptimizer
    learning_rate: float
    momentum: float
    beta_2: float = BETA_2
    tau: float = TAU


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """What a server optimizer remembers between rounds; empty arrays where it remembers nothing.

    Args:
        kind: the rule this state belongs to.
        first: momentum m, (d,) float32 or (0,).
        second: second moment v, (d,) float32 or (0,).
    """

    kind: str
    first: FloatVector
    second: FloatVector

    def arrays(self) -> dict[str, FloatVector]:
        """The arrays by name, for a checkpoint; `kind` goes into its header."""
        return {"optimizer_first": self.first, "optimizer_second": self.second}


def init_optimizer(settings: OptimizerSettings, dimension: int) -> OptimizerState:
    """State before the first round.

    Args:
        settings: rule and its constants; tau sets where the second moment starts.
        dimension: d of the update vector.

    Returns:
        Arrays of shape (d,) float32, or (0,) where the rule remembers nothing.
    """
    nothing, zeros = np.zeros(0, dtype=np.float32), np.zeros(dimension, dtype=np.float32)
    match settings.kind:
        case ServerOptimizer.FEDAVG:
            return OptimizerState(settings.kind, nothing, nothing)
        case ServerOptimizer.FEDAVGM:
            return OptimizerState(settings.kind, zeros, nothing)
        case ServerOptimizer.FEDADAM | ServerOptimizer.FEDYOGI | ServerOptimizer.FEDADAGRAD:
            # Algorithm 2 asks for v_(-1) >= tau^2: with zero the first step would divide by tau alone.
            return OptimizerState(settings.kind, zeros, np.full(dimension, settings.tau**2, dtype=np.float32))
        case _:
            assert_never(settings.kind)


def apply(
    state: OptimizerState, weights: FloatVector, mean_update: FloatVector, settings: OptimizerSettings
) -> tuple[OptimizerState, FloatVector]:
    """One server step; the inputs are left as they are.

    Args:
        state: from `init_optimizer` or the previous step.
        weights: (d,) float32.
        mean_update: (d,) float32, new minus old, averaged over the cohort.
        settings: the same in every round.

    Returns:
        The next state and the next weights (d,) float32.

    Raises:
        ConfigError: shapes differ or the state belongs to another rule.
    """
    if weights.shape != mean_update.shape:
        raise ConfigError(f"update of shape {mean_update.shape} for weights of shape {weights.shape}")
    if state.kind != settings.kind:
        raise ConfigError(f"optimizer state of {state.kind}, settings of {settings.kind}")
    match settings.kind:
        case ServerOptimizer.FEDAVG:
            return state, _moved(weights, mean_update, settings)
        case ServerOptimizer.FEDAVGM:
            velocity = (settings.momentum * state.first + mean_update).astype(np.float32)
            return OptimizerState(state.kind, velocity, state.second), _moved(weights, velocity, settings)
        case ServerOptimizer.FEDADAM | ServerOptimizer.FEDYOGI | ServerOptimizer.FEDADAGRAD:
            return _adaptive_step(state, weights, mean_update, settings)
        case _:
            assert_never(settings.kind)


def _adaptive_step(
    state: OptimizerState, weights: FloatVector, mean_update: FloatVector, settings: OptimizerSettings
) -> tuple[OptimizerState, FloatVector]:
    """Algorithm 2 of Reddi et al. 2021, lines 9 to 13."""
    first = (settings.momentum * state.first + (1 - settings.momentum) * mean_update).astype(np.float32)
    second = _second_moment(state.second, mean_update, settings)
    direction = (first / (np.sqrt(second) + settings.tau)).astype(np.float32)
    return OptimizerState(state.kind, first, second), _moved(weights, direction, settings)


def _second_moment(second: FloatVector, update: FloatVector, settings: OptimizerSettings) -> FloatVector:
    """The v of Algorithm 2 (Reddi et al. 2021): line 10 for Adagrad, 11 for Yogi, 12 for Adam."""
    squared = np.square(update)
    match settings.kind:
        case ServerOptimizer.FEDADAGRAD:
            return second + squared
        case ServerOptimizer.FEDYOGI:
            return (second - (1 - settings.beta_2) * squared * np.sign(second - squared)).astype(np.float32)
        case ServerOptimizer.FEDADAM:
            return (settings.beta_2 * second + (1 - settings.beta_2) * squared).astype(np.float32)
        case ServerOptimizer.FEDAVG | ServerOptimizer.FEDAVGM:
            raise ConfigError(f"{settings.kind} has no second moment")
        case _:
            assert_never(settings.kind)


def _moved(weights: FloatVector, direction: FloatVector, settings: OptimizerSettings) -> FloatVector:
    return (weights + np.float32(settings.learning_rate) * direction).astype(np.float32)
