"""Tries quantization schemes on one core and measures each on the same rows.

Labels are used where the server holds enough of them. Otherwise the float model's answers stand in: the metric is then
the agreement with it, the temperature is fitted to its probabilities, and the calibration error is the mean
difference of confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.evaluate import numbers
from fedinfer.artifact.evaluate.gates import Figures, Limits, judge
from fedinfer.artifact.evaluate.metrics import (
    Floats,
    Rows,
    calibration_error,
    fit_temperature,
    latency_us,
    one_hot,
    softmax,
)
from fedinfer.artifact.export.graph import LOGITS, OnnxModel, OutputHead, finish, run, tokens_in
from fedinfer.artifact.quantize.quantize import apply
from fedinfer.artifact.quantize.schemes import FLOAT, FP16, Scheme
from fedinfer.errors import ArtifactRejected, DataError, GateFailed
from fedinfer.manifest import answer_name
from fedinfer.metrics import EVEN, Metric, class_score, likeliest, loss_of, number_score
from fedinfer.ports import Clock
from fedinfer.schema import BREAKS, MARKS, Schema
from fedinfer.text import AWKWARD, raw_rows, tokens

_FEWEST_LABELLED = 20  # with fewer rows a temperature fitted to labels is noise
_ALONE = 32  # rows that are predicted one by one
_WORTHWHILE = 0.9  # a file must be a tenth smaller to end the search; the schema inside does not shrink


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows for judging a model.

    Args:
        held_x, held_y: held-out rows the server may hold, float32 (n, width) and labels (n,): int64 class numbers, or
            float64 values; n may be 0.
        calibration_x: public or synthetic rows, float32 (m, width), m >= 2; never from a device: some of them are
            published as self-check inputs, and their ranges become constants of the file.
        reference_x: public rows whose predictions become the reference of drift, float32 (k, width); k may be 0.
        reference_y: their labels, from which a decision threshold is chosen and, where `unseen`, the interval of a
            numeric label; (k,), or (0,): not known.
        unseen: whether no training saw the reference rows.
    """

    held_x: Rows
    held_y: npt.NDArray[Any]
    calibration_x: Rows
    reference_x: Rows
    reference_y: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, np.int64))
    unseen: bool = True

    @property
    def labelled(self) -> bool:
        """True when there are enough labels to judge by."""
        return len(self.held_y) >= _FEWEST_LABELLED

    @property
    def judged_x(self) -> Rows:
        """The rows that figures are measured on."""
        return self.held_x if len(self.held_x) else self.calibration_x

    def check(self, schema: Schema) -> None:
        """Refuse rows that do not fit the schema.

        Args:
            schema: of the model to judge.

        Raises:
            DataError: when a dtype or shape is wrong, there are fewer than 2 calibration rows, or a label is no class
                number of the schema.
        """
        for name in ("held_x", "calibration_x", "reference_x"):
            rows = getattr(self, name)
            if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != schema.width:
                raise DataError(f"{name}: {rows.dtype} {rows.shape}, expected float32 (n, {schema.width})")
        if len(self.calibration_x) < 2:
            raise DataError(f"{len(self.calibration_x)} calibration rows, at least 2 are needed")
        if self.held_y.shape != (len(self.held_x),):
            raise DataError(f"{len(self.held_x)} held-out rows, labels {self.held_y.shape}")
        if len(self.reference_y) not in (0, len(self.reference_x)):
            raise DataError(f"{len(self.reference_x)} public rows, {len(self.reference_y)} labels")
        if schema.label_range is not None:
            if not np.isfinite(self.held_y.astype(np.float64)).all():
                raise DataError("a held-out label is not finite")
        elif len(self.held_y) and not (self.held_y.min() >= 0 and self.held_y.max() < schema.classes):
            raise DataError(f"a held-out label lies outside [0, {schema.classes})")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant that could be made.

    Args:
        recipe: the scheme it was made by.
        file: finished ONNX file, as it would be published.
        figures: what was measured of that file.
    """

    recipe: Scheme
    file: bytes
    figures: Figures


@dataclass(frozen=True, slots=True)
class Baseline:
    """The float model that variants are compared with.

    Args:
        figures: what was measured of it.
        logits: its answers to the judged rows, float64 (n, classes).
        threshold: by which it and its variants decide, in (0, 1).
    """

    figures: Figures
    logits: Floats
    threshold: float = EVEN


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What all variants of one build are measured with.

    Args:
        head, evidence, limits, clock: of the build.
        metric: of classes, by which it is judged.
        float_logits: answers of the float model that variants are compared with, float64 (n, classes).
        floating: its figures; None when it is the model under test, whose figures come first.
    """

    head: OutputHead
    evidence: Evidence
    limits: Limits
    clock: Clock
    metric: Metric
    float_logits: Floats
    floating: Figures | None = None

    def chosen(self, logits: Floats, temperature: float) -> npt.NDArray[np.int64]:
        """Answers to the judged rows, int64 (n,), by the threshold of the build.

        Args:
            logits: (n, classes).
            temperature: > 0.
        """
        threshold = self.head.threshold
        return likeliest(softmax(logits, temperature), None if threshold == EVEN else threshold)

    @property
    def kind(self) -> str:
        """What `metric` in the figures is: the metric of the task, or the agreement where that is not known."""
        return "agreement" if self.score(self.float_logits, 1.0) is None else str(self.metric)

    def score(self, logits: Floats, temperature: float) -> float | None:
        """The metric of the task on labelled rows; None without any, or where it is not defined.

        Args:
            logits: (n, classes).
            temperature: > 0.
        """
        y, schema = self.evidence.held_y, self.head.schema
        if not len(y):
            return None
        if schema.label_range is not None:
            return number_score(self.metric, numbers.values_of(logits, schema), y)
        return class_score(self.metric, softmax(logits, temperature), self.chosen(logits, temperature), y)


def search(
    prepared: OnnxModel, wanted: Sequence[Scheme], context: EvaluationContext
) -> tuple[tuple[Figures, ...], tuple[Candidate, ...]]:
    """Measure the float model, then the wanted schemes until one passes and is a tenth smaller, then 16 bits.

    Args:
        prepared: float core of `prepare`.
        wanted: int8 schemes in the order of preference; empty when only float is wanted.
        context: how to measure.

    Returns:
        Figures of everything that was tried, and what passed, best first.

    Raises:
        GateFailed: when a logit of the float model is not finite, or the tokenizer of its graph differs from that of
            training. The same of a scheme is a failure in its figures.
        ArtifactRejected: when onnxruntime cannot run the float core.
    """
    floating = _measure(FLOAT, prepared, context, context.floating)
    tried, kept = [floating.figures], []
    for group in (wanted, (FP16,) if wanted else ()):  # 16 bits also where int8 passed: a device may measure both
        best = _best(group, prepared, context, context.floating or floating.figures, tried)
        kept += [best] if best else []
    return tuple(tried), tuple(kept + [floating] * floating.figures.passed)


class Worth(StrEnum):
    """Which variants that pass the gates are kept."""

    ANY_SIZE = "any size"
    SMALLER = "smaller"  # than the float file, which is kept too


def worthwhile(kept: tuple[Candidate, ...], float_bytes: int, worth: Worth) -> tuple[Candidate, ...]:
    """The variants to keep.

    Args:
        kept: of `search`.
        float_bytes: size of the float file.
        worth: what to ask of a variant.
    """
    match worth:
        case Worth.ANY_SIZE:
            return kept
        case Worth.SMALLER:
            return tuple(item for item in kept if item.recipe is FLOAT or item.figures.bytes < float_bytes)
        case _:
            assert_never(worth)


def _best(
    schemes: Sequence[Scheme], prepared: OnnxModel, context: EvaluationContext, floating: Figures, tried: list[Figures]
) -> Candidate | None:
    """The first scheme that passes and is a tenth smaller than the float file, else the smallest that passes."""
    passed: list[Candidate] = []
    for recipe in schemes:
        candidate = _try(recipe, prepared, context, floating, tried)
        passed += [candidate] if candidate else []
        if candidate and candidate.figures.bytes <= _WORTHWHILE * floating.bytes:
            return candidate
    return min(passed, key=lambda candidate: candidate.figures.bytes, default=None)


def _try(
    recipe: Scheme, prepared: OnnxModel, context: EvaluationContext, floating: Figures, tried: list[Figures]
) -> Candidate | None:
    try:
        candidate = _measure(recipe, apply(recipe, prepared, context.evidence.calibration_x), context, floating)
    except ArtifactRejected as error:
        tried.append(Figures(recipe.name, recipe.variant, failures=(str(error),)))
        return None
    tried.append(candidate.figures)
    return candidate if candidate.figures.passed else None


def _measure(recipe: Scheme, core: OnnxModel, context: EvaluationContext, floating: Figures | None) -> Candidate:
    evidence = context.evidence
    logits = run(core.SerializeToString(), evidence.judged_x, LOGITS).astype(np.float64)
    if not np.isfinite(logits).all():
        raise GateFailed(f"{recipe.name}: {int((~np.isfinite(logits)).sum())} logits are not finite")
    temperature, error = calibrate(logits, context.evidence, context.float_logits, context.head.schema)
    agreed = _agreement(logits, temperature, context)
    score = context.score(logits, temperature)
    metric = agreed if score is None else score
    file = finish(core, replace(context.head, temperature=temperature))
    raw = raw_rows(context.head.schema, evidence.judged_x[:_ALONE])
    _check_tokenizer(file, context.head.schema)
    figures = Figures(
        recipe=recipe.name,
        variant=recipe.variant,
        bytes=len(file),
        metric=metric,
        metric_drop=_drop(context, floating, metric),
        agreement=agreed,
        calibration_error=error,
        temperature=temperature,
        batch_difference=batch_difference(file, raw, context.head.schema),
        latency_us=latency_us(file, raw[0], context.clock, answer_name(context.head.schema)),
    )
    baseline = floating.calibration_error if floating else error
    return Candidate(recipe, file, replace(figures, failures=judge(figures, baseline, context.limits)))


def _agreement(logits: Floats, temperature: float, context: EvaluationContext) -> float:
    """Share of rows that get the answer of the float model, each with its own temperature."""
    if context.head.schema.label_range is not None:
        return numbers.closeness(logits, context.float_logits)
    of_float, _ = calibrate(context.float_logits, context.evidence, context.float_logits, context.head.schema)
    return float((context.chosen(logits, temperature) == context.chosen(context.float_logits, of_float)).mean())


def _drop(context: EvaluationContext, floating: Figures | None, metric: float) -> float:
    """Loss of the metric; an error in the label's unit counts as a part of its range."""
    if floating is None:
        return 0.0
    if context.kind == "agreement":
        return floating.metric - metric
    lost = loss_of(context.metric, floating.metric, metric)
    return lost / numbers.width_of(context.head.schema) if context.metric.has_unit else lost


def calibrate(logits: Floats, evidence: Evidence, float_logits: Floats, schema: Schema) -> tuple[float, float]:
    """Temperature, and the calibration error with it: fitted on every second row, measured on the others.

    Args:
        logits: of the model to calibrate on the judged rows, (n, outputs).
        evidence: with enough labels, or
        float_logits: else, the float model's answers stand in for them.
        schema: a number has no temperature.

    Returns:
        Temperature in [0.2, 20], and the expected calibration error; without labels the mean difference of confidence.
    """
    y = evidence.held_y
    if schema.label_range is not None:
        return 1.0, numbers.bias(logits, float_logits)
    if evidence.labelled:
        # Measured on the rows it was fitted to, the error would be too small.
        temperature = fit_temperature(logits[::2], one_hot(y[::2], logits.shape[1]))
        return temperature, calibration_error(softmax(logits[1::2], temperature), y[1::2])
    target = softmax(float_logits)
    temperature = fit_temperature(logits, target)
    return temperature, float(np.abs(softmax(logits, temperature).max(axis=1) - target.max(axis=1)).mean())


def _check_tokenizer(file: bytes, schema: Schema) -> None:
    """Refuse a graph that reads some text otherwise than training does."""
    if schema.text is None:
        return
    listed = schema.text.vocabulary[:_ALONE]
    texts = [*AWKWARD, *(f"{mark}{word}{mark} {word.upper()}" for word in listed for mark in MARKS + BREAKS)]
    different = np.flatnonzero((tokens_in(file, texts) != tokens(texts, schema.text)).any(axis=1))
    if different.size:
        raise GateFailed(
            f"the tokenizer of the graph differs from that of training on {different.size} of {len(texts)} texts, "
            f"first {texts[different[0]][:60]!r}"
        )


def batch_difference(file: bytes, rows: npt.NDArray[Any], schema: Schema) -> float:
    """Largest change of an answer when rows are predicted one by one instead of together, in [0, 1].

    Of a probability; of a number as a part of its range.

    Dynamic quantization takes its scale from the whole batch, so a row's answer depends on its neighbours.

    Args:
        file: finished ONNX file.
        rows: raw rows, float32 (n, width) or texts, object (n, 1); n >= 1.
        schema: says what the answer is.

    Raises:
        ArtifactRejected: when onnxruntime cannot load or run the file.
    """
    output, (low, high) = answer_name(schema), schema.ranges()
    return float((np.abs(run(file, rows, output) - run(file, rows, output, batch=1)) / (high - low)).max())
