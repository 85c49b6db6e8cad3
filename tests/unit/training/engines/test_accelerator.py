"""Batched steps on another device than the processor: nothing is left behind, and a missing GPU is said at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.config import Accelerator, ModelSection, NumberLoss, TrainingSection, load_scenario
from fedinfer.errors import ConfigError
from fedinfer.schema import Schema
from fedinfer.training import load_trainer
from fedinfer.training.engines import batched
from fedinfer.training.engines.compile import read_program, taps, views_of
from fedinfer.training.engines.joined import Joined, joined
from fedinfer.training.objective import Objective

CNN = nn.Sequential(
    nn.Conv2d(1, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
)
MLP = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
OBJECTIVES = [Objective(None), Objective(None, (1.0, 0.5, 0.2))]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("net", "shape"), [(CNN, (1, 8, 8)), (MLP, (5,))])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_every_tensor_of_a_step_is_where_the_rows_are(
    net: nn.Module, shape: tuple[int, ...], objective: Objective, momentum: float
) -> None:
    """Tensors without memory refuse to be mixed with those of the processor, as those of a GPU do."""
    program = read_program(net, shape, objective)
    assert program is not None
    start = np.zeros(program.dimension, np.float32)
    training = TrainingSection(momentum=momentum, proximal=momentum, learning_rate=0.1)
    plans = [[np.array([0, 1]), np.array([2])], [np.array([1])]]
    with torch.no_grad():
        x, y = torch.empty(5, *shape, device="meta"), torch.zeros(5, dtype=torch.int64, device="meta")
        weights = batched._descend(program, start, Joined(x, y, (3, 2)), [0, 3], plans, training)
        found = taps(program, views_of(program, weights), x[None, :2].expand(2, 2, *shape), y[:4].view(2, 2), None)
        factor = batched._clip_factor(found, 1.0)
    assert weights.device.type == factor.device.type == "meta"


def test_a_number_is_learned_there_too() -> None:
    program = read_program(nn.Sequential(nn.Linear(5, 1)), (5,), Objective(NumberLoss.HUBER))
    assert program is not None
    with torch.no_grad():
        x, y = torch.empty(3, 5, device="meta"), torch.zeros(3, device="meta")
        plans, training = [[np.array([0, 1, 2])]], TrainingSection(learning_rate=0.1)
        start = np.zeros(program.dimension, np.float32)
        weights = batched._descend(program, start, Joined(x, y, (3,)), [0], plans, training)
    assert weights.device.type == "meta"


def test_rows_go_to_the_device_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    program, asked = read_program(MLP, (5,), Objective(None)), []
    assert program is not None
    monkeypatch.setattr(Joined, "to", lambda rows, device: asked.append(device) or rows)
    data = [(torch.ones(3, 5), torch.tensor([0, 1, 2]))]
    there = replace(program, device=torch.device("meta"))
    with torch.no_grad():
        batched.updates(
            there, np.zeros(program.dimension, np.float32), data, [np.random.default_rng(1)], TrainingSection()
        )
    assert asked == [torch.device("meta")]


def test_a_missing_gpu_is_said_before_anything_is_trained() -> None:
    if torch.cuda.is_available():
        load_trainer(ModelSection(), Schema((), "y", ("a", "b"), (1, 2, 2)), TrainingSection(), 1, Accelerator.CUDA)
        return
    with pytest.raises(ConfigError, match="sees no GPU"):
        load_trainer(ModelSection(), Schema((), "y", ("a", "b"), (1, 2, 2)), TrainingSection(), 1, Accelerator.CUDA)


def test_the_scenario_names_the_accelerator() -> None:
    assert load_scenario("heart").simulation.accelerator is Accelerator.CPU
    assert load_scenario("heart", ["simulation.accelerator=cuda"]).simulation.accelerator is Accelerator.CUDA
    with pytest.raises(ConfigError, match=r"simulation\.accelerator"):
        load_scenario("heart", ["simulation.accelerator=tpu"])


def test_joined_rows_are_the_pairs_of_the_devices() -> None:
    pairs = [(torch.ones(2, 3), torch.tensor([0, 1])), (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))]
    rows = joined(pairs)
    assert len(rows) == 2
    assert rows.offsets == (0, 2)
    assert [(x.shape, y.tolist()) for x, y in rows] == [((2, 3), [0, 1]), ((0, 3), [])]
    assert joined(rows) is rows
