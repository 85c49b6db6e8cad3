"""10,000 devices, 3 waves, five models: who is stopped, who reaches everybody, and how often that is wrong.

The gates stand in rollout_10k.toml. Each judged device sends bounded values in the block of its hardware class; the
server sees noisy sums only. A bad model must be stopped in its first wave and taken back everywhere.

    python simulations/rollout_10k.py [SEEDS] [DEVICES]
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedinfer.rollout.controller import Delivered, Measured, Phase, RolledBack, Task, allowed_version, step, todo
from fedinfer.rollout.gates import Figure, GroupFigures
from fedinfer.rollout.plan import read_plan
from fedinfer.rollout.waves import members
from fedinfer.system import simulation_rng

HARDWARE = ("armv7", "armv8", "x86", "riscv")
NOISE_STD = 5.0  # per sum; four values in [0, 1] have norm <= 2: epsilon about 1.8 per look at delta 1e-6
FIGURES = ("error", "slow", "agreement", "not_a_number")
GOOD = (0.08, 0.04, 0.95, 0.0)
MODELS = {  # mean values per device, and the hardware that suffers (the rest behave well)
    "good": (GOOD, HARDWARE),
    "int8 collapse": ((0.60, 0.02, 0.45, 0.0), HARDWARE),
    "slow": ((0.08, 0.70, 0.95, 0.0), HARDWARE),
    "NaN outputs": ((0.90, 0.04, 0.10, 1.0), HARDWARE),
    "biased": ((0.50, 0.04, 0.55, 0.0), HARDWARE[:1]),
}


def measure(hardware: list[str], model: str, rng: np.random.Generator) -> tuple[GroupFigures, ...]:
    """One look at devices of these hardware classes: noisy sums of 20-row means per class."""
    means, sufferers = MODELS[model]
    groups = []
    for kind in HARDWARE:
        values = rng.binomial(20, means if kind in sufferers else GOOD, (hardware.count(kind), len(FIGURES))) / 20
        sums = values.sum(0) + NOISE_STD * rng.standard_normal(len(FIGURES))
        figures = (Figure(name, float(total), NOISE_STD) for name, total in zip(FIGURES, sums, strict=True))
        groups.append(GroupFigures(f"hardware={kind}", len(values), tuple(figures)))
    return tuple(groups)


def run(model: str, devices: int, seed: int) -> tuple[Phase, int, float]:
    """End of one rollout: phase, waves pushed, share of the fleet with the new model once all are back online."""
    rng = simulation_rng("rollout", model, seed)
    fleet = {f"device-{i:05d}": {"hardware": HARDWARE[rng.integers(4)]} for i in range(devices)}
    state = replace(read_plan(Path(__file__).with_suffix(".toml")), rollout=f"{model} {seed}").begin(fleet)
    have: list[str] = []
    while actions := todo(state):
        wave = actions[0].wave
        if actions[0].task is Task.PUSH:  # one device in twenty is offline
            reached = [d for d in members(fleet, state.waves, state.rollout, wave) if rng.random() < 0.95]
            have += reached
            state, _ = step(state, Delivered(wave, len(reached), 0))
        elif actions[0].task is Task.MEASURE:
            evaluate_canaries = measure([fleet[device]["hardware"] for device in have], model, rng)
            state, _ = step(state, Measured(wave, evaluate_canaries))
        else:
            have, (state, _) = [], step(state, RolledBack())
    have += [d for d in set(fleet) - set(have) if allowed_version(state, d, fleet[d]) == state.version]
    return state.phase, state.opened, len(have) / devices


def row(model: str, devices: int, seeds: int) -> dict[str, float]:
    """Outcomes over seeds; a wrong pass is a bad model that left its first wave, a wrong stop a good one taken back."""
    ends = [run(model, devices, seed) for seed in range(seeds)]
    passed, stopped = sum(end[1] > 1 for end in ends), sum(end[0] is Phase.ROLLED_BACK for end in ends)
    wrong = {"wrong stops": stopped} if model == "good" else {"wrong passes": passed}
    return {**wrong, "held": sum(end[0] is Phase.HELD for end in ends), "share": sum(end[2] for end in ends) / seeds}


if __name__ == "__main__":
    seeds, devices = map(int, (*sys.argv[1:], *("20", "10000")[len(sys.argv) - 1 :]))
    for name in MODELS:
        print(f"{name:14s}", ", ".join(f"{key} {value:g}" for key, value in row(name, devices, seeds).items()))
