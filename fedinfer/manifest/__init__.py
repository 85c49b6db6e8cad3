"""What a published model says about itself: the agreement between the server that signs it and the device that runs it.

Targets of version N (paths below the TUF targets role):

* `model/N.json`             this manifest
* `model/N.onnx`             the chosen variant, `Manifest.variants[0]`
* `model/N.<variant>.onnx`   the others ("float", "int8", "fp16"); a device may measure them and keep the fastest
* `model/N.<variant>.<from>.zst`  delta: see `Delta`
* `model/current.json`       the manifest of the newest version; `cohort/<name>/current.json` the same for one cohort

A manifest is JSON in UTF-8 without NaN or infinity (a missing value of a self-check row is null). Versions only grow:
to go back, the server publishes the old bytes under a new version. Whoever reads a manifest has checked its signature
first and still treats it as untrusted: every bound is enforced by `Manifest.from_bytes`.
"""

from fedinfer.manifest.document import Manifest as Manifest
from fedinfer.manifest.fields import is_name as is_name
from fedinfer.manifest.names import (
    CURRENT as CURRENT,
)
from fedinfer.manifest.names import (
    FORMAT as FORMAT,
)
from fedinfer.manifest.names import (
    INPUT as INPUT,
)
from fedinfer.manifest.names import (
    LABEL as LABEL,
)
from fedinfer.manifest.names import (
    MAX_ARTIFACT_BYTES as MAX_ARTIFACT_BYTES,
)
from fedinfer.manifest.names import (
    MAX_CHECK_ROWS as MAX_CHECK_ROWS,
)
from fedinfer.manifest.names import (
    MAX_CHECK_VALUES as MAX_CHECK_VALUES,
)
from fedinfer.manifest.names import (
    MAX_DELTAS as MAX_DELTAS,
    MAX_MANIFEST_BYTES as MAX_MANIFEST_BYTES,
)
from fedinfer.manifest.names import (
    MAX_METADATA_BYTES as MAX_METADATA_BYTES,
)
from fedinfer.manifest.names import (
    MAX_VERSION as MAX_VERSION,
)
from fedinfer.manifest.names import (
    PROBABILITIES as PROBABILITIES,
)
from fedinfer.manifest.names import (
    TOP as TOP,
)
from fedinfer.manifest.names import (
    current_path as current_path,
)
from fedinfer.manifest.names import (
    delta_path as delta_path,
)
from fedinfer.manifest.names import (
    manifest_path as manifest_path,
)
from fedinfer.manifest.names import (
    model_path as model_path,
)
from fedinfer.manifest.parts import (
    Delta as Delta,
)
from fedinfer.manifest.parts import (
    DeltaMethod as DeltaMethod,
)
from fedinfer.manifest.parts import (
    Privacy as Privacy,
)
from fedinfer.manifest.parts import (
    Reference as Reference,
)
from fedinfer.manifest.parts import (
    Variant as Variant,
)
