"""What a published model says about itself: the agreement between the server that signs it and the device that runs it.

Targets of version N (paths below the TUF targets role):

* `model/N.json`             this manifest
* `model/N.onnx`             the chosen variant, `Manifest.variants[0]`
* `model/N.<variant>.onnx`   the others ("float", "int8", "fp16"); a device may measure them and keep the fastest
* `model/N.<variant>.<from>.zst`  delta: see `Delta`
* `model/current.json`       the manifest of the newest version; `cohort/<name>/current.json` the same for one cohort

A manifest is JSON in UTF-8 without NaN or infinity (a missing value of a self-check row is null). Versions only grow:
to go back, the server publishes the old bytes under a new version. A bad one is withdrawn: the list of targets itself
names it (`WITHDRAWN`). Whoever reads a manifest has checked its signature
first and still treats it as untrusted: every bound is enforced by `Manifest.from_bytes`.
"""

from fedinfer.manifest.document import Manifest
from fedinfer.manifest.fields import is_name
from fedinfer.manifest.names import (
    CONTRIBUTIONS,
    COVERAGE,
    CURRENT,
    FORMAT,
    INPUT,
    LABEL,
    MAX_ARTIFACT_BYTES,
    MAX_CHECK_ROWS,
    MAX_CHECK_VALUES,
    MAX_DELTAS,
    MAX_MANIFEST_BYTES,
    MAX_METADATA_BYTES,
    MAX_VERSION,
    PROBABILITIES,
    TOP,
    VALUE,
    WITHDRAWN,
    answer_name,
    current_path,
    delta_path,
    manifest_path,
    model_path,
    read_withdrawn,
)
from fedinfer.manifest.parts import NO_CLAIM, Delta, DeltaMethod, Privacy, Reference, Variant
from fedinfer.manifest.statement import Figures, Statement, read_statement

__all__ = [
    "CONTRIBUTIONS",
    "COVERAGE",
    "CURRENT",
    "FORMAT",
    "INPUT",
    "LABEL",
    "MAX_ARTIFACT_BYTES",
    "MAX_CHECK_ROWS",
    "MAX_CHECK_VALUES",
    "MAX_DELTAS",
    "MAX_MANIFEST_BYTES",
    "MAX_METADATA_BYTES",
    "MAX_VERSION",
    "NO_CLAIM",
    "PROBABILITIES",
    "TOP",
    "VALUE",
    "WITHDRAWN",
    "Delta",
    "DeltaMethod",
    "Figures",
    "Manifest",
    "Privacy",
    "Reference",
    "Statement",
    "Variant",
    "answer_name",
    "current_path",
    "delta_path",
    "is_name",
    "manifest_path",
    "model_path",
    "read_statement",
    "read_withdrawn",
]
