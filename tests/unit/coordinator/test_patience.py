"""How long a window of a deployment waits for devices that have predicted too little."""

from __future__ import annotations

import pytest

from fedinfer.coordinator.patience import ASKED_ONCE, Patience

PATIENT = Patience(least=3, limit_seconds=100.0, pause_seconds=30.0)


@pytest.mark.parametrize(
    ("ready", "idle", "waited", "pause"),
    [
        (0, 5, 0.0, 30.0),  # nobody has a window yet
        (4, 1, 40.0, 30.0),  # enough for a report, but one more may come
        (5, 0, 0.0, None),  # everybody who answered is ready
        (3, 0, 0.0, None),  # two did not answer: they may stay away for good
        (2, 0, 0.0, 30.0),  # too few for a report: the silent ones are asked again
        (2, 3, 90.0, 10.0),  # never longer than the limit
        (2, 3, 100.0, None),
        (2, 3, 250.0, None),
    ],
)
def test_when_the_others_are_asked_again(ready: int, idle: int, waited: float, pause: float | None) -> None:
    assert PATIENT.pause(ready, idle, waited) == pause


def test_simulated_devices_are_asked_once() -> None:
    assert ASKED_ONCE.pause(0, 10, 0.0) is None
