"""Published settings of DP-SGD and their epsilons: by the conversion of their time, and by fedinfer's accountant.

Published: pytorch/opacus `examples/mnist_README.md`; Tramèr and Boneh 2021, *Differentially private learning needs
better features (or much more data)*, ftramer/Handcrafted-DP. Delta is 1e-5, rows are sampled (Poisson), one row is
added or removed.

    python simulations/reproduce_epsilons.py
"""

import json
import math

from fedinfer.privacy import GaussianEvent, PoissonSampled, Repeated, account
from fedinfer.privacy.accounting.rdp import ORDERS, event_curve
from fedinfer.types import Relation

DELTA = 1e-5
PUBLISHED = (  # setting, sampling rate, noise multiplier, steps, epsilon
    ("Opacus, MNIST", 0.004, 0.7, 11_250, 6.86),
    ("Opacus, MNIST", 0.004, 1.1, 15_000, 2.91),
    ("Opacus, MNIST", 0.004, 1.3, 3_750, 1.16),
    ("Tramèr and Boneh, MNIST", 512 / 60_000, 1.23, 4_688, 3.0),
    ("Tramèr and Boneh, Fashion-MNIST", 2_048 / 60_000, 2.15, 1_172, 3.0),
    ("Tramèr and Boneh, CIFAR-10", 1_024 / 50_000, 1.54, 1_465, 3.0),
)


def old_epsilon(event: PoissonSampled, steps: int) -> float:
    """Rényi bounds with the conversion of Mironov 2017, Proposition 3, which these papers used."""
    curve = steps * event_curve(event, Relation.ADD_REMOVE)
    return float((curve + math.log(1 / DELTA) / (ORDERS - 1)).min())


def main() -> None:
    """A table, and as the last line one JSON object."""
    print("| setting | noise z | steps | published | that conversion, here | fedinfer |\n|---|---|---|---|---|---|")
    found = []
    for name, rate, z, steps, published in PUBLISHED:
        event = PoissonSampled(rate, GaussianEvent(z))
        old, new = old_epsilon(event, steps), account([Repeated(event, steps)], DELTA, Relation.ADD_REMOVE).epsilon
        found.append({"setting": name, "z": z, "published": published, "old": old, "fedinfer": new})
        print(f"| {name} | {z} | {steps:,} | {published:g} | {old:.2f} | {new:.2f} |", flush=True)
    print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
