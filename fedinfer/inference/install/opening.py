"""Opening the model file of a manifest: what a device that predicts needs, without what only an install needs."""

from __future__ import annotations

import numpy as np

from fedinfer.inference.predict.answers import Naming
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import Manifest


def naming_of(manifest: Manifest) -> Naming:
    """Labels, decision threshold and abstain rule of a manifest.

    Args:
        manifest: of the model. Its thresholds are rounded to float32, in which the graph compares.
    """
    abstain_below, threshold = (float(np.float32(value)) for value in (manifest.abstain_below, manifest.threshold))
    return Naming(
        labels=manifest.labels,
        abstain_below=abstain_below,
        abstain_label=manifest.abstain_label,
        threshold=threshold,
        bounds=manifest.schema.label_range,
        unit=manifest.schema.label_unit,
        interval=manifest.interval,
        tensors=manifest.schema.answers,
    )


def open_variant(model: bytes, manifest: Manifest, cache: SessionCache) -> Predictor:
    """Load the model file of a manifest.

    Args:
        model: serialized ONNX model of one of its variants.
        manifest: gives schema, labels and abstain rule.
        cache: sessions shared by the devices of this process.

    Raises:
        GateFailed: when it does not load or does not fit the manifest's schema.
    """
    return Predictor.open(model, manifest.schema, naming_of(manifest), cache)
