"""The private watch beside detectors that see every row: chance to see a shift, delay, false alarms.

One fleet, one stream: 1,000 devices whose inputs differ (means with standard deviation 0.5, rows of standard deviation
1), another half of which reports in each window; from a stated window on all inputs shift and errors grow. The watch
gets one noisy sum per window (epsilon 1 per window at delta 1e-6); the others get the pooled rows without any
protection: Kolmogorov-Smirnov (scipy), Evidently and NannyML with their defaults, and river on the errors (ADWIN,
Page-Hinkley, DDM) and on rows (KSWIN). A package that is in another environment is named with --python; one that is
nowhere is left out with the reason. Also PSI cut-offs on the noisy sums, which are not offered. The last line is one
JSON object.

    python benchmarks/drift_peers.py [--runs 10] [--python evidently=PATH] [--python nannyml=PATH]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fedinfer.drift import MonitorPlan, chosen_channels
from fedinfer.drift.channels import clip_norm
from fedinfer.drift.runs import watch_runs
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit

PEERS = Path(__file__).with_name("_drift_peers.py")
SCHEMA = Schema((Numeric("x", -4.0, 4.0),), "y", ("a", "b"))
DEVICES, ROWS, SPREAD = 1000, 5, 0.5
REFERENCE, QUIET, AFTER = 5, 15, 10
SHIFTS = (0.1, 0.2, 0.3)
QUIET_PEERS = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
"""NannyML and Evidently tell their makers about their use unless these are set."""
NOISE = 4.22
"""Noise multiplier of one release at epsilon 1, delta 1e-6 (Balle and Wang 2018)."""


def fleet(shift: float, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (runs, windows, reporters, ROWS) float32 and errors of one labelled row each (runs, windows, reporters).

    A shift of s standard deviations comes with s / 3 more errors than the usual tenth.
    """
    rng = np.random.default_rng(seed)
    windows, reporters = REFERENCE + QUIET + AFTER, DEVICES // 2
    moved = np.where(np.arange(windows) >= REFERENCE + QUIET, shift, 0.0)
    x = np.empty((runs, windows, reporters, ROWS), np.float32)
    for run in range(runs):
        means = SPREAD * rng.standard_normal(DEVICES)
        for window in range(windows):
            who = rng.choice(DEVICES, reporters, replace=False)
            x[run, window] = means[who, None] + moved[window] + rng.standard_normal((reporters, ROWS))
    errors = rng.random((runs, windows, reporters)) < 0.1 + moved[None, :, None] / 3.0
    return x, errors


def sums(x: np.ndarray, errors: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Decoded sums of the reports of x and errors, (runs, windows, bins), and the standard deviation of their noise."""
    channels = chosen_channels(SCHEMA, ("input:x", "errors"))
    bins = channels[0].bins
    places = np.clip((x + 4.0) / 8.0 * bins, 0, bins - 1).astype(np.int64)
    shares = (places[..., None] == np.arange(bins)).mean(axis=-2)
    norm = np.linalg.norm(shares, axis=-1, keepdims=True)
    inputs = (shares * np.minimum(1.0, math.sqrt(channels[0].clip_share) / norm)).sum(axis=2)
    wrong = errors.sum(axis=2)
    labels = np.stack([errors.shape[2] - wrong, wrong], axis=-1) * channels[1].scale(Unit.DEVICE)
    exact = np.concatenate([inputs, labels], axis=-1)
    sigma = NOISE * clip_norm(channels)
    return exact + sigma * rng.standard_normal(exact.shape), sigma


def watched(totals: np.ndarray, sigma: float) -> np.ndarray:
    """Alarms of the private watch, (runs, watched windows)."""
    plan = MonitorPlan(
        chosen_channels(SCHEMA, ("input:x", "errors")), Unit.DEVICE, REFERENCE, QUIET + AFTER, 0.05, 0.2, 0.3
    )
    devices = [DEVICES // 2] * totals.shape[1]
    return watch_runs(plan, totals, devices, ROWS, sigma).alarms.any(axis=2)[:, REFERENCE:]


def cut_off(totals: np.ndarray, limit: float) -> np.ndarray:
    """PSI of the noisy input histogram against the noisy reference above a limit; negative bins count one half."""
    shares = np.maximum(totals[..., :8], 0.5)
    shares /= shares.sum(axis=-1, keepdims=True)
    before = np.maximum(totals[:, :REFERENCE, :8].sum(axis=1, keepdims=True), 0.5)
    before /= before.sum(axis=-1, keepdims=True)
    return (((shares - before) * np.log(shares / before)).sum(axis=-1) > limit)[:, REFERENCE:]


def figures(alarms: np.ndarray) -> dict[str, float | None]:
    """What alarms per window mean, (runs, watched windows): a run that alarmed before the change has not seen it."""
    quiet, after = alarms[:, :QUIET], alarms[:, QUIET:]
    seen = after.any(axis=1)
    delay = np.where(seen, after.argmax(axis=1) + 1, AFTER + 1)
    median = float(np.median(delay))
    return {
        "seen": round(float(seen.mean()), 3),
        "delay": median if median <= AFTER else None,
        "false_per_1000": round(1000.0 * float(quiet.mean()), 1),
        "quiet_runs_with_alarm": round(float(quiet.any(axis=1).mean()), 3),
    }


def ours(runs: int) -> dict[str, dict[str, dict[str, float | None]]]:
    """The watch and PSI cut-offs by case."""
    rng = np.random.default_rng(9)
    names = ("fedinfer, epsilon 1 per window", "PSI > 0.1 on the same noisy sums", "PSI > 0.25 on the same noisy sums")
    found: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in names}
    for shift in SHIFTS:
        totals, sigma = sums(*fleet(shift, runs, 1), rng)
        for name, alarms in zip(
            names, (watched(totals, sigma), cut_off(totals, 0.1), cut_off(totals, 0.25)), strict=True
        ):
            found[name][f"{shift}"] = figures(alarms)
    return found


def peers(runs: int, pythons: dict[str, str]) -> tuple[dict[str, dict[str, dict[str, float | None]]], dict[str, str]]:
    """Figures of the detectors of others by case, and why some are missing."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        rows: dict[str, np.ndarray] = {"reference": np.array(REFERENCE)}
        for shift in SHIFTS:
            x, errors = fleet(shift, runs, 1)
            rows |= {f"x {shift}": x.reshape(*x.shape[:2], -1), f"e {shift}": errors}
        np.savez(path, **rows)  # type: ignore[arg-type]
        for name in ("scipy", "evidently", "nannyml", "river"):
            command = [pythons.get(name, sys.executable), str(PEERS), name, str(path)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, **QUIET_PEERS}
            )
            if done.returncode:
                missing[name] = (done.stderr.strip().splitlines() or ["ended without a word"])[-1]
                continue
            for detector, by_case in json.loads(done.stdout.splitlines()[-1]).items():
                found[detector] = {
                    case: figures(np.array(told["alarms"], bool)) | {"ms_per_window": round(told["ms_per_window"], 2)}
                    for case, told in by_case.items()
                }
    return found, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="streams per shift; the watch gets 20 times as many")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="interpreter of a package")
    chosen = parser.parse_args()
    found, missing = peers(chosen.runs, dict(each.split("=", 1) for each in chosen.python))
    table = ours(20 * chosen.runs) | found
    print("| detector | seen in 10 windows, shift .1 / .2 / .3 | median delay | false alarms in 1,000 quiet windows |")
    print("|---|---|---|---|")
    for name, by_case in table.items():
        cells = [by_case[f"{shift}"] for shift in SHIFTS]
        seen = " / ".join(f"{cell['seen']:.2f}" for cell in cells)
        delay = " / ".join("-" if cell["delay"] is None else f"{cell['delay']:g}" for cell in cells)
        false = float(np.mean([float(cell["false_per_1000"] or 0.0) for cell in cells]))
        print(f"| {name} | {seen} | {delay} | {false:.0f} |")
    for name, reason in missing.items():
        print(f"{name}: left out, {reason}")
    print(json.dumps({"table": table, "missing": missing}))


if __name__ == "__main__":
    main()
