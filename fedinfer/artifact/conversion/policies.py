"""Policies of Stable-Baselines3: an observation to the action that it takes without exploring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fedinfer.artifact.conversion.converted import LEAST_ROWS, Converted, Model, Rows, Values, columns_of
from fedinfer.artifact.conversion.networks import from_torch, torch_module
from fedinfer.artifact.imported.declaration import ModelTask
from fedinfer.artifact.imported.propose import Wishes
from fedinfer.errors import ConfigError, DataError

OUTPUT = "output"


def from_sb3(model: Model, rows: Rows) -> Converted:
    """Convert a trained policy.

    Discrete actions become classes: of PPO and A2C with their probabilities, of DQN by the largest value. Continuous
    actions become scores, in the units of the action space and clipped to it, as `predict(deterministic=True)` answers.
    Observations go in as the environment gives them; statistics of VecNormalize are no part of a policy.

    Args:
        model: algorithm of Stable-Baselines3 (PPO, A2C, DQN, SAC, TD3, DDPG), observations and actions of one box or a
            discrete set.
        rows: observations, (n, *shape of the observation space), n >= 8.

    Raises:
        ConfigError: another kind of policy or space.
        DataError: rows that are no observations.
    """
    torch, policy = torch_module(), model.policy
    observations = _observations(model, rows)
    actor, discrete = _actor(torch, policy, model.action_space)
    actor.eval()
    found = from_torch(actor, observations)
    actions, _ = model.predict(observations, deterministic=True)
    ranges = _ranges(model.observation_space, next(iter(found.feeds)))
    columns = tuple(columns_of(rows)) if observations.ndim == 2 else ()
    if discrete:
        start, count = int(getattr(model.action_space, "start", 0)), int(model.action_space.n)
        labels = tuple(str(start + place) for place in range(count))
        wishes = Wishes(task=ModelTask.CLASSIFICATION, labels=labels, ranges=ranges, columns=columns)
        return replace(found, decided=np.asarray(actions) - start, output=OUTPUT, wishes=wishes)
    space = model.action_space
    names = tuple(f"action_{place}" for place in range(int(np.prod(space.shape))))
    ranges = {**ranges, OUTPUT: (float(space.low.min()), float(space.high.max()))}
    wishes = Wishes(task=ModelTask.SCORES, labels=names, ranges=ranges, columns=columns)
    return replace(found, expected={OUTPUT: np.asarray(actions, np.float64)}, wishes=wishes)


def _observations(model: Model, rows: Rows) -> Values:
    space, columns = model.observation_space, columns_of(rows)
    if type(space).__name__ != "Box":
        raise ConfigError(f"observations of {type(space).__name__}: only a Box is converted")
    values = np.column_stack(list(columns.values())) if columns else np.asarray(rows)
    if values.shape[1:] != space.shape or len(values) < LEAST_ROWS:
        raise DataError(f"observations of shape {values.shape}; {LEAST_ROWS} rows of {space.shape} at least")
    return values.astype(space.dtype)


def _ranges(space: Any, name: str) -> dict[str, tuple[float, float]]:
    low, high = float(space.low.min()), float(space.high.max())
    return {name: (low, high)} if abs(low) < 1e6 and abs(high) < 1e6 else {}


def _actor(torch: Any, policy: Any, actions: Any) -> tuple[Any, bool]:
    """A module from observations to logits or values of actions, or to continuous actions; whether it is discrete."""
    kind = type(actions).__name__
    if kind not in ("Discrete", "Box"):
        raise ConfigError(f"actions of {kind}: a Discrete or a Box is converted")
    steps = _steps(torch, policy, actions, discrete=kind == "Discrete")

    class Actor(torch.nn.Module):  # type: ignore[misc]  # torch is an argument here
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, observation: Any) -> Any:
            return steps(observation)

    return Actor(), kind == "Discrete"


def _steps(torch: Any, policy: Any, actions: Any, *, discrete: bool) -> Any:
    if hasattr(policy, "q_net"):
        return policy.q_net
    if hasattr(policy, "action_net") and hasattr(policy, "mlp_extractor"):
        if getattr(policy, "squash_output", False):
            raise ConfigError("a policy with state-dependent exploration that squashes is not converted")
        return _on_policy(torch, policy, actions, discrete)
    if hasattr(policy, "actor") and not discrete:
        return _off_policy(torch, policy.actor, actions)
    raise ConfigError(f"{type(policy).__name__} is no policy that is converted", hint="PPO, A2C, DQN, SAC, TD3, DDPG")


def _on_policy(torch: Any, policy: Any, actions: Any, discrete: bool) -> Any:
    def forward(observation: Any) -> Any:
        features = policy.extract_features(observation, policy.pi_features_extractor)
        answer = policy.action_net(policy.mlp_extractor.forward_actor(features))
        return answer if discrete else torch.clamp(answer, torch.tensor(actions.low), torch.tensor(actions.high))

    return forward


def _off_policy(torch: Any, actor: Any, actions: Any) -> Any:
    """SAC squashes the mean, TD3 and DDPG end in a tanh; both are spread over the action space."""
    low, width = torch.tensor(actions.low), torch.tensor(actions.high - actions.low)

    def forward(observation: Any) -> Any:
        if hasattr(actor, "get_action_dist_params"):
            squashed = torch.tanh(actor.get_action_dist_params(observation)[0])
        else:
            squashed = actor(observation)
        return low + 0.5 * (squashed + 1.0) * width

    return forward
