"""The workload of benchmarks/simulation.py, and a plain torch loop over it.

FedAvg with central privacy on drawn rows: MLP 64-128-10 (9,610 parameters), 50 rows and 5 SGD steps per device, updates
clipped to an L2 norm of 0.5, Gaussian noise of standard deviation 0.5 on their sum. Each engine's program prints one
JSON object: the seconds of every round after the first.

    python benchmarks/_mlp.py COHORT
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

USERS, ROWS, BATCH, FEATURES, HIDDEN, CLASSES = 1000, 50, 10, 64, 128, 10
RATE, CLIP, NOISE, DELTA, ROUNDS = 0.1, 0.5, 1.0, 1e-6, 8


def draw(users: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (users, ROWS, FEATURES) float32 and labels (users, ROWS)."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(FEATURES, CLASSES))
    x = rng.normal(size=(users, ROWS, FEATURES)).astype(np.float32)
    return x, (x @ weights + 0.5 * rng.normal(size=(users, ROWS, CLASSES))).argmax(-1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def report(seconds: list[float], **more: object) -> None:
    print(json.dumps({"seconds": seconds[1:], **more}), flush=True)


def loop(cohort: int) -> None:
    """One device after the other with autograd, as short as it can be written."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(part) for part in draw(USERS))
    net, rng, seconds = network(), np.random.default_rng(1), []
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    for _ in range(ROUNDS):
        start = time.perf_counter()
        total = [torch.zeros_like(weight) for weight in weights]
        for user in rng.choice(USERS, cohort, replace=False):
            _add_clipped(net, weights, x[user], y[user], total)
        for weight, change in zip(weights, total, strict=True):
            weight.add_((change + torch.randn_like(change) * NOISE * CLIP) / cohort)
        seconds.append(time.perf_counter() - start)
    report(seconds)


def _add_clipped(net: nn.Module, weights: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor, total: list) -> None:
    parameters = list(net.parameters())
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
    for at in range(0, ROWS, BATCH):
        loss = cross_entropy(net(x[at : at + BATCH]), y[at : at + BATCH])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=RATE)
    with torch.no_grad():
        update = [parameter - weight for parameter, weight in zip(parameters, weights, strict=True)]
        norm = float(torch.cat([part.reshape(-1) for part in update]).norm())
        for whole, part in zip(total, update, strict=True):
            whole.add_(part, alpha=min(1.0, CLIP / (norm + 1e-12)))


if __name__ == "__main__":
    loop(int(sys.argv[1]))
