"""Private gradients of a real device, every row by itself, beside Opacus at batch size 1 and beside batches.

One sum of the clipped gradients of 60 rows from raw rows on; one torch thread. `alone` is what a real device does,
`opacus` the same with Opacus' hooks, one row after another (prepared rows, which costs it less), `batched` what a
simulation does. The least processor time of several rounds counts. The last line is one JSON object.

    python benchmarks/rows_alone.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.functional import cross_entropy

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.schema import Numeric, Schema, Text
from fedinfer.system import SystemEntropy
from fedinfer.training import GradientEngine, load_trainer

CLIP, ROWS = 0.5, 60
TABLE = Schema(tuple(Numeric(f"c{i}", 0, 16) for i in range(13)), "ill", ("no", "yes"))
DIGITS = Schema((), "digit", tuple("0123456789"), (1, 8, 8), 16.0)
SERIES = Schema(tuple(Numeric(f"r{i}", 0, 16) for i in range(192)), "move", ("a", "b", "c"), (3, 1, 64))
TEXT = Schema((Text("mail", 32, tuple(f"w{i}" for i in range(1000))),), "spam", ("ham", "spam"))
CASES = {
    "logistic": (ModelSection(kind="logistic"), TABLE),
    "mlp": (ModelSection(kind="mlp", hidden=(32, 16)), TABLE),
    "cnn": (ModelSection(kind="cnn", hidden=(8, 16)), DIGITS),
    "gru": (ModelSection(kind="gru", hidden=(32,)), SERIES),
    "transformer": (ModelSection(kind="transformer", hidden=(32,)), TEXT),
}


def one_by_one(core: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """The clipped sum by Opacus, one row at a time."""
    net = GradSampleModule(core.train(), loss_reduction="sum")
    plain = torch.optim.SGD(net.parameters(), lr=1.0)
    optimizer = DPOptimizer(
        plain, noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=None, loss_reduction="sum"
    )

    def run() -> None:
        total = 0.0
        for row in range(len(y)):
            cross_entropy(net(x[row : row + 1]), y[row : row + 1]).backward()
            optimizer.clip_and_accumulate()
            total = total + torch.cat([each.summed_grad.reshape(-1) for each in net.parameters()]).double()
            optimizer.zero_grad()

    return run


def measure(section: ModelSection, schema: Schema, rounds: int) -> dict[str, float]:
    """Number of parameters, and milliseconds per row of each way."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (ROWS, schema.width)).astype(np.float32)
    y = rng.integers(0, schema.classes, ROWS)
    trainer = load_trainer(section, schema, TrainingSection(), 1)
    weights = trainer.initial()
    model = trainer.module(weights, native=False)
    ways: dict[str, Callable[[], object]] = {
        "opacus_ms": one_by_one(model.core, model.prepare(torch.from_numpy(x)), torch.from_numpy(y)),
        "alone_ms": lambda: trainer.gradient_sums(
            weights, [(x, y)], 1.0, CLIP, [SystemEntropy()], GradientEngine.PER_EXAMPLE
        ),
        "batched_ms": lambda: trainer.gradient_sums(weights, [(x, y)], 1.0, CLIP, [rng], GradientEngine.BATCHED),
    }
    least = dict.fromkeys(ways, float("inf"))
    for scheduled in range(rounds + 1):  # the first turn warms up
        for name, run in ways.items():
            start = time.process_time()
            run()
            if scheduled:
                least[name] = min(least[name], 1e3 * (time.process_time() - start) / ROWS)
    return {"parameters": trainer.dimension, **{name: round(took, 4) for name, took in least.items()}}


def main() -> None:
    """Measure all models and print milliseconds per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    kinds = {}
    for name, (section, schema) in CASES.items():
        kinds[name] = measure(section, schema, rounds)
        print(name, kinds[name], flush=True)
    print(json.dumps({"rows": ROWS, "kinds": kinds}))


if __name__ == "__main__":
    main()
