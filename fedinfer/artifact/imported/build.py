"""An imported model as files to publish: quantized where the gates allow it and it gets smaller, else as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedinfer.artifact.build import Built, build_from_core
from fedinfer.artifact.evaluate.chosen_file import answers_of
from fedinfer.artifact.evaluate.judging import Judging
from fedinfer.artifact.evaluate.measure import Evidence, Worth
from fedinfer.artifact.export.graph import OnnxModel, OutputHead, finish
from fedinfer.config import ArtifactSection
from fedinfer.ports import Clock
from fedinfer.tensors import places
from fedinfer.types import Json

MOST_ROWS = 256
"""Rows by which the errors of answered tensors are measured."""


@dataclass(frozen=True, slots=True)
class ImportedBuild:
    """A build, and what its owner should know of it.

    Args:
        built: files and figures.
        outputs: of each answered tensor its name and its root mean square and largest error against the model as it
            is, as parts of its range; empty for classes and one number, whose agreement is in the figures.
        note: why the model was not quantized; empty where it was, or where nobody wanted it.
    """

    built: Built
    outputs: tuple[Json, ...]
    note: str


def build_imported(
    core: OnnxModel, head: OutputHead, quantized: bool, evidence: Evidence, settings: ArtifactSection, clock: Clock,
    judging: Judging | None = None,
) -> ImportedBuild:  # fmt: skip
    """Build a model; runs the model in this process.

    Args:
        core: of the model, onnx.ModelProto.
        head: schema, task and version.
        quantized: it works on 8-bit integers already, and stays as it is.
        evidence: rows to judge with.
        settings: limits and the wanted quantization.
        clock: measures latency.
        judging: as `build_from_core` takes it.

    Raises:
        GateFailed, ArtifactRejected, DataError: as `build_from_core`.
    """
    if quantized:
        settings = settings.model_copy(update={"quantization": "float"})
    built = build_from_core(core, head, evidence, settings, clock, judging=judging, worth=Worth.SMALLER)
    note = "" if built.chosen.name == "int8" else _why_not(built, quantized, settings)
    return ImportedBuild(replace(built, way="imported"), _output_errors(core, built, evidence), note)


def _output_errors(core: OnnxModel, built: Built, evidence: Evidence) -> tuple[Json, ...]:
    schema = built.head.schema
    if not schema.answers:
        return ()
    rows = evidence.calibration_x[:MOST_ROWS]
    as_it_is: Any = answers_of(finish(core, built.head), rows, schema).astype(np.float64)
    low, high = schema.ranges()
    off = np.abs(built.answers(rows) - as_it_is) / (high - low)
    return tuple(
        {"name": name, "rms_error": float(np.sqrt((off[:, at] ** 2).mean())), "largest_error": float(off[:, at].max())}
        for name, at in places(schema.answers).items()
    )


def _why_not(built: Built, quantized: bool, settings: ArtifactSection) -> str:
    if quantized:
        return "the model works on 8-bit integers already and is pushed as it is"
    if settings.quantization == "float":
        return ""
    reasons = [
        f"{figures.recipe}: {', '.join(figures.failures) or f'{figures.bytes} bytes, as it is {built.float_bytes}'}"
        for figures in built.tried
        if figures.failures or figures.variant == "int8"
    ]
    what = "as it is" if built.chosen.name == "float" else "with 16-bit weights"
    return f"not quantized to 8 bits, pushed {what}: " + ("; ".join(reasons) or "no scheme is known for its operators")
