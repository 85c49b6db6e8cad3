"""Profiles of hypothesis beside its own: `soak` searches for an hour what the usual run searches for seconds."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "soak", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts so what runs in the background, and programs that tests start inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
