"""The parts of a manifest: model files, deltas, reference histograms, privacy statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from fedinfer.errors import ArtifactRejected
from fedinfer.manifest.fields import demand, is_decimal, is_name, is_sha256, items, number, numbers, value_of, whole
from fedinfer.manifest.names import MAX_ARTIFACT_BYTES, MAX_CHECK_ROWS, model_path
from fedinfer.types import Json


class DeltaMethod(StrEnum):
    """How the bytes of a delta become a model file. Both are one zstandard frame with a content size and a checksum."""

    ZSTD = "zstd"
    """Plain frame."""
    ZSTD_PATCH = "zstd-patch"
    """Frame with the old model file as raw-content dictionary."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A smaller way to one model file.

    Args:
        path: target path of the compressed bytes.
        bytes: their length.
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
        sha256, bytes: of the file.
        recipe: how it was made, for instance "static-qdq-s8s8".
        metric: task metric on held-out rows, in [0, 1].
        agreement: share of held-out rows with the same class as the float model, in [0, 1].
        calibration_error: expected calibration error with its own temperature, in [0, 1].
        temperature: divides the logits in the graph, > 0.
        latency_us: median of single predictions on the machine that ran the gates.
        labels: expected class number for every self-check row.
        probabilities: expected probabilities for every self-check row, (rows, classes).
        tolerance: largest absolute difference of a probability that still passes the self-check.
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


@dataclass(frozen=True, slots=True)
class Reference:
    """What the chosen variant predicted on public or held-out rows of the server: the yardstick of drift.

    Args:
        rows: how many rows were predicted.
        classes: share of each predicted class, sums to 1; empty without reference rows.
        edges: increasing inner and outer edges of the confidence bins.
        confidence: share of rows whose largest probability falls in each bin, len(edges) - 1 values.
    """

    rows: int = 0
    classes: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    confidence: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Privacy:
    """The guarantee that covers the training data of this version. Numbers are strings, printed as they were proved.

    Args:
        epsilon, delta: decimal strings; epsilon may be "inf".
        statement: one sentence with unit, relation, accountant and trust model.
    """

    epsilon: str
    delta: str
    statement: str


def read_variant(data: Any) -> Variant:
    """A model file."""
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
    )


def read_delta(data: Any) -> Delta:
    """A delta."""
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
    """Reference histograms."""
    return Reference(
        rows=value_of(data, "rows", int),
        classes=numbers(data.get("classes")),
        edges=numbers(data.get("edges")),
        confidence=numbers(data.get("confidence")),
    )


def read_privacy(data: Json) -> Privacy:
    """The privacy statement."""
    return Privacy(
        epsilon=value_of(data, "epsilon", str),
        delta=value_of(data, "delta", str),
        statement=value_of(data, "statement", str),
    )


def check_variant(variant: Variant, version: int, rows: int, classes: int) -> None:
    """Bounds of one model file of a version with so many self-check rows and classes."""
    demand(is_name(variant.name), f"variant name {variant.name[:80]!r}")
    demand(is_sha256(variant.sha256), f"sha256 of variant {variant.name}")
    demand(1 <= variant.bytes <= MAX_ARTIFACT_BYTES, f"{variant.bytes} bytes, at most {MAX_ARTIFACT_BYTES}")
    paths = (model_path(version), model_path(version, variant.name))
    demand(variant.path in paths, f"path {variant.path[:80]!r} of variant {variant.name}")
    demand(variant.temperature > 0, f"temperature {variant.temperature}")
    demand(0 <= variant.tolerance <= 1, f"tolerance {variant.tolerance} is outside [0, 1]")
    demand(len(variant.labels) == len(variant.probabilities) == rows, f"variant {variant.name}: not {rows} answers")
    demand(all(0 <= label < classes for label in variant.labels), f"variant {variant.name}: label outside {classes}")
    demand(all(len(p) == classes for p in variant.probabilities), f"variant {variant.name}: not {classes} columns")


def check_delta(delta: Delta, version: int, digests: set[str]) -> None:
    """Bounds of one delta of a version whose variants have these digests."""
    demand(delta.to_sha256 in digests, "a delta leads to no variant of this version")
    demand((delta.method is DeltaMethod.ZSTD) == (delta.from_sha256 == ""), f"delta {delta.path[:80]!r}: from_sha256")
    demand(delta.from_sha256 == "" or is_sha256(delta.from_sha256), f"delta {delta.path[:80]!r}: from_sha256")
    demand(1 <= delta.bytes <= MAX_ARTIFACT_BYTES, f"delta of {delta.bytes} bytes, at most {MAX_ARTIFACT_BYTES}")
    demand(bool(re.fullmatch(rf"model/{version}\.[a-z0-9_.-]+\.zst", delta.path)), f"delta path {delta.path[:80]!r}")


def plain(item: Any) -> Json:
    """A flat frozen dataclass as a dictionary; tuples become lists in JSON."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def check_reference(reference: Reference, classes: int) -> None:
    """Bounds of the reference histograms."""
    demand(reference.rows >= 0, f"reference.rows {reference.rows}")
    demand(len(reference.classes) in (0, classes), f"{len(reference.classes)} reference classes")
    demand(all(value >= 0 for value in reference.classes + reference.confidence), "a reference share is negative")
    if reference.edges or reference.confidence:
        demand(len(reference.edges) == len(reference.confidence) + 1, "reference edges do not fit the bins")
        demand(all(a < b for a, b in pairwise(reference.edges)), "edges do not increase")


def check_privacy(privacy: Privacy) -> None:
    """Epsilon and delta are decimal numbers."""
    demand(is_decimal(privacy.epsilon), f"epsilon {privacy.epsilon[:40]!r}")
    demand(is_decimal(privacy.delta), f"delta {privacy.delta[:40]!r}")
