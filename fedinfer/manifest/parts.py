"""The parts of a manifest: model files, deltas, reference histograms, privacy statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ArtifactRejected
from fedinfer.manifest.fields import demand, is_decimal, is_name, is_sha256, items, number, numbers, value_of, whole
from fedinfer.manifest.names import MAX_ARTIFACT_BYTES, MAX_CHECK_ROWS, model_path
from fedinfer.manifest.statement import Statement, read_statement
from fedinfer.schema import Schema
from fedinfer.types import Json


class DeltaMethod(StrEnum):
    """How the bytes of a delta become a model file.

    Both are one zstandard frame with a content size and a checksum (RFC 8878, section 3.1.1).
    """

    ZSTD = "zstd"
    """Plain frame."""
    ZSTD_PATCH = "zstd-patch"
    """Frame with the old model file as raw-content dictionary."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A smaller download that expands to one model file.

    Args:
        path: target path of the compressed bytes.
        bytes: length of the compressed file, in [1, MAX_ARTIFACT_BYTES].
        method: how to decompress them.
        from_sha256: digest of the file the patch starts from; empty for ZSTD.
        to_sha256: digest of the result, one of the variants of this manifest.
    """

    path: str
    bytes: int
    method: DeltaMethod
    from_sha256: str
    to_sha256: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One model file.

    Args:
        name: "int8", "float" or "fp16".
        path: target path.
        sha256: digest of the file, 64 hexadecimal digits.
        bytes: length of the file, in [1, MAX_ARTIFACT_BYTES].
        recipe: name of the quantization scheme, for instance "static-qdq-s8s8".
        metric: task metric on held-out rows: in [0, 1], or an error in the unit of a numeric label.
        agreement: share of held-out rows with the same class (or nearly the same value) as the float model, in [0, 1].
        calibration_error: expected calibration error with its own temperature, in [0, 1]; of a numeric label the mean
            difference to the float model as a part of the range.
        temperature: divides the logits in the graph, > 0.
        latency_us: median of single predictions on the machine that ran the gates, microseconds.
        labels: expected class number for every self-check row.
        probabilities: expected probabilities for every self-check row, (rows, classes).
        tolerance: largest absolute difference of a probability that still passes the self-check, in [0, 1]; of a
            numeric label the largest difference as a part of its range.
        values: expected values of a numeric label for every self-check row, in its unit, or all values of the answered
            tensors, row by row; `labels` and `probabilities` are then empty.
    """

    name: str
    path: str
    sha256: str
    bytes: int
    recipe: str
    metric: float
    agreement: float
    calibration_error: float
    temperature: float
    latency_us: float
    labels: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]
    tolerance: float
    values: tuple[float, ...] = ()

    def answers(self, outputs: int) -> npt.NDArray[np.float32]:
        """Expected answers to the self-check rows: probabilities (rows, classes), or values (rows, outputs).

        Args:
            outputs: numbers that the schema wants for a row.
        """
        if self.values:
            return np.array(self.values, np.float32).reshape(-1, outputs)
        return np.array(self.probabilities, np.float32)

    def to_json(self) -> Json:
        """A JSON object that `read_variant` reads back; `values` only where there are any."""
        found = plain(self)
        if not self.values:
            del found["values"]
        return found


@dataclass(frozen=True, slots=True)
class Reference:
    """What the chosen variant predicted on public or held-out rows of the server; drift is measured against it.

    Args:
        rows: how many rows were predicted, >= 0.
        classes: share of each predicted class, sums to 1; empty without reference rows.
        edges: increasing inner and outer edges of the confidence bins.
        confidence: share of rows whose largest probability falls in each bin, len(edges) - 1 values; of a numeric
            label the share of rows whose value falls in each bin of its range, without `classes`.
    """

    rows: int = 0
    classes: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    confidence: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Privacy:
    """The guarantee that covers the training data of this version. Numbers are strings, printed as they were proved.

    Args:
        epsilon, delta: of (epsilon, delta)-differential privacy, as non-negative decimal strings; epsilon may be "inf".
            What was spent when the version was made.
        sentence: one line with unit of privacy, neighbouring relation, accountant and trust model.
        statement: of the whole run; None: nobody claims anything, or the manifest has format 1.
    """

    epsilon: str
    delta: str
    sentence: str
    statement: Statement | None = None

    def to_json(self) -> Json:
        """A JSON object that `read_privacy` reads back."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "sentence": self.sentence,
            "statement": None if self.statement is None else self.statement.to_json(),
        }


NO_CLAIM = Privacy("inf", "1", "no privacy guarantee was stated")
"""Of a model file whose training nobody made a statement about."""


def read_variant(data: Any) -> Variant:
    """Read one model file's entry; `check_variant` checks its bounds.

    Args:
        data: any decoded JSON value; untrusted.

    Raises:
        ArtifactRejected: when a field is missing or has the wrong type.
    """
    return Variant(
        name=value_of(data, "name", str),
        path=value_of(data, "path", str),
        sha256=value_of(data, "sha256", str),
        bytes=value_of(data, "bytes", int),
        recipe=value_of(data, "recipe", str),
        metric=number(data, "metric"),
        agreement=number(data, "agreement"),
        calibration_error=number(data, "calibration_error"),
        temperature=number(data, "temperature"),
        latency_us=number(data, "latency_us"),
        labels=items(data, "labels", whole, MAX_CHECK_ROWS),
        probabilities=items(data, "probabilities", numbers, MAX_CHECK_ROWS),
        tolerance=number(data, "tolerance"),
        values=numbers(data["values"]) if "values" in data else (),
    )


def read_delta(data: Any) -> Delta:
    """Read one delta's entry; `check_delta` checks its bounds.

    Args:
        data: any decoded JSON value; untrusted.

    Raises:
        ArtifactRejected: when a field is missing or has the wrong type, or the method is unknown.
    """
    try:
        method = DeltaMethod(value_of(data, "method", str))
    except ValueError as error:
        raise ArtifactRejected(f"manifest: {error}") from error
    return Delta(
        path=value_of(data, "path", str),
        bytes=value_of(data, "bytes", int),
        method=method,
        from_sha256=value_of(data, "from_sha256", str),
        to_sha256=value_of(data, "to_sha256", str),
    )


def read_reference(data: Json) -> Reference:
    """Read the reference histograms; `check_reference` checks their bounds.

    Args:
        data: JSON object; untrusted.

    Raises:
        ArtifactRejected: when a field is missing or has the wrong type.
    """
    return Reference(
        rows=value_of(data, "rows", int),
        classes=numbers(data.get("classes")),
        edges=numbers(data.get("edges")),
        confidence=numbers(data.get("confidence")),
    )


def read_privacy(data: Json, form: int) -> Privacy:
    """Read the privacy section; `check_privacy` checks its numbers.

    Args:
        data: JSON object; untrusted.
        form: format of the manifest; in format 1 `statement` is the sentence and there is nothing else.

    Raises:
        ArtifactRejected: when a field is missing or has the wrong type.
    """
    epsilon, delta = value_of(data, "epsilon", str), value_of(data, "delta", str)
    if form == 1:
        return Privacy(epsilon, delta, value_of(data, "statement", str))
    demand("statement" in data, "privacy.statement is missing")
    found = None if data["statement"] is None else read_statement(data["statement"])
    return Privacy(epsilon, delta, value_of(data, "sentence", str), found)


def check_variant(variant: Variant, version: int, rows: int, schema: Schema) -> None:
    """Check the bounds of one model file's entry.

    Args:
        variant: as read.
        version: of the manifest, which fixes the path.
        rows: number of self-check rows, each of which needs an expected answer.
        schema: gives the length and the range of every expected answer.

    Raises:
        ArtifactRejected: naming the first broken rule.
    """
    demand(is_name(variant.name), f"variant name {variant.name[:80]!r}")
    demand(is_sha256(variant.sha256), f"sha256 of variant {variant.name}")
    demand(1 <= variant.bytes <= MAX_ARTIFACT_BYTES, f"{variant.bytes} bytes, at most {MAX_ARTIFACT_BYTES}")
    paths = (model_path(version), model_path(version, variant.name))  # a path is no free text: devices fetch it
    demand(variant.path in paths, f"path {variant.path[:80]!r} of variant {variant.name}")
    demand(variant.temperature > 0, f"temperature {variant.temperature}")
    demand(0 <= variant.tolerance <= 1, f"tolerance {variant.tolerance} is outside [0, 1]")
    if schema.label_range is not None:
        return _check_values(variant, rows, schema, schema.label_range)
    classes = schema.classes
    demand(not variant.values, f"variant {variant.name}: values of a label that is no number")
    demand(len(variant.labels) == len(variant.probabilities) == rows, f"variant {variant.name}: not {rows} answers")
    demand(all(0 <= label < classes for label in variant.labels), f"variant {variant.name}: label outside {classes}")
    demand(all(len(p) == classes for p in variant.probabilities), f"variant {variant.name}: not {classes} columns")


def _check_values(variant: Variant, rows: int, schema: Schema, bounds: tuple[float, float]) -> None:
    what = f"variant {variant.name}"
    demand(not variant.labels and not variant.probabilities, f"{what}: classes of a label that is a number")
    demand(len(variant.values) == rows * schema.outputs, f"{what}: not {rows} answers of {schema.outputs} values")
    if schema.answers:  # tensors are not clipped: their range places them and promises nothing
        return
    slack = 1e-5 * (bounds[1] - bounds[0])  # the graph computes in float32
    demand(all(bounds[0] - slack <= v <= bounds[1] + slack for v in variant.values), f"{what}: value outside {bounds}")


def check_delta(delta: Delta, version: int, digests: set[str]) -> None:
    """Check the bounds of one delta's entry.

    Args:
        delta: as read.
        version: of the manifest, which fixes the beginning of the path.
        digests: SHA-256 of this version's variants, one of which must be the result.

    Raises:
        ArtifactRejected: naming the first broken rule.
    """
    demand(delta.to_sha256 in digests, "a delta leads to no variant of this version")
    demand((delta.method is DeltaMethod.ZSTD) == (delta.from_sha256 == ""), f"delta {delta.path[:80]!r}: from_sha256")
    demand(delta.from_sha256 == "" or is_sha256(delta.from_sha256), f"delta {delta.path[:80]!r}: from_sha256")
    demand(1 <= delta.bytes <= MAX_ARTIFACT_BYTES, f"delta of {delta.bytes} bytes, at most {MAX_ARTIFACT_BYTES}")
    demand(bool(re.fullmatch(rf"model/{version}\.[a-z0-9_.-]+\.zst", delta.path)), f"delta path {delta.path[:80]!r}")


def plain(item: Any) -> Json:
    """A flat frozen dataclass as a dictionary; tuples become lists in JSON.

    Args:
        item: instance of a dataclass whose fields hold only numbers, strings and tuples of them.
    """
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def check_reference(reference: Reference, classes: int) -> None:
    """Check that the histograms fit together; that shares sum to 1 is not checked.

    Args:
        reference: as read.
        classes: number of labels, which is the number of class shares where there are any.

    Raises:
        ArtifactRejected: naming the first broken rule.
    """
    demand(reference.rows >= 0, f"reference.rows {reference.rows}")
    demand(len(reference.classes) in (0, classes), f"{len(reference.classes)} reference classes")
    demand(all(value >= 0 for value in reference.classes + reference.confidence), "a reference share is negative")
    if reference.edges or reference.confidence:
        demand(len(reference.edges) == len(reference.confidence) + 1, "reference edges do not fit the bins")
        demand(all(a < b for a, b in pairwise(reference.edges)), "edges do not increase")


def check_privacy(privacy: Privacy) -> None:
    """Check that epsilon and delta are non-negative decimal numbers or "inf".

    Args:
        privacy: as read.

    Raises:
        ArtifactRejected: when one is not.
    """
    demand(is_decimal(privacy.epsilon), f"epsilon {privacy.epsilon[:40]!r}")
    demand(is_decimal(privacy.delta), f"delta {privacy.delta[:40]!r}")
