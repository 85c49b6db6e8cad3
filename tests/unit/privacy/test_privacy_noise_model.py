"""Who adds the noise: what each model tells about a sum is what is in the sum, and what it charges is what is told."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest

from fedinfer.privacy.accounting.events import GaussianEvent, NonPrivate, PoissonSampled, Repeated, SkellamEvent
from fedinfer.privacy.mechanism.encoding import decode, encode
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, decoded_sensitivity
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.privacy.noise_model import Central, Distributed, Local, Noiseless, NoiseModel, Summands, Work, noise_model
from fedinfer.system import SimulatedEntropy
from fedinfer.types import Trust, Unit

Z, NORM, DEVICES, CONTRIBUTORS, WIDTH = 1.5, 0.7, 9, 6, 24
SUMMANDS = Summands(WIDTH, NORM, 40.0, DEVICES, DEVICES, CONTRIBUTORS)
SUMS = 150
NOISY: list[NoiseModel] = [
    Local(Unit.DEVICE),
    Distributed(Unit.DEVICE),
    Distributed(Unit.EXAMPLE),
    Central(Unit.DEVICE),
]


def ring_of(model: NoiseModel) -> IntegerMechanism:
    return model.ring(SUMMANDS, Z, NoiseKind.SKELLAM, 0.01)


def one_sum(model: NoiseModel, number: int, devices: int) -> np.ndarray:
    """Zero vectors on their way through a round: what is decoded is noise and rounding."""

    def stream(*name: object) -> SimulatedStream:
        return SimulatedStream(SimulatedEntropy("noise model", number, *map(str, name)))

    ring, seed = ring_of(model), b"seed %d" % number
    zeros = np.zeros((devices, WIDTH), np.float32)
    streams = [stream("device", device) for device in range(devices)]
    sent = model.device_noise(zeros, model.noise_outside(Z) * NORM, lambda: streams)
    rows = sent.astype(np.float64 if ring.rounding is Rounding.DITHERED else np.float32)
    integers = encode(rows, ring, seed, stream("share"), stream("rounding")).astype(np.uint64).sum(axis=0)
    total = decode((integers & ((1 << ring.bits) - 1)).astype(np.uint32), ring, seed)
    return model.server_noise(total, ring, Z, lambda: stream("server"))


@pytest.mark.parametrize("devices", [CONTRIBUTORS, DEVICES])
@pytest.mark.parametrize("model", NOISY, ids=repr)
def test_the_noise_in_a_sum_is_what_the_model_tells(model: NoiseModel, devices: int) -> None:
    seen = np.concatenate([one_sum(model, number, devices) for number in range(SUMS)])
    reported = model.std(ring_of(model), Z, NORM, devices)
    assert seen.std() == pytest.approx(reported, rel=4 / math.sqrt(2 * seen.size) + 0.005)  # rounding adds a little
    assert seen.std() >= 0.97 * Z * NORM, "never less than what is promised"
    if not isinstance(model, Central):
        assert reported == pytest.approx(model.spread(devices, CONTRIBUTORS) * Z * NORM, rel=0.01)


@pytest.mark.parametrize("unit", [Unit.DEVICE, Unit.EXAMPLE])
@pytest.mark.parametrize("kind", [Local, Central])
def test_gaussian_noise_is_charged_once_for_each_step_at_its_rate(kind: type[Local | Central], unit: Unit) -> None:
    model = kind(unit)
    ring = ring_of(model)
    assert model.event(ring, Z) == Repeated(GaussianEvent(Z), 1)
    assert model.event(ring, Z, 0.2, 7) == Repeated(PoissonSampled(0.2, GaussianEvent(Z)), 7)
    assert model.noise_outside(Z) == Z


def test_shares_are_charged_as_the_integers_they_are() -> None:
    model = Distributed(Unit.EXAMPLE)
    ring = ring_of(model)
    event = model.event(ring, Z, 0.2)
    noise = SkellamEvent(float(CONTRIBUTORS * ring.share_variance), ring.l2, ring.l1, ring.padded)
    assert event == PoissonSampled(0.2, noise)
    assert model.noise_outside(Z) == 0.0


def test_nobody_adds_noise_and_nothing_is_promised() -> None:
    for trust in Trust:
        model = noise_model(trust, Unit.NONE)
        assert model == Noiseless()
        assert model.event(ring_of(model), 0.0) == NonPrivate()
        assert model.std(ring_of(model), 0.0, NORM, DEVICES) == model.noise_outside(0.0) == 0.0
        assert np.abs(one_sum(model, 1, DEVICES)).max() < 0.1 * NORM


def test_trust_and_unit_decide_who_adds_it_and_what_devices_compute() -> None:
    assert noise_model(Trust.LOCAL, Unit.EXAMPLE) == Local(Unit.EXAMPLE)
    assert noise_model(Trust.DISTRIBUTED, Unit.DEVICE) == Distributed(Unit.DEVICE)
    assert noise_model(Trust.CENTRAL, Unit.DEVICE) == Central(Unit.DEVICE)
    by_row = {kind: kind(Unit.EXAMPLE).work for kind in (Local, Distributed, Central)}
    assert by_row == {Local: Work.PRIVATE_STEPS, Distributed: Work.GRADIENT_SUMS, Central: Work.GRADIENT_SUMS}
    assert {kind(Unit.DEVICE).work for kind in by_row} == {Work.UPDATES} == {Noiseless().work}


@pytest.mark.parametrize("unit", [Unit.DEVICE, Unit.EXAMPLE])
def test_the_servers_noise_covers_what_a_unit_moves_after_rounding(unit: Unit) -> None:
    model = Central(unit)
    ring = ring_of(model)
    assert ring.unit is unit
    assert model.std(ring, Z, NORM, DEVICES) >= Z * NORM
    assert model.std(ring, Z, NORM, DEVICES) == pytest.approx(Z * decoded_sensitivity(ring))


@pytest.mark.parametrize("unit", [Unit.DEVICE, Unit.EXAMPLE])
def test_the_servers_noise_grows_with_what_coarse_integers_add(unit: Unit) -> None:
    model = Central(unit)
    coarse = replace(ring_of(model), scale=2.0)
    assert decoded_sensitivity(coarse) > 2 * NORM
    stream = SimulatedStream(SimulatedEntropy("coarse", str(unit)))
    seen = model.server_noise(np.zeros(20_000, np.float32), coarse, Z, lambda: stream)
    assert seen.std() == pytest.approx(Z * decoded_sensitivity(coarse), rel=0.03)


def test_noise_of_one_device_is_added_to_its_update_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The update is cut to the grid of the noise, towards zero; with no noise at all the cut update would be sent."""
    units: list[float] = []

    def silent(std: float, unit: float, count: int, _words: object) -> np.ndarray:
        units.append(unit)
        return np.zeros(count)

    monkeypatch.setattr(importlib.import_module("fedinfer.privacy.noise_model"), "lattice_gaussian", silent)
    update = np.array([[0.3, -0.7, 1e-13, 2.0**-41, -1.0]], np.float32)
    sent = Local(Unit.DEVICE).device_noise(update, 1.5, lambda: [SimulatedStream(SimulatedEntropy("none"))])
    assert units == [2.0**-39]
    assert sent[0, 2:4].tolist() == [0.0, 0.0], "what is below the unit is not there any more"
    assert np.array_equal(sent[0, :2], update[0, :2])
    assert (np.abs(sent) <= np.abs(update)).all()


def test_local_noise_needs_a_ring_for_its_own_length() -> None:
    ring = ring_of(Local(Unit.DEVICE))
    assert (ring.kind, ring.unit, ring.clipping_norm) == (NoiseKind.NONE, Unit.NONE, SUMMANDS.noised_norm)
