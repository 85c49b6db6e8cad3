"""Private canary evaluation of a freshly installed model: own rows through it and the one before, in bounded figures.

Nothing of it leaves the device but the vector of fedinfer.rollout.evaluations, in a private sum. Whatever the model
does with a row (fail, answer in another shape, NaN, hang, take memory) is the figure `error` of that row: it is counted
in the vector and noised with it, and the answer has one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.device.host import Host
from fedinfer.device.inference import installed_of
from fedinfer.device.install import slots_of
from fedinfer.inference import Naming, Prediction, Predictor, RowAnswer, Telemetry, open_previous, row_answers
from fedinfer.messages import GateWork, SumPlan
from fedinfer.metrics import Metric, judged_by
from fedinfer.model_file import Isolation
from fedinfer.rollout import evaluations
from fedinfer.text import raw_rows
from fedinfer.types import AnyFloats, DeviceId, Unit, WideVector

Table = npt.NDArray[np.float64]


def canary_answers(host: Host, plan: SumPlan, work: GateWork, devices: Sequence[DeviceId]) -> WideVector:
    """Evaluate the version of the work on the devices' own rows, beside the one before it.

    Args:
        host: wiring of this process; it has joined the run.
        plan: its unit says how rows are put together.
        work: version and window.
        devices: of this process.

    Returns:
        float64, shape (devices, evaluations.WIDTH), without noise; zeros of a device that does not run the version or
        has no rows.
    """
    return np.stack([_answer(host, plan.unit, work, device) for device in devices]).astype(np.float64)


def _answer(host: Host, unit: Unit, work: GateWork, device: DeviceId) -> AnyFloats:
    installed, section = installed_of(host, device), host.joined().scenario.rollout
    x, y = host.rows.stream(device, max(work.window, 1))
    rows = min(len(x), host.joined().scenario.drift.window)
    if installed is None or installed.info.version != work.version or rows == 0:
        return np.zeros(evaluations.WIDTH, np.float32)
    x = raw_rows(host.joined().schema, x[:rows])
    before = open_previous(slots_of(host, device), host.model_cache)
    new = _answers(host, installed.predictor, x)
    old = _answers(host, before, x) if before is not None else [None] * rows
    telemetry = Telemetry()
    figures = np.full((rows, evaluations.WIDTH), np.nan)
    for number in range(rows):
        label, naming = y[number].item() if len(y) else None, installed.predictor.naming
        figures[number] = _row(new[number], old[number], telemetry, section.max_latency_us, label, naming)
    match unit:
        case Unit.EXAMPLE:
            return evaluations.example_answer(figures, section)
        case Unit.DEVICE | Unit.NONE:
            classes = y[:rows].astype(np.int64) if len(y) and _by_class(host) else None
            return evaluations.device_answer(figures, _slow(telemetry, section.max_latency_us), section, classes)
        case _:
            assert_never(unit)


def _by_class(host: Host) -> bool:
    """Whether each class counts alike, as far as the scenario says by what the task is judged."""
    task = host.joined()
    training, schema = task.scenario.training, task.schema
    shares = [training.prior[name] for name in schema.labels] if training.prior else []
    judged = judged_by(training.metric or None, shares, schema.classes).metric
    return not judged.of_numbers and judged not in (Metric.ACCURACY, Metric.LOG_LOSS)


def _answers(host: Host, predictor: Predictor, x: npt.NDArray[Any]) -> list[RowAnswer | None]:
    """All rows, each by itself. The first prediction makes buffers, so that its time says nothing."""
    limit = host.joined().scenario.rollout.max_latency_us / 1e6
    isolation, clock = host.policy.isolation, host.clock
    if isolation is Isolation.NONE:
        row_answers(predictor, x[:1], isolation, clock)
    return row_answers(predictor, x, isolation, clock, again_above=limit)


def _row(
    new: RowAnswer | None,
    old: RowAnswer | None,
    telemetry: Telemetry,
    limit_us: float,
    label: float | None,
    naming: Naming,
) -> Table:
    """Figures of one row, (5,); NaN where there is nothing to say. A row that breaks the schema says nothing."""
    figures = np.full(evaluations.WIDTH, np.nan)
    if new is None:
        return figures
    answer = new.prediction
    telemetry.answered(0, new.seconds)
    figures[evaluations.ERROR] = answer is None
    figures[evaluations.SLOW] = new.seconds * 1e6 > limit_us
    if label is not None:
        figures[evaluations.WRONG] = 1.0 if answer is None else _error(answer, label, naming)
    before = None if old is None else old.prediction
    if before is not None and naming.bounds is not None:
        apart = 1.0 if answer is None else _apart(answer, before, naming)
        figures[[evaluations.DISAGREEMENT, evaluations.SHIFT]] = apart
    elif before is not None:
        figures[evaluations.DISAGREEMENT] = answer is None or answer.label != before.label
        figures[evaluations.SHIFT] = abs((answer.confidence if answer else 0.0) - before.confidence)
    return figures


def _apart(answer: Prediction, before: Prediction, naming: Naming) -> float:
    """Mean distance of two answers' numbers, as parts of their ranges. In [0, 1]; 1 for answers of other sizes."""
    if answer.raw.shape != before.raw.shape:
        return 1.0
    low, high = naming.ranges()
    return float(np.minimum(1.0, np.abs(answer.raw - before.raw) / (high - low)).mean())


def _error(answer: Prediction, label: float, naming: Naming) -> float:
    """1 for a wrong class; of a number how far it is off, as a part of its range. In [0, 1]."""
    if answer.value is None or naming.bounds is None:
        return float(int(naming.decide(answer.probabilities[None])[0]) != label)
    low, high = naming.bounds
    return float(min(1.0, abs(answer.value - label) / (high - low)))


def _slow(telemetry: Telemetry, limit_us: float) -> float:
    """1 when the bucket of the 95th percentile lies above the limit, 0 when not, NaN when nothing was timed."""
    timed = telemetry.figures()
    return float(timed[0].percentile_us(evaluations.TIMELY) > limit_us) if timed else float("nan")
