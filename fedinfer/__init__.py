"""fedinfer: federated, privacy-preserving on-device inference.

Train privately, aggregate securely, push a signed int8 model, infer on the device, watch for drift, and start again.
"""

import os

__version__ = "0.1.0"

# The official builds of onnxruntime report their use to Microsoft unless they find this when they are loaded (its
# Privacy.md, "Disabling Telemetry"). A device that promises to say nothing but noisy sums says nothing there either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
