"""Artifact: torch checkpoint to gated, signed int8 ONNX."""
