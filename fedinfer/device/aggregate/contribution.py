"""The float vector a device contributes to a private sum, for each kind of work; a cohort's vectors at once.

Training is imported only here and only when there is training to do, so a device that merely infers needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedinfer.device.canary import looked
from fedinfer.device.host import Host
from fedinfer.drift.channels import report_channels
from fedinfer.drift.sketch import report_norm
from fedinfer.errors import Misbehaviour
from fedinfer.messages import FitWork, GateWork, Purpose, ReportWork, SumPlan
from fedinfer.privacy.mechanism.clipping import clip_rows, clipping_of
from fedinfer.privacy.noise_model import Work, noise_model
from fedinfer.rollout.looks import NORM
from fedinfer.types import DeviceId, FloatVector, Unit, WideVector
from fedinfer.wire import decode

if TYPE_CHECKING:
    from fedinfer.training.trainer import Trainer


def private_vectors(host: Host, plan: SumPlan, work: bytes, devices: Sequence[DeviceId]) -> FloatVector | WideVector:
    """Vectors of `devices`, (n, d), float64 for sums of examples. With trust `local` each already carries its noise.

    Raises:
        Misbehaviour: when the work does not fit the plan's purpose, names a clipping norm that is none, or asks for a
            report before its window is full.
    """
    if plan.purpose is Purpose.TRAIN:
        return _fitted(host, plan, decode(FitWork, work), devices)
    if plan.purpose is Purpose.DRIFT:
        return _reported(host, plan, decode(ReportWork, work), devices)
    if plan.purpose is Purpose.GATE:
        answers = looked(host, plan, decode(GateWork, work), devices)
        return _noised(host, plan, answers, NORM, devices)
    raise Misbehaviour(f"no vector for purpose {plan.purpose}")


def trainer_of(host: Host) -> Trainer:
    """The trainer of the joined task, made on first use."""
    from fedinfer.training.trainer import load_trainer

    task = host.joined()
    if task.trainer is None:
        task.trainer = load_trainer(
            task.scenario.model, task.schema, task.scenario.training, task.scenario.scenario.seed
        )
    trainer: Trainer = task.trainer
    return trainer


def _fitted(host: Host, plan: SumPlan, work: FitWork, devices: Sequence[DeviceId]) -> FloatVector | WideVector:
    from fedinfer.training.engines.sampling import PrivateSteps

    trainer = trainer_of(host)
    data = [host.rows.training(device, work.window) for device in devices]
    rngs = [host.generator(plan, device) for device in devices]
    privacy = host.joined().scenario.privacy
    if plan.unit is Unit.NONE:
        return trainer.updates(work.weights, data, rngs)
    if plan.unit is Unit.DEVICE:
        clipping = clipping_of(privacy)
        if clipping.extra and not 0 < work.clipping_norm < math.inf:
            raise Misbehaviour(f"updates cannot be clipped to a norm of {work.clipping_norm}")
        bounded = clipping.prepare(trainer.updates(work.weights, data, rngs), work.clipping_norm)
        return _noised(host, plan, bounded, clipping.bound, devices)
    norm = privacy.clipping_norm
    if noise_model(plan.trust, plan.unit).work is Work.PRIVATE_STEPS:
        steps = PrivateSteps(plan.local_steps, plan.sampling_rate, norm, plan.noise_multiplier)
        return trainer.private_updates(work.weights, data, steps, rngs)
    return trainer.gradient_sums(work.weights, data, plan.sampling_rate, norm, rngs)


def _reported(host: Host, plan: SumPlan, work: ReportWork, devices: Sequence[DeviceId]) -> FloatVector:
    sketches = np.stack([host.sketches.take(device, work.window) for device in devices])
    norm = report_norm(plan.unit, report_channels(host.joined().schema.classes))
    if plan.unit is Unit.DEVICE:  # a sketch may wait since a task that protects rows: then it holds counts
        sketches = clip_rows(sketches, norm)
    return _noised(host, plan, sketches, norm, devices)


def _noised(host: Host, plan: SumPlan, vectors: FloatVector, norm: float, devices: Sequence[DeviceId]) -> FloatVector:
    """Trust `local`: each device adds the whole noise itself, before anything else happens to its vector."""
    model, std = noise_model(plan.trust, plan.unit), plan.noise_multiplier * norm
    return model.device_noise(vectors, std, lambda: [host.noise(plan, device, "local") for device in devices])
