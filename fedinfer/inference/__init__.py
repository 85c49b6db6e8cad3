"""Inference on the device. Imports without torch."""
