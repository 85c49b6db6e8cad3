"""Rounds of simulated devices beside pfl-research, Flower's Ray engine and a plain torch loop; DP-SGD beside Opacus.

    python benchmarks/simulation.py [--pfl-python PATH] [--turns 2] [--skip-flower]

The workload is that of _mlp.py. A round of the product is a whole one of `fedinfer run` (trust central, mode ideal,
unit device): ledgers of server and devices, training, clipping, encoding in integers, the sum, noise, the server's
step. No engine evaluates in these rounds (`evaluate_every`); `figures` are rounds of the product with figures on 1,000
held-out rows after each. `kernel` is its local training alone.
Everything runs in one process with one thread, except Flower, which has an actor per core. Engines take turns; the
median round of each turn counts, and of the turns the better one, for every engine alike. Ratios are those of processor
time (of all processes of an engine), which other work on the machine changes least; devices per second are by the
clock, and `_by_clock` are the ratios of those.

pfl-research needs an environment of its own (_pfl.py says which), named by --pfl-python or FEDINFER_PFL_PYTHON. A peer
that is not there gives null, and its reason is printed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.util
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import _dpsgd
import _mlp
import numpy as np
import torch
from flwr.app import Context

from fedinfer.config import Scenario, parse_scenario, to_flat
from fedinfer.coordinator.context import LEDGER_OWNER, Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.run import budget_of, first_progress
from fedinfer.coordinator.train.round import training_round
from fedinfer.data import Federation
from fedinfer.data.table import DeviceData
from fedinfer.device import DeviceResponder
from fedinfer.flower import CohortClientApp
from fedinfer.schema import Schema
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from fedinfer.training import load_trainer

HERE = Path(__file__).resolve().parent
COHORTS = (50, 500)
SCENARIO = """
[scenario]
name = "rounds"
[data]
source = "csv"
path = "drawn.csv"
label = "digit"
[model]
kind = "mlp"
hidden = [{hidden}]
[training]
rounds = {rounds}
cohort = {cohort}
local_epochs = 1
batch_size = {batch}
learning_rate = {rate}
evaluate_every = {every}
[privacy]
unit = "device"
trust = "central"
epsilon = 200.0
delta = {delta}
clipping_norm = {clip}
[secure_aggregation]
mode = "ideal"
"""


def scenario(cohort: int, every: int = _mlp.ROUNDS) -> Scenario:
    text = SCENARIO.format(
        hidden=_mlp.HIDDEN, rounds=_mlp.ROUNDS, cohort=cohort, batch=_mlp.BATCH, rate=_mlp.RATE, delta=_mlp.DELTA,
        clip=_mlp.CLIP, every=every,
    )  # fmt: skip
    return parse_scenario(text, HERE, "benchmark")


def federation() -> Federation:
    """The drawn rows, and one held-out row per device."""
    x, y = _mlp.draw(_mlp.USERS)
    held_x, held_y = (part[:, 0] for part in _mlp.draw(_mlp.USERS + 1))
    devices = {
        f"device-{user:05d}": DeviceData(x[user], y[user], held_x[user + 1 : user + 2], held_y[user + 1 : user + 2])
        for user in range(_mlp.USERS)
    }
    held = [np.concatenate([getattr(data, part) for data in devices.values()]) for part in ("test_x", "test_y")]
    nothing = np.empty((0, _mlp.FEATURES), np.float32), np.empty(0, np.int64)
    return Federation(SCHEMA, devices, nothing, (held[0], held[1]))


SCHEMA = Schema((), "digit", tuple("0123456789"), (1, 8, 8))


def opened(cohort: int, folder: Path, every: int = _mlp.ROUNDS) -> tuple[Server, RunPlan, Progress]:
    """A run before its first round, wired as `fedinfer.simulation.engine.run_local` does."""
    wanted, data, clock = scenario(cohort, every), federation(), SystemClock()
    names = sorted(data.devices)
    responder = DeviceResponder(simulated_host(wanted, data, folder / "devices", clock, Processes.ONE))

    def find(context: Context) -> tuple[str, DeviceResponder]:
        return names[int(context.node_config["partition-id"])], responder

    grid = LocalGrid(CohortClientApp(find), len(names), to_flat(wanted))
    server, plan = open_server(grid, wanted, data, folder, "local", clock, lambda *_: None, responder)
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget_of(wanted))
    return server, plan, first_progress(server, plan)


Laps = dict[str, list[float]]
"""As `_mlp.laps`."""


def rounds(cohort: int, every: int = _mlp.ROUNDS) -> Laps:
    """Of the product's rounds, with figures on held-out rows after so many; the last round is left out."""
    with tempfile.TemporaryDirectory() as name:
        run, marks = opened(cohort, Path(name), every), [_mlp.now()]
        for left in range(_mlp.ROUNDS, 0, -1):
            training_round(*run, "initial", left)
            marks.append(_mlp.now())
    return _mlp.laps(marks[:-1])


def profile(cohort: int) -> None:
    """Print what rounds are made of."""
    with tempfile.TemporaryDirectory() as name, cProfile.Profile() as profiler:
        run = opened(cohort, Path(name))
        training_round(*run, "initial", _mlp.ROUNDS)
        profiler.clear()
        for left in range(_mlp.ROUNDS - 1, 1, -1):
            training_round(*run, "initial", left)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def kernel(cohort: int) -> Laps:
    """Of the local training of a cohort, weights in, updates out."""
    wanted, (x, y), marks = scenario(cohort), _mlp.draw(cohort), [_mlp.now()]
    trainer = load_trainer(wanted.model, SCHEMA, wanted.training, 1)
    weights, data = trainer.initial(), list(zip(x, y, strict=True))
    for at in range(_mlp.ROUNDS):
        sources = [np.random.default_rng((at, device)) for device in range(cohort)]
        trainer.updates(weights, data, sources)
        marks.append(_mlp.now())
    return _mlp.laps(marks)


def program(python: str, name: str, cohort: int) -> Laps | None:
    """Of a peer's rounds, or None with the reason on the screen."""
    command = [python, str(HERE / f"{name}.py"), str(cohort)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        print(f"{name}: null, {(done.stderr.strip().splitlines() or ['no output'])[-1]}", flush=True)
        return None
    found: Laps = json.loads(done.stdout.strip().splitlines()[-1])
    return found


Rates = dict[str, dict[str, float]]
"""Devices per second by what was measured (`seconds`, `cpu_seconds`) and engine."""


def rates(engines: dict[str, Callable[[], Laps | None]], cohorts: dict[str, int], turns: int) -> Rates:
    """Of each engine: the better turn's median round."""
    best: Rates = {"seconds": {}, "cpu_seconds": {}}
    for _ in range(turns):
        for name, run in engines.items():
            for measured, seconds in (run() or {}).items():
                rate = cohorts[name] / statistics.median(seconds)
                best[measured][name] = max(best[measured].get(name, 0.0), rate)
                print(f"{name}: {rate:.0f} devices per {measured.removesuffix('s')}", flush=True)
    return best


def ratio(found: dict[str, float], ours: str, peer: str) -> float | None:
    return round(found[ours] / found[peer], 2) if ours in found and peer in found else None


RATIOS = {
    "vs_pfl_50": ("fedinfer_50", "pfl_50"),
    "vs_pfl_500": ("fedinfer_500", "pfl_500"),
    "figures_vs_pfl_50": ("figures_50", "pfl_50"),
    "figures_vs_pfl_500": ("figures_500", "pfl_500"),
    "vs_flower_ray": ("fedinfer_50", "flower_50"),
    "vs_loop_50": ("fedinfer_50", "loop_50"),
    "vs_loop_500": ("fedinfer_500", "loop_500"),
    "kernel_vs_pfl_50": ("kernel_50", "pfl_50"),
    "kernel_vs_pfl_500": ("kernel_500", "pfl_500"),
}


def simulated(pfl: str, flower: bool, turns: int) -> dict[str, object]:
    """Rates of whole rounds, and their ratios."""
    engines: dict[str, Callable[[], Laps | None]] = {}
    cohorts: dict[str, int] = {}
    for cohort in COHORTS:
        for name, run in (
            ("fedinfer", lambda cohort=cohort: rounds(cohort)),
            ("figures", lambda cohort=cohort: rounds(cohort, 1)),
            ("kernel", lambda cohort=cohort: kernel(cohort)),
            ("pfl", lambda cohort=cohort: program(pfl, "_pfl", cohort)),
            ("loop", lambda cohort=cohort: program(sys.executable, "_mlp", cohort)),
        ):
            if name != "pfl" or pfl:
                engines[f"{name}_{cohort}"], cohorts[f"{name}_{cohort}"] = run, cohort
    if not pfl:
        print("pfl: null, no environment is named (--pfl-python)", flush=True)
    found = rates(engines, cohorts, turns)
    if flower:
        beside = rates({"flower_50": lambda: program(sys.executable, "_flower", 50)}, {"flower_50": 50}, 1)
        for measured, of_flower in beside.items():
            found[measured] |= of_flower
    by_clock, by_processor = found["seconds"], found["cpu_seconds"]
    return {
        **{name: ratio(by_processor, *sides) for name, sides in RATIOS.items()},
        **{f"{name}_by_clock": ratio(by_clock, *sides) for name, sides in RATIOS.items()},
        **{f"{name}_devices_per_s": round(rate) for name, rate in by_clock.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pfl-python", default=os.environ.get("FEDINFER_PFL_PYTHON", ""))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--skip-flower", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    flower = not chosen.skip_flower and importlib.util.find_spec("ray") is not None
    if not flower:
        print("flower: null, Ray is not installed or was skipped", flush=True)
    load = os.getloadavg()[0]
    figures = simulated(chosen.pfl_python, flower, chosen.turns)
    private = _dpsgd.figures(3)
    print("what a round of 500 devices is made of:", flush=True)
    profile(500)
    print(json.dumps({"load": round(max(load, os.getloadavg()[0]), 1), **figures, **private}))


if __name__ == "__main__":
    main()
