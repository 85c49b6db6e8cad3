"""Modules that no list of layers describes: mapped over devices they train as one device after the other does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.config import NumberLoss, TrainingSection
from fedinfer.training.engines import batched, device_by_device
from fedinfer.training.engines.compile import read_program
from fedinfer.training.engines.mapped import map_net
from fedinfer.training.models.sequence import FieldEmbedding, Recurrent, TokenAverage, TokenEncoder
from fedinfer.training.objective import Objective


class Residual(nn.Module):
    """A module of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + torch.relu(self.inner(x)))


class LongShortTerm(nn.Module):
    """An LSTM written with linear layers (Hochreiter and Schmidhuber 1997, in torch's form)."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state, self.out = nn.Linear(2, 16), nn.Linear(4, 16), nn.Linear(4, 3)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        state = cell = torch.zeros(series.shape[0], 4)
        for step in self.input(series.transpose(1, 2)).unbind(1):
            take, forget, fresh, show = (step + self.state(state)).chunk(4, dim=1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(take) * torch.tanh(fresh)
            state = torch.sigmoid(show) * torch.tanh(cell)
        return self.out(state)


class Deciding(nn.Linear):
    """A forward that decides by its numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (2 if x.sum() > 0 else 1)


def series(rng: np.random.Generator, n: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(n, 2, 5)).astype(np.float32))


def tokens(rng: np.random.Generator, n: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 9, (n, 6)).astype(np.float32))


def numbers(rng: np.random.Generator, n: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(n, 6)).astype(np.float32))


def fields(rng: np.random.Generator, n: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 9, (n, 2)).astype(np.float32))


NETS = {
    "gru": (lambda: nn.Sequential(Recurrent(2, 4), nn.Linear(4, 3)), series),
    "lstm": (LongShortTerm, series),
    "bag": (lambda: nn.Sequential(TokenAverage(9, 4), nn.Linear(4, 3)), tokens),
    "attention": (lambda: nn.Sequential(TokenEncoder(9, 6, 4, 2), nn.Linear(4, 3)), tokens),
    "recommender": (lambda: nn.Sequential(FieldEmbedding(9, 2, 3), nn.Linear(9, 3)), fields),
    "own": (Residual, numbers),
}
PLANS = [
    TrainingSection(batch_size=4, local_epochs=2, learning_rate=0.1),
    TrainingSection(batch_size=3, local_steps=5, learning_rate=0.05, momentum=0.5, proximal=0.2),
]


@pytest.mark.parametrize("training", PLANS)
@pytest.mark.parametrize("name", NETS)
def test_a_mapped_net_trains_as_device_by_device_and_as_alone(name: str, training: TrainingSection) -> None:
    """Ragged rows, one device without any; a device alone gets the same up to the last bits."""
    make, rows = NETS[name]
    torch.manual_seed(3)
    net, rng = make(), np.random.default_rng(5)
    data = [(rows(rng, n), torch.from_numpy(rng.integers(0, 3, n))) for n in (8, 5, 0, 8, 3)]
    objective = Objective(None, (1.0, 0.5, 0.8))
    mapped = map_net(net, tuple(data[0][0].shape[1:]), objective)
    assert mapped is not None
    start = torch.cat([part.detach().reshape(-1) for part in net.parameters()]).numpy()

    def sources(devices: range) -> list[np.random.Generator]:
        return [np.random.default_rng((7, device)) for device in devices]

    with torch.no_grad():
        together = batched.updates(mapped, start, data, sources(range(5)), training)
        alone = [batched.updates(mapped, start, [data[i]], sources(range(i, i + 1)), training)[0] for i in range(5)]
    one_by_one = device_by_device.updates(net, start, data, sources(range(5)), training, objective)
    np.testing.assert_allclose(together, one_by_one, atol=2e-5 * np.abs(one_by_one).max())
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-6 * np.abs(together).max())
    assert not together[2].any()


@pytest.mark.parametrize("training", PLANS)
@pytest.mark.parametrize(
    "hidden", [[], [nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh()]], ids=["linear", "mlp"]
)
def test_layers_that_are_known_give_the_same_bits_in_every_company_too(
    hidden: list[nn.Module], training: TrainingSection
) -> None:
    net, rng = nn.Sequential(*hidden, nn.Linear(6, 3)), np.random.default_rng(5)
    data = [(numbers(rng, n), torch.from_numpy(rng.integers(0, 3, n))) for n in (8, 5, 0, 8, 3)]
    program = read_program(net, (6,), Objective(None))
    assert program is not None
    start = torch.cat([part.detach().reshape(-1) for part in net.parameters()]).numpy()
    with torch.no_grad():
        together = batched.updates(program, start, data, [np.random.default_rng(i) for i in range(5)], training)
        alone = [batched.updates(program, start, [data[i]], [np.random.default_rng(i)], training)[0] for i in range(5)]
    np.testing.assert_array_equal(together, np.stack(alone))


@pytest.mark.parametrize("loss", list(NumberLoss))
def test_a_mapped_net_learns_a_number(loss: NumberLoss) -> None:
    net, rng = nn.Sequential(Recurrent(2, 4), nn.Linear(4, 1)), np.random.default_rng(5)
    data = [(series(rng, n), torch.from_numpy(rng.uniform(-1, 1, n).astype(np.float32))) for n in (8, 5)]
    mapped = map_net(net, (2, 5), Objective(loss))
    assert mapped is not None
    start = torch.cat([part.detach().reshape(-1) for part in net.parameters()]).numpy()
    found = [np.random.default_rng(1), np.random.default_rng(2)], [np.random.default_rng(1), np.random.default_rng(2)]
    with torch.no_grad():
        together = batched.updates(mapped, start, data, found[0], PLANS[0])
    one_by_one = device_by_device.updates(net, start, data, found[1], PLANS[0], Objective(loss))
    np.testing.assert_allclose(together, one_by_one, atol=2e-5 * np.abs(one_by_one).max())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)),
        Deciding(6, 3),
    ],
    ids=["dropout", "buffers", "decides"],
)
def test_what_cannot_be_mapped_goes_device_by_device(net: nn.Module) -> None:
    assert map_net(net.eval(), (6,), Objective(None)) is None
