"""Drift: sketches on the device, noise-aware tests on the server."""
