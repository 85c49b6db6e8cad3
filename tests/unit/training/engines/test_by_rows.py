"""Local SGD without a copy of the first layer per device: what autograd gives, in any company to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.config import TrainingSection
from fedinfer.training.engines import batched, by_rows, device_by_device
from fedinfer.training.engines.compile import read_program
from fedinfer.training.objective import Objective

NETS = {
    "logistic": lambda: nn.Sequential(nn.Linear(40, 30)),
    "mlp": lambda: nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 5)),
    "no bias": lambda: nn.Sequential(nn.Linear(40, 32, bias=False), nn.ReLU(), nn.Linear(32, 5)),
}
COUNTS = (20, 7, 0, 20, 13, 1, 14)
TRAINING = TrainingSection(batch_size=10, local_epochs=1, learning_rate=0.3)


def devices(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    return [
        (torch.from_numpy(rng.normal(size=(n, 40)).astype(np.float32)), torch.from_numpy(rng.integers(0, 5, n)))
        for n in COUNTS
    ]


def sources() -> list[np.random.Generator]:
    return [np.random.default_rng(device) for device in range(len(COUNTS))]


@pytest.mark.parametrize("name", NETS)
def test_it_equals_autograd_and_no_device_depends_on_its_company(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    net, asked, real = NETS[name](), [], by_rows.descend
    program = read_program(net, (40,), Objective(None))
    assert program is not None
    start = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).numpy()
    monkeypatch.setattr(by_rows, "descend", lambda *given: asked.append(len(given[3])) or real(*given))
    with torch.no_grad():
        found = batched.updates(program, start, devices(), sources(), TRAINING)
        assert sum(asked) == sum(count > 0 for count in COUNTS)
        for device, (pair, source) in enumerate(zip(devices(), sources(), strict=True)):
            np.testing.assert_array_equal(batched.updates(program, start, [pair], [source], TRAINING)[0], found[device])
    expected = device_by_device.updates(net, start, devices(), sources(), TRAINING, Objective(None))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert not found[2].any()


def test_it_is_for_few_rows_and_plain_steps_of_a_linear_layer() -> None:
    program = read_program(NETS["mlp"](), (40,), Objective(None))
    image = read_program(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 5)), (1, 6, 6), Objective(None))
    assert program is not None
    assert image is not None
    assert by_rows.suits(program, 22, TRAINING)
    assert not by_rows.suits(program, 23, TRAINING)
    assert not by_rows.suits(program, 2, TrainingSection(momentum=0.5))
    assert not by_rows.suits(program, 2, TrainingSection(proximal=0.5))
    assert not by_rows.suits(image, 2, TRAINING)
