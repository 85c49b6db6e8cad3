"""From a model to files that may be signed: export, quantize, measure, judge, keep what passed.

Rules:
* held-out rows are rows the server may hold; self-check rows and calibration rows are public or synthetic, because
  they are published or become constants of the file;
* the quantization schemes are tried in the order of `schemes.INT8_RECIPES`; the first that keeps all limits is chosen.
  When none does, the 16-bit and then the float file is chosen, and the figures say why;
* each variant gets its own temperature, fitted after quantization; its calibration error is measured on other rows;
* what is judged is what is published: the finished file is measured, byte for byte;
* raw cells are read as in training by whoever reads the schema out of the finished file (`evaluate.replay`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.evaluate.chosen_file import ChosenFile, answers_of
from fedinfer.artifact.evaluate.gates import Figures, limits_of
from fedinfer.artifact.evaluate.judging import Judging, decision_threshold, judging_of
from fedinfer.artifact.evaluate.measure import (
    Baseline,
    Candidate,
    EvaluationContext,
    Evidence,
    Worth,
    search,
    worthwhile,
)
from fedinfer.artifact.evaluate.metrics import instruction_set, softmax
from fedinfer.artifact.evaluate.numbers import interval_of, spread_rows, value_reference
from fedinfer.artifact.evaluate.replay import replay
from fedinfer.artifact.evaluate.self_check_rows import (
    CheckRows,
    check_finished,
    choose_rows,
    expected_answers,
    most_rows,
    reference_of,
    tolerance_of,
)
from fedinfer.artifact.export.graph import LOGITS, OnnxModel, OutputHead, head_of, load, run
from fedinfer.artifact.export.torch import Module, Templates, export_core
from fedinfer.artifact.quantize.compression import Compression
from fedinfer.artifact.quantize.quantize import prepare
from fedinfer.artifact.quantize.schemes import INT8_RECIPES, family_of
from fedinfer.config import ArtifactSection
from fedinfer.errors import GateFailed
from fedinfer.manifest import Delta, Manifest, Privacy, Reference, Variant, model_path
from fedinfer.metrics import EVEN, Metric, likeliest, loss_of
from fedinfer.ports import Clock
from fedinfer.schema import Schema
from fedinfer.text import raw_rows
from fedinfer.types import GraphFamily, Json


@dataclass(frozen=True, slots=True)
class Built:
    """Files that passed, and everything that was measured on the way.

    Args:
        head: schema, task, version and post-processing of all files.
        files: ONNX file per variant name.
        variants: the same files as the manifest describes them, the chosen one first.
        check: self-check rows as a device feeds them, float32 (k, width) or texts (k, 1).
        metric_kind: name of the metric of the task, or "agreement" where it is not known.
        way: "written", "exported" or "swapped", see `CoreOrigin`; "given" for a core that did not come from torch.
        parity: largest relative difference between torch and ONNX; 0 for a given core.
        family: kind of graph.
        tried: figures of every quantization scheme that was tried, the failed ones too; the float model is the first.
        baseline: the float model that all variants were compared with.
        interval: numeric label: half width of its prediction interval, in its unit; 0 without labelled public rows.
        slimming: what compression (pruning and fine-tuning) did, when it was asked for.
        reference: histograms of predictions that drift is measured against.
        isa: machine on which all this was measured.
    """

    head: OutputHead
    files: Mapping[str, bytes]
    variants: tuple[Variant, ...]
    check: CheckRows
    metric_kind: str
    way: str
    parity: float
    family: GraphFamily
    tried: tuple[Figures, ...]
    baseline: Baseline
    reference: Reference
    isa: str
    slimming: Compression | None = None
    interval: float = 0.0

    @property
    def chosen(self) -> Variant:
        """The variant that is pushed."""
        return self.variants[0]

    @property
    def chosen_file(self) -> ChosenFile:
        """Its file, with what is needed to decide by its answers."""
        return ChosenFile(self.files[self.chosen.name], self.head.schema, self.head.threshold)

    def loss_to(self, metric: float) -> float:
        """How much worse another figure is than that of the chosen file; negative when it is better.

        Args:
            metric: of the same kind, `metric_kind`.
        """
        kind = Metric(self.metric_kind) if self.metric_kind != "agreement" else Metric.ACCURACY
        return loss_of(kind, self.chosen.metric, metric)

    @property
    def float_metric(self) -> float:
        """Metric of the float model."""
        return self.baseline.figures.metric

    @property
    def float_bytes(self) -> int:
        """Size of the float file."""
        return self.baseline.figures.bytes

    def answers(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the chosen file answers, float32 (n, outputs): probabilities, or values in the label's unit.

        Args:
            x: rows as training has them, float32 (n, width); n >= 1.

        Raises:
            ArtifactRejected: when onnxruntime cannot run the file.
        """
        return self.chosen_file.answers(x)

    def targets(self) -> dict[str, bytes]:
        """Target path to bytes of all model files."""
        return {variant.path: self.files[variant.name] for variant in self.variants}

    def manifest(
        self, privacy: Privacy, created: str, parent_sha256: str = "", deltas: tuple[Delta, ...] = ()
    ) -> Manifest:
        """The manifest of this version.

        Args:
            privacy: the guarantee that covers the training data.
            created: ISO time in UTC.
            parent_sha256: digest of the chosen variant of the version before; empty for the first.
            deltas: compressed files and patches that are published beside the variants.
        """
        head = self.head
        return Manifest(
            version=head.version,
            task=head.task,
            schema=head.schema,
            variants=self.variants,
            check_rows=tuple(tuple(_shortest(row)) for row in self.check),
            float_metric=self.float_metric,
            metrics={
                self.metric_kind: self.chosen.metric,
                "calibration_error": self.chosen.calibration_error,
                **(self.slimming.numbers() if self.slimming else {}),
            },
            isa=self.isa,
            created=created,
            privacy=privacy,
            parent_sha256=parent_sha256,
            reference=self.reference,
            deltas=deltas,
            abstain_below=head.abstain_below,
            abstain_label=head.abstain_label,
            top=head.top,
            threshold=head.threshold,
            interval=self.interval,
        )

    def to_json(self) -> Json:
        """For reports and `--json`: what was chosen, against the float model, and what was tried."""
        return {
            "version": self.head.version,
            "sha256": self.chosen.sha256,
            "recipe": self.chosen.recipe,
            "variant": self.chosen.name,
            "metric": self.metric_kind,
            "float_metric": self.float_metric,
            "quantized_metric": self.chosen.metric,
            "float_bytes": self.float_bytes,
            "quantized_bytes": self.chosen.bytes,
            "agreement": self.chosen.agreement,
            "calibration_error": self.chosen.calibration_error,
            "temperature": self.chosen.temperature,
            "threshold": self.head.threshold,
            "latency_us": self.chosen.latency_us,
            "export": self.way,
            "parity": self.parity,
            "family": str(self.family),
            "isa": self.isa,
            "slimming": self.slimming.to_json() if self.slimming else None,
            "tried": [figures.to_json() for figures in self.tried],
        }


def build_artifact(
    module: Module,
    head: OutputHead,
    evidence: Evidence,
    settings: ArtifactSection,
    templates: Templates,
    clock: Clock,
    baseline: Baseline | None = None,
    judging: Judging | None = None,
) -> Built:
    """Export a torch module and keep the variants that pass the gates.

    Args:
        module: torch module from raw float32 rows (n, width) with NaN to logits (n, classes).
        head: schema, task, version and post-processing; its temperature is replaced by the fitted ones.
        evidence: rows to judge with.
        settings: limits and the wanted quantization.
        templates: kept by the caller between rounds, so that later exports take milliseconds.
        clock: measures latency; a frozen clock makes it 0.
        baseline: float model to compare with; None = this one.
        judging: metric of the gates, and how answers are decided (the head's threshold is replaced by it); None:
            accuracy, of numbers the root mean squared error, and the likeliest class.

    Raises:
        GateFailed: when ONNX and torch disagree, or not even the float file keeps the limits.
        DataError: when the rows do not fit the schema.
        ConfigError: when the module does not fit the schema or cannot be exported.
    """
    evidence.check(head.schema)
    # Synthetic rows have missing values, held-out rows are typical: the export must agree with torch on both kinds.
    probe = np.concatenate([evidence.calibration_x[:64], evidence.judged_x[:64]])
    core = export_core(module, head.schema, probe, templates)
    built = build_from_core(core.model, head, evidence, settings, clock, baseline, judging)
    return replace(built, way=str(core.way), parity=core.parity)


def build_from_core(
    core: OnnxModel,
    head: OutputHead,
    evidence: Evidence,
    settings: ArtifactSection,
    clock: Clock,
    baseline: Baseline | None = None,
    judging: Judging | None = None,
    worth: Worth = Worth.ANY_SIZE,
) -> Built:
    """As `build_artifact`, for a core that did not come from torch: trees, linear models, a user's own ONNX file.

    Args:
        core: from raw float32 rows (n, width) to float logits (n, classes), see `fedinfer.artifact.export.graph`.
        head: schema, task, version and post-processing; its temperature is replaced by the fitted ones.
        evidence: rows to judge with.
        settings: limits and the wanted quantization.
        clock: measures latency; a frozen clock makes it 0.
        baseline: float model to compare with; None = this one.
        judging: metric of the gates, and how answers are decided (the head's threshold is replaced by it); None:
            accuracy, of numbers the root mean squared error, and the likeliest class.
        worth: which of the variants that pass are kept.

    Raises:
        GateFailed: when not even the float file keeps the limits, or a finished file contradicts itself.
        ArtifactRejected: when onnxruntime cannot run the core.
        DataError: when the rows do not fit the schema.
    """
    evidence.check(head.schema)
    prepared, judging = prepare(core), judging or judging_of(head.schema)
    family = family_of(prepared)
    logits, threshold = (
        (baseline.logits, baseline.threshold) if baseline else _float_answers(prepared, evidence, head.schema, judging)
    )
    head, floating = replace(head, threshold=threshold), baseline.figures if baseline else None
    context = EvaluationContext(head, evidence, limits_of(settings), clock, judging.metric, logits, floating)
    tried, kept = search(prepared, INT8_RECIPES[family] if settings.quantization == "int8" else (), context)
    kept = worthwhile(kept, tried[0].bytes, worth)
    if not kept:
        reasons = "; ".join(f"{figures.recipe}: {', '.join(figures.failures)}" for figures in tried)
        raise GateFailed(f"version {head.version}: no variant passes: {reasons}", hint="see the limits in [artifact]")
    check = raw_rows(head.schema, _check_rows(_logits(prepared, evidence.calibration_x), tried[0], evidence, head))
    variants = tuple(_variant(candidate, head, check, place) for place, candidate in enumerate(kept))
    for candidate in kept:
        replay(head.schema, head_of(load(candidate.file)).schema)
    return Built(
        head=head,
        files={candidate.recipe.variant: candidate.file for candidate in kept},
        variants=variants,
        check=check,
        metric_kind=context.kind,
        way="given",
        parity=0.0,
        family=family,
        tried=tried,
        baseline=baseline or Baseline(tried[0], logits, threshold),
        reference=_reference(kept[0].file, evidence, head),
        isa=instruction_set(),
        interval=_interval(kept[0].file, evidence, head.schema),
    )


def baseline_of(
    core: OnnxModel,
    head: OutputHead,
    evidence: Evidence,
    settings: ArtifactSection,
    clock: Clock,
    judging: Judging | None = None,
) -> Baseline:
    """The float model of a core, measured, so that another one can be compared with it.

    Args:
        core: float core, see `fedinfer.artifact.export.graph`.
        head: schema, task, version and post-processing; its temperature is replaced by the fitted one.
        evidence: the rows that the other model will be judged with.
        settings: limits; a broken one is noted in the figures and stops nothing.
        clock: measures latency.
        judging: metric of the gates, and how answers are decided (the head's threshold is replaced by it); None:
            accuracy, of numbers the root mean squared error, and the likeliest class.

    Raises:
        GateFailed: when a logit is not finite.
        ArtifactRejected: when onnxruntime cannot run the core.
        DataError: when the rows do not fit the schema.
    """
    evidence.check(head.schema)
    prepared, judging = prepare(core), judging or judging_of(head.schema)
    logits, threshold = _float_answers(prepared, evidence, head.schema, judging)
    head = replace(head, threshold=threshold)
    context = EvaluationContext(head, evidence, limits_of(settings), clock, judging.metric, logits)
    return Baseline(search(prepared, (), context)[0][0], logits, threshold)


def _float_answers(
    core: OnnxModel, evidence: Evidence, schema: Schema, judging: Judging
) -> tuple[npt.NDArray[np.float64], float]:
    """The float model's logits of the judged rows, and the threshold by which it and its variants decide."""
    logits = _logits(core, evidence.judged_x)
    chooses = judging.threshold == "public" and len(evidence.reference_x)
    public = _logits(core, evidence.reference_x) if chooses else logits[:0]
    return logits, decision_threshold(judging, evidence, schema, logits, public)


def _logits(core: OnnxModel, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return run(core.SerializeToString(), x, LOGITS).astype(np.float64)


def _check_rows(
    outputs: npt.NDArray[np.float64], floating: Figures, evidence: Evidence, head: OutputHead
) -> npt.NDArray[np.float32]:
    if head.schema.label_range is not None:
        return spread_rows(evidence.calibration_x, outputs, most_rows(head.schema.width, head.schema.outputs))
    return choose_rows(evidence.calibration_x, softmax(outputs, floating.temperature), head.threshold)


def _reference(file: bytes, evidence: Evidence, head: OutputHead) -> Reference:
    if head.schema.answers:
        return Reference()
    answers = answers_of(file, evidence.reference_x, head.schema)
    if head.schema.label_range is not None:
        return value_reference(answers[:, 0], head.schema)
    return reference_of(answers, head.threshold)


def _interval(file: bytes, evidence: Evidence, schema: Schema) -> float:
    y = evidence.reference_y
    if schema.label_range is None or schema.answers or not len(y) or not evidence.unseen:
        return 0.0
    return interval_of(answers_of(file, evidence.reference_x, schema)[:, 0], y, schema)


def _shortest(values: npt.NDArray[Any]) -> list[Any]:
    """Values as the manifest holds them: float32 in as few digits as tell it apart, texts as they are."""
    return [float(str(value)) for value in values] if values.dtype == np.float32 else list(values.tolist())


def _variant(candidate: Candidate, head: OutputHead, check: CheckRows, place: int) -> Variant:
    figures, answers = candidate.figures, expected_answers(candidate.file, check, head.schema)
    number = head.schema.label_range is not None
    variant = Variant(
        name=figures.variant,
        path=model_path(head.version, figures.variant if place else ""),
        sha256=hashlib.sha256(candidate.file).hexdigest(),
        bytes=len(candidate.file),
        recipe=figures.recipe,
        metric=figures.metric,
        agreement=figures.agreement,
        calibration_error=figures.calibration_error,
        temperature=figures.temperature,
        latency_us=figures.latency_us,
        labels=() if number else tuple(likeliest(answers, None if head.threshold == EVEN else head.threshold).tolist()),
        probabilities=() if number else tuple(tuple(round(float(p), 6) for p in row) for row in answers),
        tolerance=tolerance_of(figures.variant, figures.batch_difference),
        values=tuple(_shortest(answers.ravel())) if number else (),
    )
    check_finished(variant, candidate.file, check, head.schema, head.abstain_label)
    return variant
