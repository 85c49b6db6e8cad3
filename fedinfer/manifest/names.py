"""Bounds, target paths and names that the server and the device share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedinfer.errors import BadSignature
from fedinfer.schema import Schema

FORMAT = 2
"""Of manifests that are written. It grows when a reader that leaves out what is new would answer, or claim, something
else: format 2 has a threshold for two classes, numeric labels and the whole privacy statement. A device that reads
format 1 alone refuses format 2 by its number, and keeps the version that it has."""
FORMATS = (1, 2)
"""That are read."""
MAX_ARTIFACT_BYTES = 256 * 2**20  # one model file, after decompression
MAX_MANIFEST_BYTES = 2 * 2**20
MAX_METADATA_BYTES = 512 * 2**10  # one TUF metadata file
MAX_VERSION = 2**31 - 1
MAX_CHECK_ROWS = 64
MAX_CHECK_VALUES = 262_144  # rows x width; one image of 224 x 224 x 3 raw pixels fits
MAX_VARIANTS = 8
MAX_DELTAS = 32
MAX_CLASSES = 100_000

INPUT = "input"  # float32 (batch, width), raw values, NaN = missing
LABEL = "label"  # string (batch,)
PROBABILITIES = "probabilities"  # float32 (batch, classes)
VALUE = "value"  # float32 (batch, 1), in the unit of a numeric label and within its range; instead of the two above.
# Of answered tensors float32 (batch, values), side by side.
CONTRIBUTIONS = "contributions"  # float32 (batch, terms + 1, outputs), optional: of an additive model, intercept last
COVERAGE = 0.9  # share of rows that the prediction interval of a numeric label is made for
TOP = "top"  # int64 (batch, k), optional: the k most probable classes, best first
CURRENT = "model/current.json"
WITHDRAWN = "withdrawn"  # field of TUF targets metadata: versions that nobody may serve any more, oldest first


def answer_name(schema: Schema) -> str:
    """The output that holds a model's answer.

    Args:
        schema: says whether the label is a number.
    """
    return PROBABILITIES if schema.label_range is None else VALUE


def manifest_path(version: int) -> str:
    """Target path of the manifest of a version.

    Args:
        version: >= 1.
    """
    return f"model/{version}.json"


def model_path(version: int, variant: str = "") -> str:
    """Target path of a model file.

    Args:
        version: >= 1.
        variant: name of the variant; empty for the chosen one, whose path does not name it.
    """
    return f"model/{version}.{variant}.onnx" if variant else f"model/{version}.onnx"


def delta_path(version: int, variant: str, from_sha256: str) -> str:
    """Target path of a delta.

    Args:
        version: that the delta leads to, >= 1.
        variant: name of the variant that it expands to.
        from_sha256: digest of the file a patch starts from, of which the path takes 16 digits; empty for a plain
            compressed file, whose path says "full" instead.
    """
    return f"model/{version}.{variant}.{from_sha256[:16] or 'full'}.zst"


def current_path(cohort: str = "") -> str:
    """Target path of the manifest that a device should run.

    Args:
        cohort: name of the rollout cohort the device is in; empty for a device that follows `model/current.json`.
    """
    return f"cohort/{cohort}/current.json" if cohort else CURRENT


def read_withdrawn(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Withdrawn versions in the further fields of signed targets metadata, oldest first; none where there is no list.

    Args:
        fields: fields of the metadata that TUF itself does not define; already verified, still untrusted in form.

    Raises:
        BadSignature: when the list holds anything but versions in [1, MAX_VERSION] in increasing order.
    """
    found = fields.get(WITHDRAWN, [])
    plain = isinstance(found, list) and all(type(version) is int and 0 < version <= MAX_VERSION for version in found)
    if not plain or found != sorted(set(found)):
        raise BadSignature(f"the signed list of withdrawn versions cannot be read: {str(found)[:80]}")
    return tuple(found)
