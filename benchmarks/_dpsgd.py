"""DP-SGD of many devices: the batched engine beside Opacus and beside SGD without privacy, one device after another.

One step = every device clips each of its 32 examples, adds noise and updates its own model; one torch thread.
Models: MLP 64-256-128-10 (50,826 parameters, 64 devices) and CNN 28x28 (206,922 parameters, 16 devices).
The engines take turns within one process; the least processor time of several rounds counts (one thread: on an idle
machine that is the time that passes). Opacus' modes are hooks and ghost clipping (Bu et al. 2022); the faster one
counts. A part of benchmarks/simulation.py.

Keys: dpsgd_mlp_vs_opacus, dpsgd_mlp_vs_opacus_hooks, dpsgd_mlp_vs_nonprivate, dpsgd_cnn_vs_opacus,
dpsgd_cnn_vs_opacus_hooks, dpsgd_cnn_vs_nonprivate.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn.functional import cross_entropy

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.schema import Schema
from fedinfer.training import GradientEngine, PrivateSteps, load_trainer

Step = Callable[[torch.Tensor, torch.Tensor], None]
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
    Case("cnn", ModelSection(factory="_dpsgd:cnn"), Schema((), "digit", DIGITS, (1, 28, 28)), 16, 4),
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


def _worker(net: nn.Module, mode: str) -> Step:
    """One step of one device by torch (`nonprivate`) or by Opacus (`hooks`, `ghost`)."""
    settings = {"noise_multiplier": NOISE, "max_grad_norm": CLIP, "expected_batch_size": BATCH}
    criterion: Callable[..., Any] = cross_entropy
    if mode == "hooks":
        net = GradSampleModule(net)
        optimizer = DPOptimizer(torch.optim.SGD(net.parameters(), lr=RATE), **settings)
    elif mode == "ghost":
        net = GradSampleModuleFastGradientClipping(net, max_grad_norm=CLIP, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(torch.optim.SGD(net.parameters(), lr=RATE), **settings)
        criterion = DPLossFastGradientClipping(net, optimizer, nn.CrossEntropyLoss(), loss_reduction="mean")
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

    def step(rows: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        criterion(net(rows), labels).backward()
        optimizer.step()

    return step


def sequential_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, mode: str) -> Callable[[], None]:
    """One step of every device, each with its own copy of the model."""
    workers = [_worker(copy.deepcopy(model).train(), mode) for _ in range(len(x))]

    def step() -> None:
        for work, rows, labels in zip(workers, x, y, strict=True):
            work(rows, labels)

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
        **{mode: (sequential_step(model.core, x, y, mode), 1) for mode in ("hooks", "ghost", "nonprivate")},
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


def figures(rounds: int) -> dict[str, float]:
    """Ratios for both models: above 1, the product is faster."""
    warnings.filterwarnings("ignore")
    found: dict[str, float] = {}
    for case in CASES:
        took = measure(case, rounds)
        for name, milliseconds in took.items():
            print(f"{case.name}, {case.devices} devices, {name}: {milliseconds:.1f} ms per step of all", flush=True)
        opacus = min(took["hooks"], took["ghost"])
        found[f"dpsgd_{case.name}_vs_opacus"] = round(opacus / took["cohort"], 2)
        found[f"dpsgd_{case.name}_vs_opacus_hooks"] = round(took["hooks"] / took["cohort"], 2)
        found[f"dpsgd_{case.name}_vs_nonprivate"] = round(took["nonprivate"] / took["cohort"], 2)
        found[f"dpsgd_{case.name}_examples_per_s"] = round(1e3 * case.devices * BATCH / took["cohort"])
    return found
