"""fedinfer: federated, privacy-preserving on-device inference.

Train privately, aggregate securely, push a signed int8 model, infer on the device, watch for drift, and start again.

    import fedinfer
    run = fedinfer.run("heart")
    fedinfer.privacy.account(events, delta, relation)
    fedinfer.open_device("store").predictor.predict_one(row)

Names are loaded when they are first used, so a device that only predicts imports nothing of training.
"""

import os

import lazy_loader

__version__ = "0.1.0"

# The official builds of onnxruntime report their use to Microsoft unless they find this when they are loaded (its
# Privacy.md, "Disabling Telemetry"). A device that promises to say nothing but noisy sums says nothing there either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
