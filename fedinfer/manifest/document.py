"""The manifest itself; the package docstring describes the files it speaks of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ArtifactRejected, ConfigError
from fedinfer.manifest.fields import (
    demand,
    demand_plain,
    finite,
    is_name,
    is_sha256,
    items,
    no_constant,
    number,
    row,
    value_of,
)
from fedinfer.manifest.names import (
    FORMAT,
    FORMATS,
    MAX_CHECK_ROWS,
    MAX_CHECK_VALUES,
    MAX_CLASSES,
    MAX_DELTAS,
    MAX_MANIFEST_BYTES,
    MAX_VARIANTS,
    MAX_VERSION,
    model_path,
)
from fedinfer.manifest.parts import (
    Delta,
    Privacy,
    Reference,
    Variant,
    check_delta,
    check_privacy,
    check_reference,
    check_variant,
    plain,
    read_delta,
    read_privacy,
    read_reference,
    read_variant,
)
from fedinfer.metrics import EVEN
from fedinfer.schema import Schema
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a device and an auditor need to know about one published version.

    Args:
        version: 1, 2, ... up to MAX_VERSION; a device refuses a smaller one than it has.
        task: name of the task, 1 to 64 of a-z, 0-9, _ and -.
        schema: inputs, and 2 to MAX_CLASSES labels, or the range of a numeric label.
        variants: model files, the chosen one first; at most MAX_VARIANTS.
        check_rows: 1 to MAX_CHECK_ROWS self-check inputs, raw values of one row each, NaN = missing, or one text.
        float_metric: task metric of the float model before quantization: in [0, 1], or an error in the label's unit.
        metrics: further figures of the chosen variant on held-out rows, finite.
        isa: machine and vector instructions on which the gates ran, for instance "x86_64 avx2".
        created: ISO time, UTC.
        parent_sha256: digest of the chosen variant of the version before, 64 hexadecimal digits; empty for the first.
        privacy: the guarantee that covers the training data.
        reference: histograms of predictions that drift is measured against.
        deltas: compressed files and patches that expand to the variants, at most MAX_DELTAS.
        abstain_below: in [0, 1]; the graph answers `abstain_label` when the largest probability is below it; 0 = never.
        abstain_label: the text it answers then.
        top: the optional output TOP lists this many classes, at most all of them; 0 = no such output.
        threshold: for two classes, in (0, 1): class 1 is answered from this probability on; 0.5 = the likeliest class.
        interval: numeric label: half width of the interval that holds COVERAGE of the rows, in its unit; 0 = unknown.
    """

    version: int
    task: str
    schema: Schema
    variants: tuple[Variant, ...]
    check_rows: tuple[tuple[float, ...] | tuple[str, ...], ...]
    float_metric: float
    metrics: Mapping[str, float]
    isa: str
    created: str
    privacy: Privacy
    parent_sha256: str = ""
    reference: Reference = field(default_factory=Reference)
    deltas: tuple[Delta, ...] = ()
    abstain_below: float = 0.0
    abstain_label: str = "abstain"
    top: int = 0
    threshold: float = EVEN
    interval: float = 0.0

    @property
    def kind(self) -> str:
        """Kind of the task."""
        return self.schema.kind

    @property
    def chosen(self) -> Variant:
        """The variant the gates chose."""
        return self.variants[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the class numbers."""
        return self.schema.labels

    def variant(self, name: str) -> Variant:
        """Look a variant up.

        Args:
            name: of the variant, for instance "int8".

        Raises:
            ArtifactRejected: when this version has none of that name.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise ArtifactRejected(f"version {self.version} has no variant {name!r}", hint=f"it has {self._names()}")

    def check_matrix(self) -> npt.NDArray[Any]:
        """The self-check inputs as the graph takes them: float32 (rows, width), or texts as object (rows, 1)."""
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the reader of rows refuses
            return np.array(self.check_rows, np.float32 if self.schema.text is None else object)

    def to_json(self) -> Json:
        """A JSON object that `from_json` reads back."""
        number = {} if self.schema.label_range is None else {"kind": self.kind, "interval": self.interval}
        return number | {
            "format": FORMAT,
            "version": self.version,
            "task": self.task,
            "created": self.created,
            "parent_sha256": self.parent_sha256,
            "schema": self.schema.to_json(),
            "privacy": self.privacy.to_json(),
            "variants": [variant.to_json() for variant in self.variants],
            "deltas": [plain(delta) for delta in self.deltas],
            "float_metric": self.float_metric,
            "metrics": dict(self.metrics),
            "isa": self.isa,
            "check_rows": [[None if v != v else v for v in row] for row in self.check_rows],  # NaN is null
            "reference": plain(self.reference),
            "abstain_below": self.abstain_below,
            "abstain_label": self.abstain_label,
            "top": self.top,
            "threshold": self.threshold,
        }

    def to_bytes(self) -> bytes:
        """The bytes that are signed: JSON with sorted keys.

        Raises:
            ArtifactRejected: when a field breaks a bound.
            ConfigError: when a number is not finite, or the result is larger than MAX_MANIFEST_BYTES.
        """
        _check(self)
        document = self.to_json()
        try:
            data = json.dumps(document, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            raise ConfigError(f"manifest of version {self.version}: {error}") from error
        _demand_plain(document)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ConfigError(f"manifest of {len(data)} bytes, at most {MAX_MANIFEST_BYTES}", hint="fewer check rows")
        return data

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        """Read and check what `to_bytes` wrote.

        Args:
            data: UTF-8 JSON, at most MAX_MANIFEST_BYTES; untrusted even when its signature holds.

        Raises:
            ArtifactRejected: for anything else, with the field and the rule.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise ArtifactRejected(f"manifest of {len(data)} bytes, at most {MAX_MANIFEST_BYTES}")
        try:
            document = json.loads(data.decode(), parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            raise ArtifactRejected(f"manifest is not JSON: {error}") from error
        return Manifest.from_json(document)

    @staticmethod
    def from_json(data: Any) -> Manifest:
        """Inverse of `to_json`.

        Args:
            data: any decoded JSON value; untrusted.

        Raises:
            ArtifactRejected: when a field is missing, has the wrong type or breaks a bound, or for another format.
        """
        found = value_of(data, "format", int)
        if found not in FORMATS:
            read = " and ".join(map(str, FORMATS))
            raise ArtifactRejected(f"manifest format {found}, this program reads {read}", hint="update fedinfer")
        _demand_plain(data)
        manifest = _read(data, found)
        demand(data.get("kind", manifest.kind) == manifest.kind, f"kind {str(data.get('kind'))[:40]!r}")
        _check(manifest)
        return manifest

    def _names(self) -> str:
        return ", ".join(variant.name for variant in self.variants)


def _demand_plain(data: Json) -> None:
    """See `demand_plain`; self-check rows may be texts with line breaks, which nobody prints."""
    demand_plain({key: value for key, value in data.items() if key != "check_rows"})


def _read(data: Json, form: int) -> Manifest:
    return Manifest(
        version=value_of(data, "version", int),
        task=value_of(data, "task", str),
        schema=_schema(value_of(data, "schema", dict)),
        variants=items(data, "variants", read_variant, MAX_VARIANTS),
        check_rows=items(data, "check_rows", row, MAX_CHECK_ROWS),
        float_metric=number(data, "float_metric"),
        metrics={str(k): finite(v, f"metrics.{k}") for k, v in value_of(data, "metrics", dict).items()},
        isa=value_of(data, "isa", str),
        created=value_of(data, "created", str),
        privacy=read_privacy(value_of(data, "privacy", dict), form),
        parent_sha256=value_of(data, "parent_sha256", str),
        reference=read_reference(value_of(data, "reference", dict)),
        deltas=items(data, "deltas", read_delta, MAX_DELTAS),
        abstain_below=number(data, "abstain_below"),
        abstain_label=value_of(data, "abstain_label", str),
        top=value_of(data, "top", int),
        threshold=number(data, "threshold") if "threshold" in data else EVEN,  # older manifests name none
        interval=number(data, "interval") if "interval" in data else 0.0,
    )


def _check(manifest: Manifest) -> None:
    """Bounds that join several fields."""
    classes, rows = manifest.schema.classes, len(manifest.check_rows)
    demand(1 <= manifest.version <= MAX_VERSION, f"version {manifest.version} is outside [1, {MAX_VERSION}]")
    demand(is_name(manifest.task), f"task name {manifest.task[:80]!r}")
    if manifest.schema.label_range is None:
        demand(2 <= classes <= MAX_CLASSES, f"{classes} labels")
    low, high = manifest.schema.label_range or (0.0, 0.0)
    demand(0 <= manifest.interval <= high - low, f"interval {manifest.interval} is outside the label's range")
    demand(len(set(manifest.labels)) == classes, "a label stands twice")
    demand(manifest.parent_sha256 == "" or is_sha256(manifest.parent_sha256), "parent_sha256 is not a SHA-256")
    demand(0 <= manifest.abstain_below <= 1, f"abstain_below {manifest.abstain_below} is outside [0, 1]")
    demand(0 <= manifest.top <= classes, f"top {manifest.top} of {classes} classes")
    demand(0 < manifest.threshold < 1, f"threshold {manifest.threshold} is outside (0, 1)")
    demand(classes == 2 or manifest.threshold == EVEN, f"threshold {manifest.threshold} of {classes} classes")
    demand(1 <= len(manifest.variants) <= MAX_VARIANTS, f"{len(manifest.variants)} variants")
    demand(
        manifest.chosen.path == model_path(manifest.version), f"path {manifest.chosen.path[:80]!r} of the chosen one"
    )
    _check_rows(manifest)
    demand(not manifest.schema.answers or not manifest.interval, "an interval around several numbers")
    check_reference(manifest.reference, classes)
    check_privacy(manifest.privacy)
    for variant in manifest.variants:
        check_variant(variant, manifest.version, rows, manifest.schema)
    demand(len({variant.name for variant in manifest.variants}) == len(manifest.variants), "a variant stands twice")
    digests = {variant.sha256 for variant in manifest.variants}
    for delta in manifest.deltas:
        check_delta(delta, manifest.version, digests)


def _check_rows(manifest: Manifest) -> None:
    rows, text = manifest.check_rows, manifest.schema.text
    width = manifest.schema.width if text is None else 1
    demand(1 <= len(rows) <= MAX_CHECK_ROWS, f"{len(rows)} self-check rows")
    demand(all(len(row) == width for row in rows), f"a self-check row has not {width} values")
    kinds = {isinstance(value, str) for row in rows for value in row}
    demand(kinds == {text is not None}, "self-check rows are texts if the schema is of a text, else numbers")
    size = sum(len(value) if isinstance(value, str) else 1 for row in rows for value in row)
    demand(size <= MAX_CHECK_VALUES, f"{size} self-check values, at most {MAX_CHECK_VALUES}")
    answers = len(rows) * manifest.schema.outputs if manifest.schema.answers else 0
    demand(answers <= MAX_CHECK_VALUES, f"{answers} answers to self-check rows, at most {MAX_CHECK_VALUES}")


def _schema(data: Json) -> Schema:
    try:
        schema = Schema.from_json(data)
        positive = schema.width >= 1 and all(size >= 1 for size in schema.shape)
    except (ConfigError, ValueError, OverflowError) as error:
        raise ArtifactRejected(f"manifest: {error}") from error
    demand(positive, "the schema has no inputs")
    return schema
