"""Canaries: units of privacy whose vectors an auditor chose, planted among the real devices of a simulation.

* Unit `device`: a canary is a device; its update is `LOUD` C times a unit vector before anything is clipped, or zeros
  when its coin said "out".
* Unit `example`: a canary is a row on a device; its clipped gradient is C times a unit vector. It is sampled like any
  other row. It enters after the engine clipped the real rows: that clipping is tested by `probes`.

Everything after that is the product: encoding, noise, sums, decoding. The auditor is as strong as the definition of
differential privacy allows: it knows all data of everybody else, and subtracts what that contributes on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.system import simulation_rng
from fedinfer.training import Data, GradientEngine, PrivateSteps, Trainer, uniform
from fedinfer.types import DeviceId, FloatVector

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_WITHIN = 1 - 2.0**-21
"""Canary rows stay a little below the clipping norm, so that clipping them in float32 changes nothing."""
QUIET = 1e-7
"""So small a part of the clipping norm that a device learns nothing that could be told from its noise."""
LOUD = 8.0
"""Updates of canary devices are so many clipping norms long: what does not clip them lets them be seen."""


class Directions(StrEnum):
    """How a canary's direction is drawn."""

    FIXED = "fixed"
    """One for the whole run, independent of the other canaries' (Andrew et al. 2023)."""
    FRESH = "fresh"
    """A new one each round, orthogonal to the other canaries' where the dimension allows it."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Who was planted where.

    Args:
        homes: device of each canary, m of them.
        included: (m,) whether its coin said "in".
        draw: see `Directions`.
        basis: (d, k) orthonormal columns that directions are made of; shape (d, 0): all d axes.
        seed: of the run.
    """

    homes: tuple[DeviceId, ...]
    included: Flags
    draw: Directions
    basis: Floats
    seed: int

    @property
    def dimension(self) -> int:
        """k, number of dimensions that directions are drawn from."""
        axes, chosen = self.basis.shape
        return int(chosen or axes)

    def directions(self, round_id: str) -> Floats:
        """(m, d) unit vectors.

        Args:
            round_id: names the draw of FRESH directions; FIXED ones do not depend on it.

        Returns:
            float64 (m, d), one unit vector per canary.
        """
        shape = len(self.homes), self.dimension
        match self.draw:
            case Directions.FRESH:
                raw = simulation_rng(self.seed, "canaries", round_id).standard_normal(shape)
                if shape[0] <= shape[1]:
                    raw = np.linalg.qr(raw.T)[0].T
            case Directions.FIXED:
                raw = simulation_rng(self.seed, "canaries", "").standard_normal(shape)
            case _:
                assert_never(self.draw)
        raw /= np.linalg.norm(raw, axis=1, keepdims=True)
        return raw @ self.basis.T if self.basis.shape[1] else raw

    def project(self, vectors: Floats) -> Floats:
        """The part of vectors (n, d) in which canaries can be seen, (n, k).

        Args:
            vectors: float64 (n, d).

        Returns:
            float64 (n, k); the vectors themselves where canaries may be anywhere.
        """
        return vectors @ self.basis if self.basis.shape[1] else vectors


class NamedSource(np.random.Generator):
    """The generator of one simulated device that says whose it is.

    Args:
        inner: as the simulation makes it; its bits are used.
        round_id: of the round.
        device: whose it is.
    """

    def __init__(self, inner: np.random.Generator, round_id: str, device: DeviceId) -> None:
        super().__init__(inner.bit_generator)
        self.round_id, self.device = round_id, device


@dataclass(slots=True)
class CanaryTrainer:
    """Stands where the devices' trainer stands; plants canaries in what comes out of it.

    Args:
        inner: the real one.
        canaries: what is planted.
        norm: clipping norm C.
        learning_rate: of the device, for DP-SGD on the device.
        expected: per device, what its real data contributed to this round on average.
        sent: per device, what left this trainer in this round: before the clipping of updates, without noise.
        effects: per canary, what it adds to its device's vector when it is in, on average, over its direction.
        quiet: gradients are clipped to `QUIET` of the norm beside the same noise, and no canary is planted: what DP-SGD
            on the device then gives is its noise.
    """

    inner: Trainer
    canaries: Canaries
    norm: float
    learning_rate: float
    expected: dict[DeviceId, Floats] = field(default_factory=dict)
    sent: dict[DeviceId, Floats] = field(default_factory=dict)
    effects: Floats = field(default_factory=lambda: np.zeros(0))
    quiet: bool = False

    def predict(self, weights: FloatVector, x: npt.NDArray[np.float32]) -> FloatVector:
        """As `Trainer.predict`.

        Args:
            weights: of the model, float32 (all parameters,).
            x: raw rows, float32 (n, width).
        """
        return self.inner.predict(weights, x)

    def updates(self, weights: FloatVector, data: Data, sources: Sequence[NamedSource]) -> FloatVector:
        """Unit `device`: real updates, except that canary devices send their own vectors.

        Args:
            weights: of the model, float32 (all parameters,).
            data: rows and classes of each device that this process plays.
            sources: randomness of each device, which says its name and round.

        Returns:
            float32 (devices, d).
        """
        vectors = self.inner.updates(weights, data, sources)
        homes = set(self.canaries.homes)
        vectors[[source.device in homes for source in sources]] = 0.0
        self._expect(sources, clipped(vectors, self.norm))
        sizes = np.full(len(self.canaries.homes), self.norm)
        return self._planted(vectors, sources, sizes, {}, LOUD).astype(np.float32)

    def gradient_sums(
        self,
        weights: FloatVector,
        data: Data,
        rate: float,
        clipping_norm: float,
        sources: Sequence[NamedSource],
        engine: GradientEngine,
    ) -> Floats:
        """Unit `example`: sums over real rows and sampled canary rows.

        Args:
            weights: of the model, float32 (all parameters,).
            data: rows and classes of each device that this process plays.
            rate: chance with which each row is sampled, in (0, 1].
            clipping_norm: largest L2 norm of one row's gradient, > 0.
            sources: randomness of each device, which says its name and round.
            engine: computes the gradients.

        Returns:
            float64 (devices, d).
        """
        sums = self.inner.gradient_sums(weights, data, rate, clipping_norm, sources, engine)
        self._expect(sources, rate * self.inner.gradient_sums(weights, data, 1.0, clipping_norm, sources, engine))
        sizes = np.full(len(self.canaries.homes), self.norm * _WITHIN)
        drawn = {source.device: (1, rate) for source in sources}
        return self._planted(sums, sources, sizes, drawn)

    def private_updates(
        self,
        weights: FloatVector,
        data: Data,
        private: PrivateSteps,
        sources: Sequence[NamedSource],
        engine: GradientEngine,
    ) -> FloatVector:
        """Unit `example`, trust `local`: DP-SGD on the device; a canary moves each step that samples it.

        Args:
            weights: of the model, float32 (all parameters,).
            data: rows and classes of each device that this process plays.
            private: number, sampling rate, clipping norm and noise of the steps.
            sources: randomness of each device, which says its name and round.
            engine: computes the gradients.

        Returns:
            float32 (devices, d).
        """
        if self.quiet:
            loud = private.noise_multiplier / QUIET
            quiet = PrivateSteps(private.steps, private.rate, private.clipping_norm * QUIET, loud)
            return self.inner.private_updates(weights, data, quiet, sources, engine)
        moved = self.inner.private_updates(weights, data, private, sources, engine)
        average = PrivateSteps(private.steps, 1.0, private.clipping_norm, 0.0)
        self._expect(sources, self.inner.private_updates(weights, data, average, sources, engine))
        rows = {source.device: len(y) for source, (_, y) in zip(sources, data, strict=True)}
        per_step = {home: -self.learning_rate / max(1.0, private.rate * rows[home]) for home in self.canaries.homes}
        sizes = np.array([per_step[home] * self.norm * _WITHIN for home in self.canaries.homes])
        drawn = {source.device: (private.steps, private.rate) for source in sources}
        return self._planted(moved, sources, sizes, drawn).astype(np.float32)

    def _expect(self, sources: Sequence[NamedSource], vectors: npt.NDArray[Any]) -> None:
        self.expected |= {
            source.device: vector.astype(np.float64) for source, vector in zip(sources, vectors, strict=True)
        }

    def _planted(
        self,
        vectors: FloatVector | Floats,
        sources: Sequence[NamedSource],
        sizes: Floats,
        drawn: dict[DeviceId, tuple[int, float]],
        loud: float = 1.0,
    ) -> Floats:
        """Add every included canary to its home's vector as often as it was drawn (trials, rate).

        Each is `loud` times `sizes` long; what is expected of it is `sizes`.
        """
        result = vectors.astype(np.float64)
        directions = self.canaries.directions(sources[0].round_id)
        row_of = {source.device: row for row, source in enumerate(sources)}
        self.effects = sizes.copy()
        for number, home in enumerate(self.canaries.homes):
            trials, rate = drawn.get(home, (1, 1.0))
            self.effects[number] *= trials * rate
            if home not in row_of:
                continue
            times = 1 if rate == 1.0 and trials == 1 else (uniform(sources[row_of[home]], trials) < rate).sum()
            if self.canaries.included[number]:
                result[row_of[home]] += times * loud * sizes[number] * directions[number]
        self.sent |= {source.device: row for source, row in zip(sources, result, strict=True)}
        return result


def clipped(vectors: npt.NDArray[Any], norm: float) -> Floats:
    """Rows of length `norm` at most: the auditor's own clipping, written apart from the product's.

    Args:
        vectors: (n, d).
        norm: > 0.

    Returns:
        float64 (n, d).
    """
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    result: Floats = wide * np.minimum(1.0, norm / np.maximum(lengths, 1e-300))
    return result


@dataclass(slots=True)
class AuditEvidence:
    """What the auditor has seen, kept as sums over rounds.

    Args:
        canaries: what was planted.
        groups: (m,) which view shows a canary: all 0 for a sum, one number per home where each device is seen alone.
        strategy: first column c_0 = 1, c_1, ... of the strategy matrix C of correlated noise; (1.0,): independent.
    """

    canaries: Canaries
    groups: npt.NDArray[np.int64]
    strategy: tuple[float, ...] = (1.0,)
    gram: Floats = field(init=False)
    match: Floats = field(init=False)
    energy: float = 0.0
    coordinates: int = 0
    total: Floats = field(init=False)
    _past: list[tuple[Floats, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        m = self.groups.size
        self.gram, self.match = np.zeros((m, m)), np.zeros(m)
        self.total = np.zeros((int(self.groups.max()) + 1, self.canaries.dimension))

    def add(self, round_id: str, views: Floats, effects: Floats) -> None:
        """Take in one round.

        Args:
            round_id: names the directions.
            views: (groups, d) what was seen, minus what the real data was expected to contribute.
            effects: (m,) average length, with sign, that a canary adds along its direction.
        """
        now = self.canaries.project(views), self.canaries.project(self.canaries.directions(round_id)) * effects[:, None]
        # With noise C^-1 Z the rows of C times what was seen have independent noise, and hold C times what was added.
        self._past = [now, *self._past][: len(self.strategy)]
        seen, added = (
            np.sum([c * part for c, part in zip(self.strategy, parts, strict=False)], axis=0)
            for parts in zip(*self._past, strict=True)
        )
        self.gram += (added @ added.T) * (self.groups[:, None] == self.groups[None, :])
        self.match += np.einsum("ij,ij->i", added, seen[self.groups])
        self.energy += float((seen**2).sum())
        self.coordinates += seen.size
        self.total += seen * np.sign(effects[np.abs(effects).argmax()])

    def scores(self) -> Floats:
        """(m,) how much each canary seems to have been in: the best linear estimate of its coin.

        Least squares with a ridge: coins have variance 1/4, and the variance of everything else is estimated from what
        a fit without ridge leaves over.
        """
        m = self.groups.size
        floor = 1e-9 * float(np.trace(self.gram)) / m
        fitted = np.linalg.solve(self.gram + floor * np.eye(m), self.match)
        left = max(self.energy - float(self.match @ fitted), 0.0) / max(self.coordinates - m, 1)
        half = np.full(m, 0.5)
        estimate: Floats = half + np.linalg.solve(
            self.gram + (4 * left + floor) * np.eye(m), self.match - self.gram @ half
        )
        return estimate

    def cosines(self) -> Floats:
        """(m,) cosine of each canary's fixed direction with the sum of all views of its group."""
        directions = self.canaries.project(self.canaries.directions(""))
        lengths = np.maximum(np.linalg.norm(self.total, axis=1), 1e-300)
        result: Floats = np.einsum("ij,ij->i", directions, self.total[self.groups]) / lengths[self.groups]
        return result
