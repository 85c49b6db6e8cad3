"""Secure sums of trained updates in chunks of devices: a chunk is made of its description alone, wherever that is.

The integers of the chunks add up mod 2^bits, so neither the order nor the place of their making can matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.data import LazyRows
from fedinfer.fleet.budget import SumBudget
from fedinfer.fleet.draws import Devices, Floats
from fedinfer.privacy import IntegerMechanism, SimulatedStream, clip_rows, decode, encode_sum
from fedinfer.system import SimulatedEntropy, child_seed, simulation_rng
from fedinfer.training import load_trainer
from fedinfer.types import FloatVector, RingVector

CHUNK = 128
"""Devices that train together: enough to fill a batched step, few enough for the cache."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Devices that train from the same weights and go into the same sum.

    Args:
        release: number of the sum; every device is in a sum once, so (release, device) names its draws.
        devices: (k,), k <= CHUNK.
        began: virtual seconds at which each began, (k,).
        scales: weight of each clipped update, in (0, 1], (k,).
        weights: that all begin with, (size,) float32.
        mechanism: ring, and shares of noise.
    """

    release: int
    devices: Devices
    began: Floats
    scales: Floats
    weights: FloatVector
    mechanism: IntegerMechanism


class Workers(Protocol):
    """Makes the integer sums of chunks, here or elsewhere."""

    def sums(self, chunks: Sequence[Chunk]) -> list[RingVector]:
        """One sum mod 2^bits per chunk, in their order.

        Args:
            chunks: any number.
        """


class Bench:
    """Makes sums in this process. It follows from the scenario alone, so any machine can have one.

    Args:
        scenario: of the run.
        rows: its population.
    """

    def __init__(self, scenario: Scenario, rows: LazyRows) -> None:
        self._scenario, self.rows = scenario, rows
        seed, place = scenario.scenario.seed, scenario.simulation.accelerator
        self.trainer = load_trainer(scenario.model, rows.schema, scenario.training, seed, place)

    def sums(self, chunks: Sequence[Chunk]) -> list[RingVector]:
        """As `Workers.sums`."""
        return [self.sum(chunk) for chunk in chunks]

    def sum(self, chunk: Chunk) -> RingVector:
        """Train the devices of a chunk and add up their encoded answers; their rows are made here and forgotten.

        Args:
            chunk: at least one device.
        """
        seed, mechanism = self._scenario.scenario.seed, chunk.mechanism
        data = [self.rows.training(int(k), float(at)) for k, at in zip(chunk.devices, chunk.began, strict=True)]
        rngs = [simulation_rng(seed, "fleet train", chunk.release, int(device)) for device in chunk.devices]
        clipped = clip_rows(self.trainer.updates(chunk.weights, data, rngs), mechanism.clipping_norm)
        # A product of float32 numbers is not larger than its exact value by more than rounding; encode clips again.
        answers = clipped * chunk.scales.astype(np.float32)[:, None]
        streams = [
            lambda device=int(device): SimulatedStream(SimulatedEntropy(seed, "fleet share", chunk.release, device))
            for device in chunk.devices
        ]
        return encode_sum(answers, mechanism, rotation_of(seed, chunk.release), streams)


def rotation_of(seed: int, release: int) -> bytes:
    """Public rotation of a sum, 32 bytes.

    Args:
        seed: of the run.
        release: number of the sum.
    """
    return SimulatedEntropy(seed, "fleet rotation", release).take(32)


def chunks_of(
    release: int,
    devices: Devices,
    began: Floats,
    scales: Floats,
    weights: FloatVector,
    mechanism: IntegerMechanism,
) -> list[Chunk]:
    """Cut devices that share their start weights into chunks; the cut follows from their order alone.

    Args:
        release: number of the sum.
        devices: (k,).
        began: (k,).
        scales: (k,).
        weights: (size,) float32.
        mechanism: ring, and shares of noise.
    """
    cuts = [slice(start, start + CHUNK) for start in range(0, len(devices), CHUNK)]
    return [Chunk(release, devices[cut], began[cut], scales[cut], weights, mechanism) for cut in cuts]


def open_sum(parts: Sequence[RingVector], budget: SumBudget, seed: int, release: int) -> FloatVector:
    """Add up the chunks of a sum, decode it, and add the noise of a trusted server where there is one.

    Args:
        parts: of all chunks, at least one.
        budget: ring and noise.
        seed: of the run.
        release: number of the sum.

    Returns:
        Sum of the weighted updates with noise, (dimension,) float32.
    """
    mechanism = budget.mechanism
    joined: npt.NDArray[np.uint64] = np.stack(parts).sum(axis=0, dtype=np.uint64)
    residues: RingVector = (joined & np.uint64((1 << mechanism.bits) - 1)).astype(np.uint32)
    total = decode(residues, mechanism, rotation_of(seed, release))
    z = budget.model.noise_outside(budget.noise_multiplier)

    def stream() -> SimulatedStream:
        return SimulatedStream(SimulatedEntropy(child_seed(seed, "fleet central"), release))

    return budget.model.server_noise(total, mechanism, z, stream)
