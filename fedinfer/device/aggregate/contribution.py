"""The float vector a device contributes to a private sum, for each kind of work; a cohort's vectors at once.

Training is imported only here and only when there is training to do, so a device that merely infers needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import numpy as np

from fedinfer.device.canary import canary_answers
from fedinfer.device.counted import layout_of
from fedinfer.device.host import Host
from fedinfer.device.threshold import score_histograms
from fedinfer.drift import chosen_channels, report_norm
from fedinfer.errors import Misbehaviour
from fedinfer.messages import FitWork, GateWork, Purpose, ReportWork, SumPlan, ThresholdWork
from fedinfer.metrics import HISTOGRAM_NORM
from fedinfer.privacy import Work, clip_rows, clipping_of, noise_model
from fedinfer.rollout import NORM
from fedinfer.types import AnyFloats, DeviceId, FloatVector, Unit
from fedinfer.wire import decode

if TYPE_CHECKING:
    from fedinfer.training import Trainer


def private_vectors(host: Host, plan: SumPlan, work: bytes, devices: Sequence[DeviceId]) -> AnyFloats:
    """Compute what each device contributes to a private sum. With trust `local` the vectors already carry their noise.

    Args:
        host: wiring of this process; it has joined the run.
        plan: checked (`check_plan`), and paid for in the devices' ledgers.
        work: encoded `FitWork`, `ReportWork`, `GateWork` or `ThresholdWork`, as the plan's purpose says; its hash was
            checked.
        devices: of this process, whose vectors are wanted.

    Returns:
        Shape (devices, d), in the order of `devices`, not yet padded to the plan's dimension; float64 for sums of
        per-example gradients, else float32.

    Raises:
        BadMessage: the work cannot be decoded.
        Misbehaviour: the work does not fit the plan's purpose, names a clipping norm that is none, or asks for a report
            before its window is full.
    """
    match plan.purpose:
        case Purpose.TRAIN:
            return _fitted(host, plan, decode(FitWork, work), devices)
        case Purpose.DRIFT:
            return _reported(host, plan, decode(ReportWork, work), devices)
        case Purpose.GATE:
            answers = canary_answers(host, plan, decode(GateWork, work), devices)
            return _noised(host, plan, answers, NORM, devices)
        case Purpose.THRESHOLD:
            counts = score_histograms(host, trainer_of(host), plan.unit, decode(ThresholdWork, work), devices)
            return _noised(host, plan, counts, HISTOGRAM_NORM, devices)
        case _:
            assert_never(plan.purpose)


def trainer_of(host: Host) -> Trainer:
    """The trainer of the joined task, made on first use.

    Args:
        host: has joined a run; keeps the trainer.

    Raises:
        Misbehaviour: before any join.
    """
    from fedinfer.training import load_trainer

    task = host.joined()
    if task.trainer is None:
        scenario = task.scenario
        task.trainer = load_trainer(
            scenario.model, task.schema, scenario.training, scenario.scenario.seed, host.accelerator
        )
    trainer: Trainer = task.trainer
    return trainer


def _fitted(host: Host, plan: SumPlan, work: FitWork, devices: Sequence[DeviceId]) -> AnyFloats:
    from fedinfer.training import PrivateSteps

    trainer = trainer_of(host)
    data = [host.rows.training(device, work.window) for device in devices]
    rngs = [host.generator(plan, device) for device in devices]
    norm, kind = host.joined().scenario.privacy.clipping_norm, noise_model(plan.trust, plan.unit).work
    match kind:
        case Work.UPDATES:
            return _bounded(host, plan, work, trainer.updates(work.weights, data, rngs), devices)
        case Work.PRIVATE_STEPS:
            steps = PrivateSteps(plan.local_steps, plan.sampling_rate, norm, plan.noise_multiplier)
            return trainer.private_updates(work.weights, data, steps, rngs, host.engine)
        case Work.GRADIENT_SUMS:
            return trainer.gradient_sums(work.weights, data, plan.sampling_rate, norm, rngs, host.engine)
        case _:
            assert_never(kind)


def _bounded(host: Host, plan: SumPlan, work: FitWork, updates: FloatVector, devices: Sequence[DeviceId]) -> AnyFloats:
    """Updates of whole devices as they leave: clipped and noised, or as they are where nothing is protected."""
    match plan.unit:
        case Unit.NONE:
            return updates
        case Unit.DEVICE:
            clipping = clipping_of(host.joined().scenario.privacy)
            if clipping.extra and not 0 < work.clipping_norm < math.inf:
                raise Misbehaviour(f"updates cannot be clipped to a norm of {work.clipping_norm}")
            return _noised(host, plan, clipping.prepare(updates, work.clipping_norm), clipping.bound, devices)
        case Unit.EXAMPLE:
            raise Misbehaviour("an update of a whole device does not protect its examples")
        case _:
            assert_never(plan.unit)


def _reported(host: Host, plan: SumPlan, work: ReportWork, devices: Sequence[DeviceId]) -> AnyFloats:
    task = host.joined()
    channels = chosen_channels(task.schema, task.scenario.drift.channels)
    layout = layout_of(channels)
    kept = [host.sketches.take(device, work.window, layout).astype(np.float64) for device in devices]
    sketches, norm = np.stack(kept), report_norm(plan.unit, channels)
    match plan.unit:
        case Unit.DEVICE:  # a sketch may wait since a task that protects rows: then it holds counts
            return _noised(host, plan, clip_rows(sketches.astype(np.float32), norm), norm, devices)
        case Unit.EXAMPLE | Unit.NONE:
            return _noised(host, plan, sketches, norm, devices)
        case _:
            assert_never(plan.unit)


def _noised(host: Host, plan: SumPlan, vectors: AnyFloats, norm: float, devices: Sequence[DeviceId]) -> AnyFloats:
    """Trust `local`: each device adds the whole noise itself, before anything else happens to its vector."""
    model, std = noise_model(plan.trust, plan.unit), plan.noise_multiplier * norm
    return model.device_noise(vectors, std, lambda: [host.noise(plan, device, "local") for device in devices])
