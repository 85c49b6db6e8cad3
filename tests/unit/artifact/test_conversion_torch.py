"""Torch modules, programs and policies of Stable-Baselines3 against what they answer themselves."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.artifact import ModelTask, Wishes, answers_of, finish, imported_from
from fedinfer.artifact.conversion.convert import compare
from fedinfer.artifact.conversion.networks import from_torch
from fedinfer.artifact.conversion.policies import from_sb3
from fedinfer.errors import ConfigError, DataError
from fedinfer.system import SystemClock, simulation_rng

torch = pytest.importorskip("torch")
ROWS = simulation_rng("torch rows").normal(0, 1, (32, 4)).astype(np.float32)


class Net(torch.nn.Module):
    """Answers differently while it trains."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.9), torch.nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)


class Pair(torch.nn.Module):
    """Tokens and a mask to tensors by name."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 6)

    def forward(self, tokens, mask):
        words = self.table(tokens) * mask[..., None]
        return {"mean": words.mean(dim=1), "largest": words.amax(dim=(1, 2))}


@pytest.mark.slow
def test_a_module_is_converted_in_evaluation_and_left_as_it_was():
    net = Net().train()
    found = from_torch(net, ROWS)
    assert net.training
    assert compare(found) < 1e-5
    with torch.no_grad():
        np.testing.assert_allclose(found.expected["output"], net.eval()(torch.from_numpy(ROWS)).numpy(), atol=1e-6)
    wishes = Wishes(task=ModelTask.CLASSIFICATION, labels=("a", "b", "c"))
    imported = imported_from(net, ROWS, "net", "label", wishes, SystemClock(), simulation_rng("net"))
    said = answers_of(finish(imported.core, imported.head(1)), ROWS, imported.schema)
    np.testing.assert_allclose(said, torch.softmax(torch.from_numpy(found.expected["output"]), 1).numpy(), atol=1e-5)


@pytest.mark.slow
def test_several_inputs_and_answers_keep_their_names():
    rng = simulation_rng("pair")
    rows = {"tokens": rng.integers(0, 10, (32, 5)), "mask": rng.integers(0, 2, (32, 5)).astype(np.float32)}
    found = from_torch(Pair(), rows)
    assert (list(found.feeds), list(found.expected)) == (["tokens", "mask"], ["mean", "largest"])
    assert compare(found) < 1e-5


@pytest.mark.slow
def test_a_program_of_torch_export_is_converted():
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Net().eval(), (torch.from_numpy(ROWS[:4]),), dynamic_shapes=({0: batch},))
    assert compare(from_torch(program, ROWS)) < 1e-5


def test_rows_and_modules_that_do_not_fit_are_one_line():
    with pytest.raises(DataError, match="8 rows of numbers"):
        from_torch(Net(), ROWS[:3])
    with pytest.raises(ConfigError, match=r"Net cannot be converted: RuntimeError: mat1 and mat2"):
        from_torch(Net(), ROWS[:, :3])


POLICIES = {
    "PPO": ("CartPole-v1", {"n_steps": 64}), "A2C": ("Pendulum-v1", {}), "DQN": ("CartPole-v1", {}),
    "SAC": ("Pendulum-v1", {}), "TD3": ("Pendulum-v1", {}),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.soak if name in ("A2C", "SAC") else pytest.mark.slow) for name in POLICIES],
)
def test_a_policy_takes_the_same_actions(name):
    algorithms, gymnasium = pytest.importorskip("stable_baselines3"), pytest.importorskip("gymnasium")
    environment, settings = POLICIES[name]
    model = getattr(algorithms, name)("MlpPolicy", gymnasium.make(environment), seed=0, device="cpu", **settings)
    width = model.observation_space.shape[0]
    rows = simulation_rng(name).uniform(-2, 2, (64, width)).astype(np.float32)
    found = from_sb3(model, rows)
    assert compare(found) < 1e-4
    actions, _ = model.predict(rows, deterministic=True)
    if environment == "CartPole-v1":
        np.testing.assert_array_equal(found.decided, actions)
        assert found.wishes.labels == ("0", "1")
    else:
        np.testing.assert_allclose(found.expected["output"], actions)
        assert found.wishes.ranges["output"] == (-2.0, 2.0)
    if name == "PPO":
        imported = imported_from(model, rows, "m", "label", Wishes(), SystemClock(), simulation_rng("m"))
        said = answers_of(finish(imported.core, imported.head(1)), rows, imported.schema)
        with torch.no_grad():
            probabilities = model.policy.get_distribution(torch.from_numpy(rows)).distribution.probs.numpy()
        np.testing.assert_allclose(said, probabilities, atol=1e-5)


def test_policies_of_other_spaces_are_refused():
    algorithms, gymnasium = pytest.importorskip("stable_baselines3"), pytest.importorskip("gymnasium")
    model = algorithms.PPO("MlpPolicy", gymnasium.make("FrozenLake-v1"), n_steps=64, device="cpu")
    with pytest.raises(ConfigError, match="observations of Discrete"):
        from_sb3(model, ROWS)
