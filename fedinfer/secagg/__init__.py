"""Secure aggregation: SecAgg+ with authenticated keys. numpy and cryptography; no torch, no privacy accounting."""
