"""fedinfer: federated, privacy-preserving on-device inference.

Train privately, aggregate securely, push a signed int8 model, infer on the device, watch for drift, and start again.

    import fedinfer
    run = fedinfer.run("heart")
    fedinfer.privacy.account(events, delta, relation)
    fedinfer.open_device("store").predictor.predict_one(row)

Names are loaded when they are first used, so a device that only predicts imports nothing of training.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The official builds of onnxruntime report their use to Microsoft unless they find this when they are loaded (its
# Privacy.md, "Disabling Telemetry"). A device that promises to say nothing but noisy sums says nothing there either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from fedinfer import privacy as privacy
    from fedinfer.api import Device as Device
    from fedinfer.api import Run as Run
    from fedinfer.api import open_device as open_device
    from fedinfer.api import open_run as open_run
    from fedinfer.api import run as run
    from fedinfer.config import Scenario as Scenario
    from fedinfer.config import load_scenario as load_scenario
    from fedinfer.inference import Predictor as Predictor

_HOMES = {
    "Device": "fedinfer.api",
    "Predictor": "fedinfer.inference",
    "Run": "fedinfer.api",
    "Scenario": "fedinfer.config",
    "load_scenario": "fedinfer.config",
    "open_device": "fedinfer.api",
    "open_run": "fedinfer.api",
    "run": "fedinfer.api",
}

__all__ = ["__version__", "privacy", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "privacy":
        return import_module("fedinfer.privacy")
    if name not in _HOMES:
        raise AttributeError(f"module 'fedinfer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
