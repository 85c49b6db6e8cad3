"""Local training of simulated cohorts on a GPU beside the processor, and that both compute the same.

    python benchmarks/accelerator.py [--device cuda]

It needs torch, numpy and pydantic, and no data. Two models: MLP 64-128-10 (9,610 parameters, 50 rows and 5 steps per
device, plain SGD) and a CNN on 28x28 (206,922 parameters, 32 rows, DP-SGD, one step of all rows).
`devices_per_s` counts weights in, updates out, copies to and from the GPU included; the best of several runs.
`difference` is the largest of any coordinate between the updates on both, without noise, over the largest coordinate.
`noise` is the standard deviation of an update that is nothing but noise, over what it should be. The last line is one
JSON object; without a GPU its figures are null.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from fedinfer.config import TrainingSection
from fedinfer.training.engines import batched
from fedinfer.training.engines.compile import Program, read_program
from fedinfer.training.engines.joined import Joined
from fedinfer.training.engines.sampling import PrivateSteps
from fedinfer.training.objective import Objective

TURNS = 3
RATE, CLIP = 0.1, 1.0


@dataclass(frozen=True)
class Case:
    """A model, the rows of one device, and how it trains."""

    name: str
    net: nn.Module
    shape: tuple[int, ...]
    rows: int
    cohorts: tuple[int, ...]
    private: bool


def cases() -> list[Case]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    return [
        Case("mlp", mlp, (64,), 50, (50, 500, 5000), private=False),
        Case("cnn", cnn, (1, 28, 28), 32, (16, 64, 512), private=True),
    ]


def work(case: Case, program: Program, cohort: int, noise: float) -> Callable[[], np.ndarray]:
    """The training of a cohort, ready to be called."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(cohort * case.rows, *case.shape)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 10, cohort * case.rows))
    data = Joined(x, y, (case.rows,) * cohort)
    start = torch.cat([part.detach().reshape(-1) for part in case.net.parameters()]).numpy()
    training = TrainingSection(learning_rate=RATE, batch_size=10, local_epochs=1)

    def run() -> np.ndarray:
        sources = [np.random.default_rng(device) for device in range(cohort)]
        with torch.no_grad():
            if case.private:
                return batched.private_updates(
                    program, start, data, sources, training, PrivateSteps(1, 1.0, CLIP, noise)
                )
            return batched.updates(program, start, data, sources, training)

    return run


def rate(run: Callable[[], np.ndarray], cohort: int) -> float:
    """Devices per second of the best run."""
    run()
    least = float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return cohort / least


def measured(case: Case, cohort: int, device: torch.device | None) -> dict[str, float | str | int | None]:
    """One row of the table."""
    program = read_program(case.net, case.shape, Objective(None))
    assert program is not None
    noise = 1.0 if case.private else 0.0
    row: dict[str, float | str | int | None] = {"name": f"{case.name}_{cohort}"}
    row["cpu_devices_per_s"] = cpu = round(rate(work(case, program, cohort, noise), cohort), 1)
    if device is None:
        return {**row, "gpu_devices_per_s": None, "ratio": None, "difference": None, "noise": None}
    there = replace(program, device=device)
    row["gpu_devices_per_s"] = gpu = round(rate(work(case, there, cohort, noise), cohort), 1)
    row["ratio"] = round(gpu / cpu, 2)
    few = min(cohort, 64)
    on_cpu, on_gpu = (work(case, one, few, 0.0)() for one in (program, there))
    row["difference"] = float(f"{np.abs(on_cpu - on_gpu).max() / np.abs(on_cpu).max():.2g}")
    row["noise"] = None
    if case.private:  # so much noise that gradients do not show
        moved = work(case, there, few, 1000.0)()
        row["noise"] = round(float(moved.std()) / (RATE * CLIP * 1000.0 / case.rows), 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    wanted = parser.parse_args().device
    torch.set_num_threads(1)
    found = wanted != "cuda" or torch.cuda.is_available()
    device = torch.device(wanted) if found else None
    if device is None:
        print("gpu: null, torch sees none", flush=True)
    rows = []
    for case in cases():
        for cohort in case.cohorts if device is not None else case.cohorts[:2]:
            rows.append(measured(case, cohort, device))
            print(rows[-1], flush=True)
    gpu = torch.cuda.get_device_name() if device is not None and device.type == "cuda" else None
    why = {} if device is not None else {"skipped": "torch sees no GPU"}
    print(json.dumps({"torch": torch.__version__, "gpu": gpu, "cohorts": rows} | why))


if __name__ == "__main__":
    main()
