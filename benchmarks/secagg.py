"""Secure aggregation beside Flower's legacy SecAgg+, and beside the physical floor of AES-256-CTR.

    python benchmarks/secagg.py            needs ../shared/baselines/flower_secagg.py for the ratios (else null)

Both sides take turns in one run, three times each, n=100, d=10,000, 10 % dropouts after sharing; the better run of
each counts. The product runs what `choose_graph` picks: each device draws 21 holders, masks with them and with whoever
drew it, 38 on average, and verifies all members and a quorum. The headline has Flower with 33 shares and a threshold of
22, the least that is safe with its ring of fixed neighbours; Flower checks no identity at all. Beside it stands
Flower's smallest setting, which is not safe for 100 devices; `--complete` adds the complete graph, for which Flower
takes many minutes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedinfer import secagg
from fedinfer.secagg import IdentityKey, Session, Stage, key_list, opening
from fedinfer.secagg.keys import verify_signature
from fedinfer.secagg.masks import add_masks
from fedinfer.system import SystemEntropy

BASELINE = Path(__file__).resolve().parents[2] / "shared" / "baselines" / "flower_secagg.py"
N, DIMENSION, DROPS, BITS, REPEATS = 100, 10_000, 10, 20, 3
# (Flower's shares and threshold, ours as holders and threshold); Flower counts a device's own share.
HEADLINE = "both safe"
SETTINGS = {
    HEADLINE: ((33, 22), (21, 11)),
    "Flower's smallest": ((11, 7), (21, 11)),
}
COMPLETE = {"complete graph": ((100, 67), (99, 67))}


@dataclass
class Figures:
    """Seconds of the server, and of one device (mean over devices), by stage; bytes that one device sends.

    `cpu` is the processor time of everybody together.
    """

    server: dict[str, float] = field(default_factory=dict)
    device: dict[str, list[float]] = field(default_factory=dict)
    upload: int = 0
    cpu: float = 0.0

    @property
    def server_seconds(self) -> float:
        return sum(self.server.values())

    @property
    def device_seconds(self) -> float:
        return sum(statistics.fmean(seconds) for seconds in self.device.values())


def forget() -> None:
    """Each device is alone on its machine: nothing that another one has checked is known."""
    for kept in (verify_signature, key_list._read, key_list._faults, key_list.facts_of, opening._signers):
        kept.cache_clear()


def run(n: int, degree: int, threshold: int, dimension: int, drops: int, *, simulated: bool = False) -> Figures:
    """One session with fresh keys; `drops` devices are lost before their masked vector. Checks the sum.

    Simulated devices live in one process and share what they can; real ones are alone.
    """
    agreement = secagg.PairSecrets().agree if simulated else secagg.agree
    entropy, rng, figures = SystemEntropy(), np.random.default_rng(0), Figures()
    cohort = tuple(f"device-{i:05d}" for i in range(n))
    least = n - drops
    session = Session("bench", "1", "train", bytes(32), cohort, degree, threshold, least, BITS, dimension, bytes(32))
    identities = {name: IdentityKey.generate(entropy) for name in cohort}
    roster = {name: key.public_bytes for name, key in identities.items()}
    vectors = {name: rng.integers(0, 1 << BITS, dimension, dtype=np.uint32) for name in cohort}
    lost, states = set(rng.choice(cohort, drops, replace=False).tolist()), {}
    begun, start = time.process_time(), time.perf_counter()
    state, requests = secagg.begin(session, roster)
    figures.server["begin"] = time.perf_counter() - start
    while requests:
        replies = {}
        stage = next(iter(requests.values())).stage
        for name, request in requests.items():
            if name in lost and stage in (Stage.MASKED, Stage.SURVIVORS, Stage.UNMASK):
                continue
            if not simulated:
                forget()
            start = time.perf_counter()
            states[name], replies[name] = answer(
                session, states.get(name), name, identities[name], roster, request, vectors[name], entropy, agreement
            )
            figures.device.setdefault(stage, []).append(time.perf_counter() - start)
        figures.upload += max(map(len, replies.values()))
        start = time.perf_counter()
        state, requests = secagg.step(state, replies)
        figures.server[stage] = time.perf_counter() - start
    figures.cpu = time.process_time() - begun
    assert isinstance(state, secagg.Done), state
    survivors = [vectors[name] for name in state.survivors]
    assert len(survivors) == n - drops
    assert np.array_equal(state.total, secagg.ideal_sum(survivors, BITS))
    return figures


def answer(session, state, name, identity, roster, request, vector, entropy, agreement):
    common, own = request.common, request.own
    match request.stage:
        case Stage.KEYS:
            return secagg.answer_keys(secagg.read_session(common), identity, name, entropy)
        case Stage.SHARES:
            return secagg.answer_shares(state, common, own, roster, entropy, agreement)
        case Stage.MASKED:
            return secagg.answer_masked(state, common, own, vector)
        case Stage.SURVIVORS:
            return secagg.answer_survivors(state, common, own)
        case Stage.UNMASK:
            return secagg.answer_unmask(state, common, own)
    raise AssertionError(request.stage)


def flower(shares: int, threshold: int) -> dict[str, float] | None:
    """Flower's server and device seconds at the same n, dimension and dropouts; None without the baseline."""
    if not BASELINE.exists():
        return None
    options = ["--n", N, "--dim", DIMENSION, "--shares", shares, "--threshold", threshold, "--drops", DROPS]
    command = [sys.executable, str(BASELINE), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  Flower's baseline failed: {done.stderr.strip().splitlines()[-1:]}")
        return None
    result = json.loads(done.stdout.strip().splitlines()[-1])["end_to_end"]
    return {"server": result["server_s"], "device": result["one_client_s"]} if result["done"] else None


def turns(setting: tuple[tuple[int, int], tuple[int, int]]) -> tuple[dict[str, float], dict[str, float] | None]:
    """The better of each side's runs, which take turns, so that both meet the same load of the machine."""
    (shares, flower_threshold), (degree, threshold) = setting
    ours, theirs = [], []
    for _ in range(REPEATS):
        figures = run(N, degree, threshold, DIMENSION, DROPS)
        ours.append({"server": figures.server_seconds, "device": figures.device_seconds})
        theirs.append(flower(shares, flower_threshold))
    whole = [each for each in theirs if each is not None]
    best = {side: min(each[side] for each in whole) for side in ("server", "device")} if whole else None
    return {side: min(each[side] for each in ours) for side in ("server", "device")}, best


def compare(settings: dict[str, tuple[tuple[int, int], tuple[int, int]]]) -> list[dict[str, object]]:
    """Print all settings; return a row of each, the headline first. Ratios are None without Flower's figures."""
    rows: list[dict[str, object]] = []
    print(f"n={N}, d={DIMENSION}, {DROPS} dropped after sharing; seconds, each side at its best of {REPEATS}")
    if not BASELINE.exists():
        print(f"  {BASELINE.name} is missing: no ratios")
    for name, setting in settings.items():
        (shares, flower_threshold), (degree, threshold) = setting
        mine, theirs = turns(setting)
        row: dict[str, object] = {"setting": name, "holders": degree, "threshold": threshold}
        row |= {"flower_shares": shares, "flower_threshold": flower_threshold}
        for side in ("server", "device"):
            row[f"{side}_s"] = round(mine[side], 4)
            row[f"flower_{side}_s"] = round(theirs[side], 4) if theirs else None
            row[f"{side}_ratio"] = round(theirs[side] / mine[side], 2) if theirs else None
        rows.append(row)
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def mask_over_floor(dimension: int, neighbours: int) -> float:
    """Time to mask over the time of AES-256-CTR alone for the same number of keystream bytes; medians of 9."""
    seeds = [bytes([i]) * 32 for i in range(neighbours + 1)]
    vector, piece = np.zeros(dimension, np.uint32), 256 * 1024
    zeros, out = memoryview(bytes(piece)), memoryview(bytearray(piece))

    def mask() -> None:
        add_masks(vector, seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :])

    def floor() -> None:
        for seed in seeds:
            cipher = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
            for start in range(0, vector.nbytes, piece):
                count = min(piece, vector.nbytes - start)
                cipher.update_into(zeros[:count], out[:count])

    ours, aes = [], []
    for _ in range(9):
        ours.append(seconds_of(mask))
        aes.append(seconds_of(floor))
    ratio = statistics.median(ours) / statistics.median(aes)
    gigabytes = len(seeds) * vector.nbytes / 1e9
    print(
        f"mask d={dimension}, {len(seeds)} streams: {1e3 * statistics.median(ours):.1f} ms, floor (AES-256-CTR, "
        f"{gigabytes / statistics.median(aes):.2f} GB/s) {1e3 * statistics.median(aes):.1f} ms, ratio {ratio:.2f}"
    )
    return ratio


def seconds_of(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def upload_overhead(figures: Figures, dimension: int, neighbours: int) -> float:
    """Bytes that a device sends in all stages, over 1.05 * d * b / 8 + 200 bytes per neighbour: at most 1."""
    allowed = 1.05 * dimension * BITS / 8 + 200 * neighbours
    print(f"upload d={dimension}, k={neighbours}: {figures.upload} bytes, allowed {allowed:.0f}")
    return figures.upload / allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--complete", action="store_true", help="compare complete graphs too")
    arguments = parser.parse_args()
    rows = compare(SETTINGS | (COMPLETE if arguments.complete else {}))
    ratio = mask_over_floor(1_000_000, 32)
    graph = secagg.choose_graph(500, 0.1, 0.1)
    large = run(500, graph.degree, graph.threshold, 100_000, 50)
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in large.server.items())
    print(f"n=500, d=100,000, 50 dropped, k={graph.degree} t={graph.threshold}: server {large.server_seconds:.2f} s")
    print(f"  by stage: {stages}; one device {1e3 * large.device_seconds:.1f} ms")
    cohort = run(500, graph.degree, graph.threshold, 10_000, 50, simulated=True)
    print(f"n=500, d=10,000, 50 dropped, all devices and the server in one process: {cohort.cpu:.2f} s of CPU")
    overheads = [upload_overhead(large, 100_000, graph.degree)]
    for dimension in (10_000, 1_000_000):
        figures = run(40, 20, 14, dimension, 0)
        overheads.append(upload_overhead(figures, dimension, 20))
    result = {
        "server_ratio": rows[0]["server_ratio"],
        "device_ratio": rows[0]["device_ratio"],
        "mask_over_floor": round(ratio, 4),
        "server_seconds_n500": round(large.server_seconds, 4),
        "simulated_cpu_seconds_n500": round(cohort.cpu, 4),
        "upload_overhead": round(max(overheads), 4),
        "settings": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
