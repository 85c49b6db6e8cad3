"""What is installed on this device, ready to predict."""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.errors import ArtifactRejected, NoModel
from fedinfer.inference.install.opening import open_variant
from fedinfer.inference.install.slots import Loaded, SlotInfo, Slots
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import Manifest

MODEL_FILE, MANIFEST_FILE = "model.onnx", "manifest.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """A model that serves.

    Args:
        predictor: the loaded model.
        manifest: what its server signed about it.
        info: slot, version, variant.
        damaged: why an older version had to be taken; empty when it is the active one.
    """

    predictor: Predictor
    manifest: Manifest
    info: SlotInfo
    damaged: str = ""


def open_installed(slots: Slots, cache: SessionCache) -> Installed:
    """Load the active model, or the one before it when the active files are damaged.

    Args:
        slots: of the device.
        cache: sessions shared by the devices of this process.

    Raises:
        NoModel: when nothing is installed, or what was installed is withdrawn.
        ArtifactRejected: when nothing usable is left.
    """
    loaded = slots.load()
    if loaded is None:
        raise _no_model(slots)
    manifest = installed_manifest(loaded)
    return Installed(open_variant(loaded.files[MODEL_FILE], manifest, cache), manifest, loaded.info, loaded.damaged)


def _no_model(slots: Slots) -> NoModel:
    withdrawn = slots.pointer().withdrawn
    if withdrawn:
        return NoModel(
            f"{slots.folder}: version {withdrawn[-1]} was withdrawn and there is no other model",
            hint="wait for a new version; this one is not installed again",
        )
    return NoModel(f"{slots.folder}: no model is installed", hint="install one first")


def open_previous(slots: Slots, cache: SessionCache) -> Predictor | None:
    """The model before the active one, to compare with; None when there is none or its files are damaged.

    Args:
        slots: of the device.
        cache: sessions shared by the devices of this process.

    Raises:
        StoreError: when the pointer cannot be read.
    """
    previous = slots.pointer().previous
    if previous is None:
        return None
    try:
        loaded = Loaded(previous, slots.read(previous))
        return open_variant(loaded.files[MODEL_FILE], installed_manifest(loaded), cache)
    except ArtifactRejected:
        return None


def installed_manifest(loaded: Loaded) -> Manifest:
    """The manifest of a slot.

    Args:
        loaded: files of the slot, whose digests fit.

    Raises:
        ArtifactRejected: when it or the model file is missing, or it is malformed.
    """
    if MANIFEST_FILE not in loaded.files or MODEL_FILE not in loaded.info.sha256:
        raise ArtifactRejected(f"version {loaded.info.version}: the slot lacks {MODEL_FILE} or {MANIFEST_FILE}")
    return Manifest.from_bytes(loaded.files[MANIFEST_FILE])
