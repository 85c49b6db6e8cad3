"""The entry point to training: numpy in, numpy out, torch stays inside.

Rules:
* `weights` is always the whole flat vector of `core` (length `size`); updates and sums cover the part that rounds
  change (length `dimension`): all of it, or the head. `tuned` and `replace` go from one to the other.
* Plain training goes in batches of devices where every layer is known to `compile` or the module can be `mapped`, else
  device by device; all give the same numbers. Private gradients are computed by the `GradientEngine` that the caller
  names.
* Nothing that is not finite leaves: hostile weights are refused, an example whose gradient overflows counts as zero
  (Opacus then works, it drops such examples one by one), a device that diverged gives a zero update.
* Labels are class numbers, or values in the unit of a numeric label. Rows are raw float32, NaN for missing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedinfer.config import TrainingSection, Tune
from fedinfer.metrics import figures, number_figures
from fedinfer.schema import Schema
from fedinfer.training.compression import CompressionPlan, compress
from fedinfer.training.engines import batched, device_by_device
from fedinfer.training.engines.clipper import clipper_of, takes_rows_together
from fedinfer.training.engines.gradient_engine import GradientEngine
from fedinfer.training.engines.joined import Joined
from fedinfer.training.engines.rules import check_private, check_weights, finite_rows, rows_together
from fedinfer.training.engines.sampling import PrivateSteps, RandomSource
from fedinfer.training.engines.seeding import threads
from fedinfer.training.models.build import Model
from fedinfer.training.models.parts import keep_frozen, make_native, split, trained_places
from fedinfer.training.models.shapes import shapes, terms_of, weight_deviation
from fedinfer.training.objective import objective_of, values_of, weighted_steps
from fedinfer.training.pretrain import pretrain
from fedinfer.training.programs import probe_of, read_programs
from fedinfer.training.raw import joined_rows, rows_and_labels, rows_of
from fedinfer.training.server_optimizers import OptimizerSettings
from fedinfer.training.update import get_vector, set_vector
from fedinfer.types import FloatVector, Json, WideVector

Labels = npt.NDArray[Any]
"""Class numbers int64 (n,), or values of a numeric label, float64 (n,)."""
Data = Sequence[tuple[npt.NDArray[np.float32], Labels]]
"""Per device: raw rows (n, width) and labels (n,)."""

_EVALUATION_ROWS = 4096


class Trainer:
    """One model architecture, trained and evaluated for any weights.

    Args:
        model: the graph with its start weights.
        schema: what a row looks like.
        training: local work and what is tuned.
        thread_count: torch threads; 1 suits small models.
        device: of torch, where batched steps run; all else runs on the processor.
    """

    def __init__(
        self, model: Model, schema: Schema, training: TrainingSection, thread_count: int, device: torch.device
    ) -> None:
        self._model, self._schema, self._training, self._threads = model, schema, weighted_steps(training), thread_count
        self._objective = objective_of(schema, training)
        self._start = get_vector(model, Tune.ALL)
        self._free = [parameter.requires_grad for parameter in model.core.parameters()]
        self._frozen, self._net = split(model.core, training.tune)
        self._probe = probe_of(model, self._frozen, schema)
        self._program, self._steps = read_programs(self._net, self._probe, self._objective, device)
        self._trained = trained_places(model.core, training.tune)
        self.dimension = int(self._trained.sum())

    def engine(self, wanted: GradientEngine) -> GradientEngine:
        """The engine that computes when this one is asked for: `batched` and `opacus` need layers that they know.

        Args:
            wanted: what the host asks for.
        """
        match wanted:
            case GradientEngine.PER_EXAMPLE:
                return wanted
            case GradientEngine.BATCHED | GradientEngine.OPACUS if self._program is not None:
                return wanted
            case GradientEngine.BATCHED | GradientEngine.OPACUS:
                return GradientEngine.OPACUS if self._together else GradientEngine.PER_EXAMPLE
            case _:
                assert_never(wanted)

    @cached_property
    def _together(self) -> bool:
        return takes_rows_together(self._net, *self._probe, self._objective)

    @property
    def size(self) -> int:
        """Length of the whole weight vector."""
        return int(self._start.size)

    @property
    def terms(self) -> tuple[tuple[str, ...], ...]:
        """Columns of each summand of an additive model, in order; empty for other models."""
        return terms_of(self._model.prepare)

    def shapes(
        self,
        weights: FloatVector,
        optimizer: OptimizerSettings,
        deviations: Sequence[float] | None,
        rng: np.random.Generator,
    ) -> tuple[Json, ...]:
        """The functions of an additive model; see `models.shapes`.

        Args:
            weights: (size,) float32.
            optimizer: of the server.
            deviations: of the noise in one coordinate of each round's mean update; None: not known, no bands.
            rng: the noise that is replayed for the bands; not that of the run.

        Returns:
            Empty for other kinds.
        """
        deviation = None if deviations is None else weight_deviation(optimizer, deviations, rng)
        return shapes(self._model.prepare, weights, self._schema, deviation)

    @property
    def net(self) -> nn.Module:
        """The part that is trained; its parameters are those of whoever used this trainer last."""
        return self._net

    def prepared(self, x: npt.NDArray[np.float32]) -> Tensor:
        """What the trained part gets of raw rows.

        Args:
            x: raw rows (n, width) float32.

        Returns:
            float32 (n, ...).

        Raises:
            DataError: rows do not fit the schema.
        """
        self._frozen.eval()
        prepared: Tensor = self._frozen(self._model.prepare(rows_of(x, len(x), self._schema)))
        return prepared

    def initial(self) -> FloatVector:
        """The start weights, (size,) float32."""
        return self._start.copy()

    def tuned(self, weights: FloatVector) -> FloatVector:
        """The part of the weights that rounds change, (dimension,).

        Args:
            weights: (size,) float32.

        Returns:
            (dimension,) float32, a copy; frozen parameters, and those that forward does not use, are not in it.
        """
        return np.compress(self._trained, weights)

    def replace(self, weights: FloatVector, tuned: FloatVector) -> FloatVector:
        """The weights with the part exchanged that rounds change.

        Args:
            weights: (size,) float32.
            tuned: (dimension,).

        Returns:
            (size,) float32, a copy.
        """
        result = weights.astype(np.float32)
        np.place(result, self._trained, tuned)
        return result

    def updates(self, weights: FloatVector, data: Data, rngs: Sequence[RandomSource]) -> FloatVector:
        """Local training of every device: local_epochs or local_steps of SGD, momentum, FedProx.

        Args:
            weights: (size,) float32, the same for all devices.
            data: raw rows and labels per device; a device without rows gives a zero update.
            rngs: one source of randomness per device.

        Returns:
            (devices, dimension) float32, new minus old.

        Raises:
            ConfigError: weights that are not finite, or of another length.
            DataError: rows or labels do not fit the schema.
        """
        with threads(self._threads):
            features, start = self._features(weights, data), self.tuned(weights)
            if self._steps is None:
                return finite_rows(
                    device_by_device.updates(self._net, start, features, rngs, self._training, self._objective)
                )
            with torch.no_grad():
                return finite_rows(batched.updates(self._steps, start, features, rngs, self._training))

    def gradient_sums(
        self,
        weights: FloatVector,
        data: Data,
        rate: float,
        clipping_norm: float,
        rngs: Sequence[RandomSource],
        engine: GradientEngine,
    ) -> WideVector:
        """Per device the sum of the clipped gradients of a Poisson sample of its rows; no noise.

        Args:
            weights: (size,) float32.
            data: raw rows and labels per device.
            rate: probability of each row, in (0, 1].
            clipping_norm: L2 bound C > 0 on one example's gradient.
            rngs: one source per device.
            engine: computes the gradients; a real device takes PER_EXAMPLE.

        Returns:
            (devices, dimension) float64; zeros where the sample is empty.

        Raises:
            ConfigError: rate, norm or weights out of range, or a model that cannot be trained privately.
            MissingExtra: the engine needs Opacus, which is not installed.
            DataError: rows or labels do not fit the schema.
        """
        check_private(rate, clipping_norm)
        with threads(self._threads):
            features, start = self._features(weights, data, rows_together(engine)), self.tuned(weights)
            if self._program is not None and engine is GradientEngine.BATCHED:
                with torch.no_grad():
                    sums = batched.gradient_sums(self._program, start, features, rngs, rate, clipping_norm)
                # An example whose gradient overflows must count as zero; the batched sum cannot leave a single one out.
                if np.isfinite(sums).all():
                    return sums
            work = clipper_of(self.engine(engine), self._net, clipping_norm, self._objective)
            return device_by_device.gradient_sums(work, start, features, rngs, rate)

    def private_updates(
        self,
        weights: FloatVector,
        data: Data,
        private: PrivateSteps,
        rngs: Sequence[RandomSource],
        engine: GradientEngine,
    ) -> FloatVector:
        """DP-SGD on every device; new minus old weights.

        Args:
            weights: (size,) float32.
            data: raw rows and labels per device. The gradient is divided by rate * rows, so the number of rows of a
                device counts as public.
            private: steps, Poisson rate, clipping norm, noise multiplier.
            rngs: one source per device; a real deployment passes entropy, never a seeded generator.
            engine: computes the gradients; a real device takes PER_EXAMPLE.

        Returns:
            (devices, dimension) float32.

        Raises:
            ConfigError: rate, norm or weights out of range, or a model that cannot be trained privately.
            MissingExtra: the engine needs Opacus, which is not installed.
            DataError: rows or labels do not fit the schema.
        """
        check_private(private.rate, private.clipping_norm)
        with threads(self._threads):
            features, start = self._features(weights, data, rows_together(engine)), self.tuned(weights)
            if self._program is not None and engine is GradientEngine.BATCHED:
                with torch.no_grad():
                    moved = batched.private_updates(self._program, start, features, rngs, self._training, private)
                if np.isfinite(moved).all():
                    return moved
            work = clipper_of(self.engine(engine), self._net, private.clipping_norm, self._objective)
            return finite_rows(device_by_device.private_updates(work, start, features, rngs, self._training, private))

    def pretrain(self, weights: FloatVector, x: FloatVector, y: Labels, rng: np.random.Generator) -> FloatVector:
        """Train all layers on public rows, without cost in privacy.

        Args:
            weights: (size,) to start from.
            x: public raw rows (n, width) float32; may be empty.
            y: their labels (n,).
            rng: order of the rows and dropout.

        Returns:
            (size,) float32; the same numbers when there are no rows.

        Raises:
            DataError: rows or labels do not fit the schema.
            ConfigError: weights that are not finite, or of another length.
        """
        rows, labels = rows_and_labels(x, y, self._schema)
        with threads(self._threads):
            model = self.module(weights, native=False)
            return pretrain(model, rows, labels, self._training, self._objective, rng)

    def compress(
        self, weights: FloatVector, public_x: npt.NDArray[np.float32], plan: CompressionPlan, rng: np.random.Generator
    ) -> FloatVector:
        """Weights for a smaller download: pruned, then fine-tuned on public rows; see `training.compression`.

        Args:
            weights: (size,) float32.
            public_x: public raw rows (n, width) float32; may be empty when nothing is fine-tuned.
            plan: share that is pruned, steps of fine-tuning, what is rounded.
            rng: order of the rows.

        Returns:
            (size,) float32.

        Raises:
            ConfigError: fine-tuning without public rows, or weights that are not finite.
            DataError: rows do not fit the schema.
        """
        rows = rows_of(public_x, len(public_x), self._schema)
        with threads(self._threads):
            return compress(self.module(weights, native=False), rows, plan, self._objective, rng)

    def predict(self, weights: FloatVector, x: npt.NDArray[np.float32]) -> FloatVector:
        """Class probabilities of raw rows, or values of a numeric label.

        Args:
            weights: (size,) float32.
            x: raw rows (n, width) float32, NaN for missing.

        Returns:
            (n, classes) float32, rows sum to 1 up to rounding; or (n, 1) in the label's unit, within its range.

        Raises:
            DataError: rows do not fit the schema.
            ConfigError: weights that are not finite, or of another length.
        """
        rows = rows_of(x, len(x), self._schema)
        self._load(weights)
        with threads(self._threads), torch.no_grad():
            self._model.eval()
            pieces = [self._objective.answers(self._model(piece)) for piece in rows.split(_EVALUATION_ROWS)]
        answers: FloatVector = torch.cat(pieces).numpy()
        return answers if self._schema.label_range is None else values_of(answers, self._schema)

    def evaluate(self, weights: FloatVector, x: npt.NDArray[np.float32], y: Labels) -> dict[str, float]:
        """Figures of merit on labelled rows; keys as in `fedinfer.metrics.figures` or `number_figures`.

        Args:
            weights: (size,) float32.
            x: raw rows (n, width) float32.
            y: labels (n,).

        Returns:
            As `fedinfer.metrics.figures`, or `number_figures` for a numeric label.

        Raises:
            DataError: rows or labels do not fit the schema.
            ConfigError: weights that are not finite, or of another length.
        """
        rows_and_labels(x, y, self._schema)
        answers = self.predict(weights, x)
        return figures(answers, y) if self._schema.label_range is None else number_figures(answers[:, 0], y)

    def module(self, weights: FloatVector, *, native: bool = True) -> Model:
        """A copy of the graph with these weights, in evaluation mode, for export.

        Args:
            weights: (size,) float32.
            native: use one operator for a recurrent layer; the weights then have torch's own names.

        Raises:
            ConfigError: weights that are not finite, or of another length.
        """
        self._load(weights)
        model = copy.deepcopy(self._model)
        if not native:
            return keep_frozen(model, self._free).eval()
        make_native(model)
        return model.requires_grad_(True).eval()

    def _features(self, weights: FloatVector, data: Data, together: int = 0) -> Joined:
        """Prepared rows of all devices, pushed through the layers that stay as they are, `together` at once or all."""
        if next(self._frozen.parameters(), None) is not None:
            self._load(weights)
        else:  # nothing here uses them; engines write them into what they train
            check_weights(weights, self.size)
        raw = joined_rows(data, self._schema)
        with torch.no_grad():
            self._frozen.eval()
            # Copies: where a row lies in memory can matter to rounding.
            pieces = [piece.clone() for piece in raw.x.split(together)] if together and len(raw.x) else [raw.x]
            prepared = [self._frozen(self._model.prepare(piece)) for piece in pieces]
        return Joined(prepared[0] if len(prepared) == 1 else torch.cat(prepared), raw.y, raw.counts)

    def _load(self, weights: FloatVector) -> None:
        check_weights(weights, self.size)
        set_vector(self._model, weights, Tune.ALL)
