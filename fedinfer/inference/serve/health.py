"""Is the model in service well? Its own check rows decide, never the rows that a client sent.

A client chooses its rows, so it can find some on which a sound graph overflows. If such failures counted, whoever
reaches the port could take a version out of service and have it refused for good. What a model answered to the rows of
its signed manifest when it was built, it must answer now; only that counts.
"""

from __future__ import annotations

import numpy as np

from fedinfer.errors import ArtifactRejected, GateFailed
from fedinfer.inference.install.installed import MODEL_FILE, Installed, installed_manifest
from fedinfer.inference.install.opening import open_variant
from fedinfer.inference.install.self_check import check_matrix, difference_of
from fedinfer.inference.install.slots import Loaded, Slots
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import Manifest


def ailment(installed: Installed) -> str:
    """What the self-check of a serving model finds wrong; empty when its answers are those of its manifest.

    It has no time limit: clients that keep the processor busy must not make a model look slow.

    Args:
        installed: model and manifest in use.
    """
    return _ailment(installed.predictor, installed.manifest, installed.info.variant)


def previous_is_well(slots: Slots, cache: SessionCache) -> bool:
    """Whether there is a version to go back to that passes its own self-check here and now.

    When it fails beside the active one, the fault is the machine's (memory, processor) and going back is no cure.

    Args:
        slots: of the device.
        cache: sessions of this process.
    """
    previous = slots.pointer().previous
    if previous is None:
        return False
    try:
        loaded = Loaded(previous, slots.read(previous))
        manifest = installed_manifest(loaded)
        return not _ailment(open_variant(loaded.files[MODEL_FILE], manifest, cache), manifest, previous.variant)
    except ArtifactRejected:
        return False


def _ailment(predictor: Predictor, manifest: Manifest, name: str) -> str:
    variant = manifest.variant(name)
    try:
        answers = predictor.predict_matrix(check_matrix(predictor, manifest))
    except GateFailed as error:
        return str(error)
    difference = difference_of(answers.raw, predictor.schema, variant)
    classes = predictor.schema.label_range is None
    if difference > variant.tolerance or (classes and (answers.classes != np.array(variant.labels)).any()):
        return f"its check rows get other answers, off by {difference:.3g}, tolerance {variant.tolerance:.3g}"
    return ""
