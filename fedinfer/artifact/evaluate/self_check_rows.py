"""What a device repeats before it trusts a file, and the histograms that drift is measured against.

All rows are public or synthetic, because they are published in the manifest.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import run
from fedinfer.errors import GateFailed
from fedinfer.manifest import LABEL, MAX_CHECK_VALUES, Reference, Variant, answer_name
from fedinfer.metrics import EVEN, likeliest
from fedinfer.schema import Schema

CheckRows: TypeAlias = npt.NDArray[Any]
"""Raw rows: float32 (k, width), or texts, object (k, 1)."""

_ROWS = 16
_BINS = 10


def choose_rows(
    calibration: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float64], threshold: float = EVEN
) -> npt.NDArray[np.float32]:
    """Up to 16 rows that show every class in turn, the clearest answers first.

    Clear answers keep their class on another processor, where int8 sums may round differently.

    Args:
        calibration: public or synthetic rows, float32 (n, width), n >= 1.
        probabilities: answers of the float model to them, float64 (n, classes), classes >= 2.
        threshold: by which they are decided.

    Returns:
        float32 (k, width); fewer rows where MAX_CHECK_VALUES allows no 16.
    """
    clearest = np.argsort(-_clearness(probabilities, threshold), kind="stable")
    predicted = likeliest(probabilities, None if threshold == EVEN else threshold)
    seen: dict[int, int] = {}
    rank = np.empty(len(calibration), np.int64)  # clearer rows of the same class; sorted by it, the classes alternate
    for row in clearest:
        rank[row] = seen.setdefault(int(predicted[row]), 0)
        seen[int(predicted[row])] += 1
    return calibration[clearest[np.argsort(rank[clearest], kind="stable")][: most_rows(calibration.shape[1])]]


def _clearness(probabilities: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.float64]:
    """How far an answer is from another one: from the next class, or from the threshold by its share of the way."""
    if threshold == EVEN:
        ordered = np.sort(probabilities, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    away = probabilities[:, 1] - threshold
    return np.where(away >= 0, away / (1 - threshold), -away / threshold)


def most_rows(width: int, outputs: int = 1) -> int:
    """Self-check rows of a manifest: 16, fewer where MAX_CHECK_VALUES allows no 16.

    Args:
        width: of a row, >= 1.
        outputs: numbers in an answer, >= 1.
    """
    return max(1, min(_ROWS, MAX_CHECK_VALUES // max(width, outputs)))


def expected_answers(file: bytes, rows: CheckRows, schema: Schema) -> npt.NDArray[np.float32]:
    """Answers of a finished file to the self-check rows as one batch; probabilities are rounded to 6 decimals.

    Args:
        file: finished ONNX file.
        rows: raw self-check rows.
        schema: says what the answer is.

    Returns:
        float32 (k, outputs).

    Raises:
        ArtifactRejected: when onnxruntime cannot load or run the file.
    """
    answers = run(file, rows, answer_name(schema))
    return np.asarray(np.round(answers, 6) if schema.label_range is None else answers, np.float32)


def tolerance_of(variant: str, batch_difference: float) -> float:
    """How far a probability may be off on another machine: integer kernels round differently, float ones hardly.

    Args:
        variant: name of the variant.
        batch_difference: of its figures, in [0, 1]; a device may run the rows in other batches.

    Returns:
        1e-3 for a float or 16-bit file; for int8 0.05 plus twice the batch difference, at most 0.25.
    """
    return 1e-3 if variant != "int8" else min(0.25, 0.05 + 2 * batch_difference)


def check_finished(variant: Variant, file: bytes, rows: CheckRows, schema: Schema, abstain_label: str) -> None:
    """Refuse a finished file whose labels do not follow from its own probabilities.

    Args:
        variant: its entry in the manifest.
        file: the bytes that will be published.
        rows: raw self-check rows.
        schema: gives the label names.
        abstain_label: what the graph answers when it is not sure enough.

    Raises:
        GateFailed: naming the first row with another label, or when the file is not the one that was measured.
    """
    if hashlib.sha256(file).hexdigest() != variant.sha256:
        raise GateFailed(f"{variant.name}: the file changed after it was measured")
    if schema.label_range is not None:
        return
    for place, (label, expected) in enumerate(zip(run(file, rows, LABEL), variant.labels, strict=True)):
        if label not in (schema.labels[expected], abstain_label):
            raise GateFailed(f"{variant.name}: row {place} says {label!r}, expected {schema.labels[expected]!r}")


def reference_of(probabilities: npt.NDArray[np.float32], threshold: float = EVEN) -> Reference:
    """Shares of predicted classes and of confidence in 10 even bins from 1/classes to 1.

    Args:
        probabilities: answers to public rows, float32 (n, classes); n may be 0, which gives an empty reference.
        threshold: by which they are decided.
    """
    rows, classes = probabilities.shape
    if rows == 0:
        return Reference()
    edges = np.linspace(1.0 / classes, 1.0, _BINS + 1)
    confidence = np.clip(probabilities.max(axis=1), edges[0], edges[-1])
    chosen = likeliest(probabilities, None if threshold == EVEN else threshold)
    shares = np.bincount(chosen, minlength=classes) / rows
    counts = np.histogram(confidence, edges)[0] / rows
    return Reference(rows, *(tuple(float(v) for v in part) for part in (shares, edges, counts)))
