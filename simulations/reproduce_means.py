"""Mean estimation with distributed noise, by bits per coordinate, beside the Gaussian noise of one trusted server.

The shape is `dme_run.py` of google-research/federated (Kairouz, Liu and Steinke 2021, *The distributed discrete
Gaussian mechanism*, section 5.1): 100 or 1,000 devices with random vectors of norm 10 in 250 dimensions, delta 1e-5.
Figures are the mean squared error of the mean, over that of the Gaussian mechanism, whose noise is as exact as can be
(Balle and Wang 2018). A sum wraps around with probability at most 2^-30 here; there a wrap-around is part of the error
(k_stddevs = 2).

    python simulations/reproduce_means.py [SEEDS]
"""

import json
import statistics
import sys

import numpy as np

from fedinfer.errors import ConfigError
from fedinfer.privacy import (
    Distributed,
    GaussianEvent,
    IntegerMechanism,
    NoiseKind,
    Rounding,
    SimulatedStream,
    Summands,
    calibrate,
    decode,
    encode_sum,
)
from fedinfer.privacy.mechanism.mechanism import magnitude
from fedinfer.system import simulation_rng
from fedinfer.types import Relation, Unit

NORM, DIMENSION, DELTA = 10.0, 250, 1e-5
DEVICES, BITS, EPSILONS = (100, 1000), (10, 12, 14, 16, 18), (1.0, 3.0, 6.0)
KINDS = (NoiseKind.SKELLAM, NoiseKind.DISCRETE_GAUSSIAN)
BRACKET = (1e-2, 1e3)
FIRST_SEED = 1


def mechanism(kind: NoiseKind, devices: int, bits: int, z: float) -> IntegerMechanism:
    """The finest mechanism of so many bits whose sum does not wrap around."""

    def at(scale: float) -> IntegerMechanism:
        return IntegerMechanism(
            kind, DIMENSION, NORM, z, bits, scale, devices, devices, devices, Rounding.CONDITIONAL, Unit.DEVICE
        )

    low, high, top = 1e-6, 1e9, 2.0 ** (bits - 1) - 1
    if magnitude(at(low)) > top:
        raise ConfigError(f"{bits} bits do not hold the sum")
    while high > low * 1.0001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if magnitude(at(middle)) > top else (middle, high)
    return at(low)


def private(kind: NoiseKind, devices: int, bits: int, epsilon: float) -> IntegerMechanism | None:
    """The mechanism of so many bits with the least noise for a budget; None: there is none."""
    try:
        z = calibrate(
            lambda z: [mechanism(kind, devices, bits, z).event(1.0)], epsilon, DELTA, Relation.ZERO_OUT, BRACKET
        )
        return mechanism(kind, devices, bits, z)
    except ConfigError:
        return None


def error(found: IntegerMechanism, seed: int) -> float:
    """Mean squared error of the mean of random vectors, by the encoder, the sum and the decoder of the product."""
    rng = simulation_rng(seed, "means", found.summands)
    vectors = rng.standard_normal((found.summands, DIMENSION))
    vectors *= NORM * (1 - 1e-6) / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = vectors.astype(np.float32)
    streams = [lambda number=n: SimulatedStream(simulation_rng(seed, "share", number)) for n in range(len(rows))]
    rotation = bytes(32)
    mean = decode(encode_sum(rows, found, rotation, streams), found, rotation) / found.summands
    return float(np.square(mean - rows.mean(axis=0, dtype=np.float64)).mean())


def ratio(found: IntegerMechanism | None, central: float, seeds: int) -> str:
    """Error over that of the trusted server, mean over seeds; a dash where the ring is too narrow."""
    if found is None:
        return "-"
    errors = [error(found, seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    return f"{statistics.mean(errors) / central:.3f}"


def chosen_bits(devices: int, epsilon: float) -> int:
    """What a run takes by itself: the narrowest ring that costs at most one part in a hundred of epsilon."""
    model, summands = Distributed(Unit.DEVICE), Summands(DIMENSION, NORM, NORM, devices, devices, devices)

    def ring(z: float) -> IntegerMechanism:
        return model.ring(summands, z, NoiseKind.SKELLAM, 0.01)

    z = calibrate(lambda z: [ring(z).event(1.0)], epsilon, DELTA, Relation.ZERO_OUT, BRACKET)
    return ring(z).bits


def main(seeds: int) -> None:
    """A table, and as the last line one JSON object."""
    print("| devices | epsilon | noise | " + " | ".join(f"{bits} bits" for bits in BITS) + " | a run takes |")
    print("|---|---|---|" + "---|" * (len(BITS) + 1))
    rows = []
    for devices in DEVICES:
        for epsilon in EPSILONS:
            z = calibrate(lambda z: [GaussianEvent(z)], epsilon, DELTA, Relation.ZERO_OUT, BRACKET)
            central = (z * NORM / devices) ** 2
            for kind in KINDS:
                cells = [ratio(private(kind, devices, bits, epsilon), central, seeds) for bits in BITS]
                own = f"{chosen_bits(devices, epsilon)} bits" if kind is NoiseKind.SKELLAM else ""
                rows.append({"devices": devices, "epsilon": epsilon, "noise": str(kind), "ratios": cells})
                print(f"| {devices:,} | {epsilon:g} | {kind} | {' | '.join(cells)} | {own} |", flush=True)
    print(json.dumps({"seeds": seeds, "rows": rows}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
