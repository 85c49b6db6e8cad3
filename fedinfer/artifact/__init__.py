"""Artifact: torch checkpoint to gated, signed int8 ONNX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
