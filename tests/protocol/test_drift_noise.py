"""The watch tests against the noise that is in a report: it is told how much that is, whoever reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.coordinator.aggregate.release import noise_std
from fedinfer.privacy.mechanism.encoding import decode, encode
from fedinfer.privacy.mechanism.mechanism import Rounding
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.system import SimulatedEntropy
from tests.protocol.fleet import settings
from tests.protocol.opened import opened

SUMS = 120
SEED = b"r" * 32


@pytest.mark.parametrize("unit", ["example", "device"])
def test_reports_of_more_devices_than_counted_on_carry_more_noise_and_the_watch_knows(
    unit: str, tmp_path: Path
) -> None:
    """Each device adds a share sized for the six that are promised; eight answer."""
    run = opened(tmp_path, settings(f'privacy.unit = "{unit}"\nprivacy.epsilon = 30.0'), 8)
    assert run.plan.drift is not None
    mechanism = run.plan.drift.mechanism
    assert mechanism.contributors < 8

    def one_sum(number: int, devices: int) -> np.ndarray:
        def stream(name: str) -> SimulatedStream:
            return SimulatedStream(SimulatedEntropy("drift", name, str(number), str(devices)))

        dtype = np.float64 if mechanism.rounding is Rounding.DITHERED else np.float32
        zeros = np.zeros((devices, mechanism.dimension), dtype)
        ring = encode(zeros, mechanism, SEED, stream("noise"), stream("rounding")).astype(np.uint64).sum(axis=0)
        return decode((ring & ((1 << mechanism.bits) - 1)).astype(np.uint32), mechanism, SEED)

    for devices in (mechanism.contributors, 8):
        seen = np.concatenate([one_sum(number, devices) for number in range(SUMS)])
        reported = noise_std(run.server.scenario, run.plan.drift, devices)
        # The standard error of a standard deviation of n values is its size / sqrt(2 n).
        assert seen.std() == pytest.approx(reported, rel=4 / np.sqrt(2 * seen.size)), devices
