"""Profiles of hypothesis beside its own: `soak` searches for an hour what the usual run searches for seconds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "soak", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
