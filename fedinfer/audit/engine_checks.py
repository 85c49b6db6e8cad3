"""The training engine of an audited run: does it clip rows, does it draw them anew."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import assert_never

from fedinfer.audit.checks import Check
from fedinfer.audit.opening import Audited
from fedinfer.audit.probes import STILL, EngineProbe
from fedinfer.audit.report import LEVEL
from fedinfer.messages import SumPlan
from fedinfer.privacy import Work, noise_model
from fedinfer.training import PrivateSteps, Trainer, load_trainer

MOST_DEVICES = 5
"""Whose rows are looked at; the engine is one and the same for all."""
LEAST_ROUNDS = 20
"""So many draws tell rows that come again from chance, also where few can be told apart."""


def engine_checks(audit: Audited, promise: SumPlan) -> list[Check]:
    """All that can be asked of the engine of this run; nothing where no gradient of a row is computed.

    Args:
        audit: its wiring.
        promise: of any round; the randomness of a device follows from its name and that of the round.
    """
    scenario, settings = audit.server.scenario, audit.plan.train
    devices = sorted(audit.order[:MOST_DEVICES])
    data = {device: audit.host.rows.training(device, 0) for device in devices}
    probe = EngineProbe(
        trainer=audit.trainer.inner,
        engine=audit.host.engine,
        weights=audit.trainer.inner.initial(),
        norm=scenario.privacy.clipping_norm,
        source=lambda name, device: audit.host.generator(replace(promise, round_id=name), device),
        level=LEVEL,
    )
    names = [f"round-{number:04d}" for number in range(1, max(audit.plan.rounds, LEAST_ROUNDS) + 1)]
    largest = max(devices, key=lambda device: len(data[device][1]))
    drawn = partial(probe.samples, largest, [data[largest]], settings.sampling_rate, names)
    match noise_model(scenario.privacy.trust, scenario.privacy.unit).work:
        case Work.UPDATES:
            return []
        case Work.GRADIENT_SUMS:
            found = [probe.clipping(list(data.values())), drawn()]
        case Work.PRIVATE_STEPS:
            steps = PrivateSteps(settings.local_steps, settings.sampling_rate, scenario.privacy.clipping_norm, 0.0)
            still = probe.steps(_still(audit), largest, [data[largest]], steps, names)
            found = [probe.clipping(list(data.values())), drawn(), still]
        case work:
            assert_never(work)
    return [check for check in found if check is not None]


def _still(audit: Audited) -> Trainer:
    """The model of the run with steps that hardly move it."""
    scenario = audit.server.scenario
    training = scenario.training.model_copy(update={"learning_rate": STILL, "proximal": 0.0})
    return load_trainer(scenario.model, audit.server.schema, training, scenario.scenario.seed)
