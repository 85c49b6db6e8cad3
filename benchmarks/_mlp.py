"""The workload of benchmarks/simulation.py, and a plain torch loop over it.

FedAvg with central privacy on drawn rows: MLP 64-128-10 (9,610 parameters), 50 rows and 5 SGD steps per device, updates
clipped to an L2 norm of 0.5, Gaussian noise of standard deviation 0.5 on their sum. Each engine's program prints one
JSON object: the seconds of every round after the first, those that passed and those of the processor.

    python benchmarks/_mlp.py COHORT
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise

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


Mark = tuple[float, float]
"""Seconds on the clock, and seconds of the processor."""


def now() -> Mark:
    return time.perf_counter(), time.process_time()


def laps(marks: list[Mark]) -> dict[str, list[float]]:
    """Both durations of every round after the first; `marks` are those before the first round and after each."""
    rounds = [(late - early, busy - idle) for (early, idle), (late, busy) in pairwise(marks[1:])]
    return {"seconds": [passed for passed, _ in rounds], "cpu_seconds": [used for _, used in rounds]}


def loop(cohort: int) -> None:
    """One device after the other with autograd, as short as it can be written."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(part) for part in draw(USERS))
    net, rng, marks = network(), np.random.default_rng(1), [now()]
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    for _ in range(ROUNDS):
        total = [torch.zeros_like(weight) for weight in weights]
        for user in rng.choice(USERS, cohort, replace=False):
            _add_clipped(net, weights, x[user], y[user], total)
        for weight, change in zip(weights, total, strict=True):
            weight.add_((change + torch.randn_like(change) * NOISE * CLIP) / cohort)
        marks.append(now())
    print(json.dumps(laps(marks)))


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
