"""Write the known answers of the privacy room: `python tests/vectors/privacy/generate.py`.

tables.json     boundaries of noise tables: whoever samples from them gets the law of this package, bit for bit
encodings.json  vectors, mechanisms and seeds with the ring vectors that come out (good), and inputs that are refused
accounting.json events as ledgers keep them, with their Rényi epsilon; texts that are no event
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer import wire
from fedinfer.privacy.accounting.accountant import rdp_epsilon
from fedinfer.privacy.accounting.events import (
    Composed,
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    to_json,
)
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.encoding import decode, encode
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.privacy.mechanism.tables import discrete_gaussian_table, skellam_table
from fedinfer.system import SimulatedEntropy
from fedinfer.types import Relation

HERE = Path(__file__).parent


def tables() -> Any:
    makers = {"skellam": skellam_table, "discrete_gaussian": discrete_gaussian_table}
    return [
        {"law": law, "variance": variance, "offset": table.offset, "middle": [hex(b) for b in middle]}
        for law, make in makers.items()
        for variance in (1, 10, 1000)
        for table in [make(variance)]
        for middle in [table.boundaries[table.offset - 4 : table.offset + 4]]
    ]


def mechanism(kind: NoiseKind, rounding: Rounding, dimension: int) -> IntegerMechanism:
    return design(
        kind=kind, rounding=rounding, dimension=dimension, clipping_norm=0.5, noise_multiplier=1.25, contributors=3,
        summands=4, units=4 if rounding is Rounding.CONDITIONAL else 40, max_loss=0.01,
    )  # fmt: skip


def encodings() -> Any:
    good = []
    for kind in (NoiseKind.SKELLAM, NoiseKind.DISCRETE_GAUSSIAN):
        for rounding in Rounding:
            for dimension in (1, 5):
                made = mechanism(kind, rounding, dimension)
                vector = (np.arange(dimension) / 7 - 0.3).astype(np.float32)
                streams = [SimulatedStream(SimulatedEntropy("vectors", use)) for use in ("noise", "rounding")]
                ring = encode(vector, made, b"rotation", *streams)
                good.append(
                    {
                        "mechanism": wire.encode(made).hex(),
                        "digest": made.digest().hex(),
                        "bits": made.bits,
                        "share_variance": made.share_variance,
                        "vector": [float(x) for x in vector],
                        "ring": [int(x) for x in ring],
                        "decoded": [float(x) for x in decode(ring, made, b"rotation")],
                    }
                )
    bad = [
        {"why": "NaN", "vector": ["nan"] * 5},
        {"why": "infinite", "vector": [0, 0, "inf", 0, 0]},
        {"why": "one too many", "vector": [0] * 6},
    ]
    whole = wire.encode(mechanism(NoiseKind.SKELLAM, Rounding.CONDITIONAL, 5))
    broken = {
        "truncated": whole[:-1],
        "left over": whole + b"\0",
        "another kind of noise": whole.replace(b"skellam", b"laplace"),
        "rounding of the other unit": whole.replace(b"\x0b\0\0\0conditional", b"\x08\0\0\0dithered"),
    }
    return {"good": good, "bad": bad, "bad_mechanisms": {why: data.hex() for why, data in broken.items()}}


EVENTS: list[Event] = [
    GaussianEvent(1.5),
    Repeated(PoissonSampled(0.01, GaussianEvent(1.0)), 1000),
    Repeated(SkellamEvent(250_000.0, 130.0, 3_900.0), 40),
    Repeated(PoissonSampled(0.1, SkellamEvent(250_000.0, 130.0, 3_900.0)), 40),
    DiscreteGaussianEvent(400.0, 30, 20.0, 90.0, 64),
    Composed((Repeated(GaussianEvent(9.0), 5), SkellamEvent(1e6, 100.0, 900.0))),
]


def accounting() -> Any:
    good = [
        {
            "event": to_json(event),
            "delta": delta,
            "relation": str(relation),
            "epsilon": rdp_epsilon([event], delta, relation),
        }
        for event in EVENTS
        for delta, relation in ((1e-5, Relation.ADD_REMOVE), (1e-7, Relation.REPLACE_ONE))
    ]
    bad = [
        "{}",
        '{"kind":"gaussian"}',
        '{"kind":"gaussian","noise_multiplier":0}',
        '{"kind":"poisson_sampled","rate":0.5,"event":{"kind":"non_private"}}',
        '{"kind":"skellam","variance":1,"l2":1,"l1":1,"l0":1}',
    ]
    return {"good": good, "bad": bad}


def main() -> None:
    for name, make in (("tables", tables), ("encodings", encodings), ("accounting", accounting)):
        (HERE / f"{name}.json").write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
