"""What all tests of this folder share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """A test cannot cut the power, so it need not wait for the platter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
