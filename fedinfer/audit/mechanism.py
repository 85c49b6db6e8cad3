"""The mechanism of a plan in one coordinate, for trials: the product's encoding, noise shares and server noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedinfer.audit.canaries import Floats
from fedinfer.audit.opening import Audited
from fedinfer.audit.report import AuditSettings
from fedinfer.audit.trials import Trials, trial_bound
from fedinfer.privacy import (
    AuditBound,
    Distributed,
    IntegerMechanism,
    NoiseStream,
    SimulatedStream,
    Work,
    decode,
    encode,
    noise_model,
)
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.training import uniform

_SEED = bytes(32)


def mechanism_bound(audit: Audited, settings: AuditSettings) -> AuditBound | None:
    """What trials of the mechanism alone show.

    Args:
        audit: its wiring.
        settings: confidence, and how many runs.

    Returns:
        None where none are wanted, and where there is no mechanism apart from the training: noise is added in the steps
        of a device, or is correlated over rounds.
    """
    scenario, plan = audit.server.scenario, audit.plan
    model = noise_model(scenario.privacy.trust, scenario.privacy.unit)
    if not settings.trials or model.work is Work.PRIVATE_STEPS or plan.factorization is not None:
        return None
    train, seed = audit.settings(plan.train), scenario.scenario.seed
    mechanism = replace(train.mechanism, dimension=1)
    norm = mechanism.clipping_norm
    noise = model.std(plan.train.mechanism, plan.train.noise_multiplier, norm, plan.train.mechanism.contributors) / norm
    if not isinstance(model, Distributed):
        noise = model.std(plan.train.mechanism, plan.train.noise_multiplier, norm, 1) / norm

    def stream(*names: str) -> NoiseStream:
        return SimulatedStream(SimulatedEntropy(seed, "trials", *names))

    def release(name: str, true: Floats) -> Floats:
        vectors = np.asarray(true * norm)
        if isinstance(model, Distributed):
            return _ring_sum(mechanism, vectors, lambda device: stream(name, str(device))) / norm
        # One device, or a server, with as many coordinates as there are trials.
        z, whole = train.noise_multiplier, plan.train.mechanism
        mine = model.device_noise(vectors[None, :].astype(np.float32), z * norm, lambda: [stream(name)])[0]
        noised = model.server_noise(mine, whole, z, lambda: stream(name, "server"))
        return np.asarray(noised, np.float64) / norm

    def sampled(name: str, count: int) -> Floats:
        drawn = uniform(simulation_rng(seed, "trials", "rows", name), count) < train.sampling_rate
        return drawn.astype(np.float64)

    trials = Trials(settings.trials, plan.rounds, train.sampling_rate, noise)
    return trial_bound(trials, release, sampled, scenario.privacy.delta, settings.confidence)


def _ring_sum(mechanism: IntegerMechanism, true: Floats, stream: Callable[[int], NoiseStream]) -> Floats:
    """Encodings of the honest devices, of which the first holds the unit, added in the ring and read."""
    total = np.zeros(true.size, np.uint64)
    for device in range(mechanism.contributors):
        own = stream(device)
        vectors = (true if device == 0 else np.zeros_like(true)).astype(np.float32)[:, None]
        total += encode(vectors, mechanism, _SEED, own, own)[:, 0]
    half = 1 << (mechanism.bits - 1)
    centred = ((total.astype(np.int64) + half) & (2 * half - 1)) - half
    result: Floats = centred / mechanism.scale * _sign(mechanism)
    return result


def _sign(mechanism: IntegerMechanism) -> float:
    """The random sign of the one coordinate."""
    return 1.0 if decode(np.ones(1, np.uint32), mechanism, _SEED)[0] > 0 else -1.0
