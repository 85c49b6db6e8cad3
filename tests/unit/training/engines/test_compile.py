"""What the batched engine reads, and what it leaves to the others."""

import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.training.engines import batched, device_by_device
from fedinfer.training.engines.compile import read_program
from fedinfer.training.engines.opacus import work_together
from fedinfer.training.objective import Objective
from tests.unit.training.factories import generators

CLASSES = Objective(None)
LINEAR = nn.Linear(4, 4)
FROZEN = nn.Linear(4, 2)
FROZEN.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Linear(4, 2), (4,)),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)), (4,)),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (4,)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(2, 2)), (1, 5, 5)),
        (nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(12, 2)), (2, 6)),
    ],
)
def test_known_networks_are_read_and_agree(net, shape):
    program = read_program(net, shape, CLASSES)
    assert program is not None
    assert program.dimension == sum(parameter.numel() for parameter in net.parameters())
    start = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).numpy()
    rng = np.random.default_rng(0)
    data = [(torch.from_numpy(rng.normal(size=(6, *shape)).astype(np.float32)), torch.tensor([0, 1, 0, 1, 1, 0]))]
    with torch.no_grad():
        ours = batched.gradient_sums(program, start, data, generators(1), 1.0, 0.3)
    np.testing.assert_allclose(
        ours,
        device_by_device.gradient_sums(work_together(net, 0.3, CLASSES), start, data, generators(1), 1.0),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 2), nn.GELU()), (4,)),
        (nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1)), (4,)),
        (nn.Sequential(LINEAR, nn.ReLU(), LINEAR), (4,)),
        (FROZEN, (4,)),
        (nn.Linear(4, 2), (5,)),
        (nn.Linear(4, 2), (3, 4)),
        (nn.GroupNorm(1, 3), (4,)),
        (nn.Sequential(nn.Flatten(2), nn.Linear(4, 2)), (3, 2, 2)),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten()), (2, 3, 3)),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten()), (1, 3, 3)),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten()), (1, 3, 3)),
        (nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten()), (1, 3, 3)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)), (1, 4, 4)),
        (nn.Conv2d(1, 2, 3), (1, 5, 5)),
    ],
    ids=str,
)
def test_anything_else_is_left_to_the_other_engines(net, shape):
    assert read_program(net, shape, CLASSES) is None


def test_a_subclass_may_do_something_else_and_is_not_read():
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    assert read_program(Odd(4, 2), (4,), CLASSES) is None
