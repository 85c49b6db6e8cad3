"""A look at a freshly installed model: the device's own rows through it and through the one before, in bounded figures.

Nothing of it leaves the device but the vector of fedinfer.rollout.looks, in a private sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.device.host import Host
from fedinfer.device.inference import installed_of
from fedinfer.device.install import slots_of
from fedinfer.errors import DataError, GateFailed
from fedinfer.inference.install.installed import open_previous
from fedinfer.inference.predict.answers import Prediction
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.messages import GateWork, SumPlan
from fedinfer.rollout import looks
from fedinfer.text import raw_rows
from fedinfer.types import DeviceId, FloatVector, Unit

Table = npt.NDArray[np.float64]
Row = npt.NDArray[Any]
"""A raw row: float32 (width,), or a text (1,)."""


def looked(host: Host, plan: SumPlan, work: GateWork, devices: Sequence[DeviceId]) -> FloatVector:
    """Answers of `devices`, float32 (n, 5). Who does not run the version, or has no rows, answers zeros."""
    return np.stack([_answer(host, plan.unit, work, device) for device in devices])


def _answer(host: Host, unit: Unit, work: GateWork, device: DeviceId) -> FloatVector:
    installed, section = installed_of(host, device), host.joined().scenario.rollout
    x, y = host.rows.stream(device, max(work.window, 1))
    rows = min(len(x), host.joined().scenario.drift.window)
    if installed is None or installed.info.version != work.version or rows == 0:
        return np.zeros(looks.WIDTH, np.float32)
    x = raw_rows(host.joined().schema, x[:rows])
    before = open_previous(slots_of(host, device), host.model_cache)
    telemetry = Telemetry()
    _warm(installed.predictor, x[0])
    figures = np.full((rows, looks.WIDTH), np.nan)
    for number in range(rows):
        label = int(y[number]) if len(y) else None
        figures[number] = _row(host, installed.predictor, before, telemetry, x[number], label)
    if unit is Unit.EXAMPLE:
        return looks.example_answer(figures, section)
    return looks.device_answer(figures, _slow(telemetry, section.max_latency_us), section)


def _row(
    host: Host, new: Predictor, before: Predictor | None, telemetry: Telemetry, row: Row, label: int | None
) -> Table:
    """Figures of one row, (5,); NaN where there is nothing to say. A row that breaks the schema says nothing."""
    limit_us, figures = host.joined().scenario.rollout.max_latency_us, np.full(looks.WIDTH, np.nan)
    try:
        answer, seconds = _timed(host, new, row)
        if seconds * 1e6 > limit_us:  # perhaps the machine was busy with something else: the better of two counts
            seconds = min(seconds, _timed(host, new, row)[1])
    except DataError:
        return figures
    telemetry.answered(0, seconds)
    figures[looks.ERROR] = answer is None
    figures[looks.SLOW] = seconds * 1e6 > limit_us
    if label is not None:
        figures[looks.WRONG] = answer is None or int(answer.probabilities.argmax()) != label
    old = _quietly(before, row)
    if old is not None:
        figures[looks.DISAGREEMENT] = answer is None or answer.label != old.label
        figures[looks.SHIFT] = abs((answer.confidence if answer else 0.0) - old.confidence)
    return figures


def _timed(host: Host, predictor: Predictor, row: Row) -> tuple[Prediction | None, float]:
    """The answer, None when the model fails, and how long it took."""
    start = host.clock.seconds()
    try:
        answer: Prediction | None = predictor.predict_one(row)
    except GateFailed:
        answer = None
    return answer, host.clock.seconds() - start


def _quietly(predictor: Predictor | None, row: Row) -> Prediction | None:
    """The answer of the model before, if it has one."""
    if predictor is None:
        return None
    try:
        return predictor.predict_one(row)
    except (DataError, GateFailed):
        return None


def _warm(predictor: Predictor, row: Row) -> None:
    """The first prediction of a thread makes its buffers; it says nothing about the model's speed."""
    _quietly(predictor, row)


def _slow(telemetry: Telemetry, limit_us: float) -> float:
    """1 when the bucket of the 95th percentile lies above the limit, 0 when not, NaN when nothing was timed."""
    timed = telemetry.figures()
    return float(timed[0].percentile_us(looks.TIMELY) > limit_us) if timed else float("nan")
