"""DP-SGD of many devices: the batched engine beside Opacus (hooks) and beside SGD without privacy, one after another.

One step = every device clips each of its 32 examples, adds noise and updates its own model; one torch thread.
Models: MLP 64-256-128-10 (50,826 parameters, 64 devices) and CNN 28x28 (206,922 parameters, 16 devices).
The engines take turns within one process; the least processor time of several rounds counts (one thread: on an idle
machine that is the time that passes). The last line is one JSON object.

    python benchmarks/dpsgd.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.functional import cross_entropy

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.schema import Schema
from fedinfer.training import GradientEngine, PrivateSteps, load_trainer

CLIP, NOISE, RATE, BATCH = 1.0, 1.0, 0.1, 32


@dataclass(frozen=True)
class Case:
    """One model on some devices; `steps` of the batched engine are timed at once."""

    name: str
    section: ModelSection
    schema: Schema
    devices: int
    steps: int


def cnn(schema: Schema) -> nn.Module:
    """Two strided convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, schema.classes),
    )


DIGITS = tuple("0123456789")
CASES = (
    Case("mlp", ModelSection(kind="mlp", hidden=(256, 128)), Schema((), "digit", DIGITS, (1, 8, 8)), 64, 10),
    Case("cnn", ModelSection(factory="__main__:cnn"), Schema((), "digit", DIGITS, (1, 28, 28)), 16, 4),
)


def cohort_step(case: Case, data: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Callable[[], None], nn.Module]:
    """Several private steps of all devices, and the model they start from."""
    trainer = load_trainer(case.section, case.schema, TrainingSection(learning_rate=RATE), 1)
    assert trainer.engine(GradientEngine.BATCHED) is GradientEngine.BATCHED
    weights, sources = trainer.initial(), [np.random.default_rng(device) for device in range(case.devices)]
    private = PrivateSteps(case.steps, 1.0, CLIP, NOISE)
    return lambda: trainer.private_updates(weights, data, private, sources, GradientEngine.BATCHED), trainer.module(
        weights
    )


def sequential_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, private: bool) -> Callable[[], None]:
    """One step of every device by torch or by Opacus, each with its own copy of the model."""
    workers = []
    for _ in range(len(x)):
        net = copy.deepcopy(model).train()
        if private:
            net = GradSampleModule(net)
            plain = torch.optim.SGD(net.parameters(), lr=RATE)
            optimizer = DPOptimizer(plain, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=BATCH)
        else:
            optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        workers.append((net, optimizer))

    def step() -> None:
        for (net, optimizer), rows, labels in zip(workers, x, y, strict=True):
            optimizer.zero_grad()
            cross_entropy(net(rows), labels).backward()
            optimizer.step()

    return step


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of one step of all devices, per engine."""
    rng = np.random.default_rng(0)
    data = [
        (rng.random((BATCH, case.schema.width), dtype=np.float32), rng.integers(0, 10, BATCH))
        for _ in range(case.devices)
    ]
    ours, model = cohort_step(case, data)
    with torch.no_grad():
        x = torch.stack([model.prepare(torch.from_numpy(rows)) for rows, _ in data])
    y = torch.stack([torch.from_numpy(labels) for _, labels in data])
    engines = {
        "opacus": (sequential_step(model.core, x, y, True), 1),
        "nonprivate": (sequential_step(model.core, x, y, False), 1),
        "cohort": (ours, case.steps),
    }
    fastest = dict.fromkeys(engines, float("inf"))
    for scheduled in range(rounds + 1):  # the first turn warms up
        for name, (run, steps) in engines.items():
            start = time.process_time()
            run()
            if scheduled:
                fastest[name] = min(fastest[name], 1e3 * (time.process_time() - start) / steps)
    return fastest


def main() -> None:
    """Measure both models and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    figures: dict[str, float] = {}
    for case in CASES:
        took = measure(case, rounds)
        for name, milliseconds in took.items():
            print(
                f"{case.name}, {case.devices} devices, {name}: {milliseconds:.1f} ms per step of all devices",
                flush=True,
            )
        figures[f"dpsgd_{case.name}_vs_opacus"] = round(took["opacus"] / took["cohort"], 2)
        figures[f"dpsgd_{case.name}_vs_nonprivate"] = round(took["nonprivate"] / took["cohort"], 2)
        figures[f"dpsgd_{case.name}_examples_per_s"] = round(1e3 * case.devices * BATCH / took["cohort"])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
