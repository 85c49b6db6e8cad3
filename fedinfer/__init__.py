"""fedinfer: federated, privacy-preserving on-device inference.

Train privately, aggregate securely, push a signed int8 model, infer on the device, watch for drift, and start again.
"""

__version__ = "0.1.0"
