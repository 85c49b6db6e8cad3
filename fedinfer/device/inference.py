"""Inference on the device and the sketch of each window. Rows and predictions stay here.

Rules. The server makes the models, so a model may be built to leak something about the rows it sees:
* whether, and on how many rows, it fails is visible in the noisy report only: a row without an answer counts in the
  lowest confidence bin, and the window is ready all the same;
* so it is without a row: whether one of the held-out rows has a label may be all that decides this;
* a real device, and unit `example` anywhere: rows are predicted one by one, so that a row moves its own count only. In
  a batch rows may influence each other (dynamic quantization does that without any malice);
* on a real device the model meets the rows in a process that is locked in (`fedinfer.inference.predict.row_answers`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.config import DriftSection
from fedinfer.device.counted import answered, counted_truth, layout_of
from fedinfer.device.host import Host
from fedinfer.device.install import slots_of
from fedinfer.device.own_test import raised, window_flag
from fedinfer.device.prediction_log import PredictionLog
from fedinfer.device.prediction_window import MOST_WINDOW_ROWS
from fedinfer.drift import (
    Channel,
    Outputs,
    Sketch,
    chosen_channels,
    local_channels,
    width,
    window_report,
)
from fedinfer.errors import ArtifactRejected
from fedinfer.inference import Installed, Predictor, open_installed, row_answers
from fedinfer.messages import HealthReply, WindowReply, WindowRequest
from fedinfer.model_file import Isolation
from fedinfer.ports import Answer, Ask
from fedinfer.schema import Schema
from fedinfer.text import raw_rows
from fedinfer.types import AnyFloats, DeviceId, FloatVector, Unit
from fedinfer.wire import decode, encode

TIMED_ROWS = 5
"""Rows of a simulated window that are timed."""
NEAR = 0.1
"""A predicted number counts as right in the record of a simulation within this part of the label's range."""
NOT_READY = WindowReply(False, 0, 0, 0, ())
_NO_ANSWER = -1
_log = logging.getLogger(__name__)


def answer_window(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Keep the sketch of each device's window until the report is asked for.

    A real device hands over the last closed window of what it predicted; a simulated one predicts held-out rows now.

    Args:
        host: wiring of this process; it has joined a run.
        asks: with one common part, an encoded `WindowRequest`.

    Returns:
        One encoded `WindowReply` per ask, in order.

    Raises:
        BadMessage: the common part cannot be decoded.
        Misbehaviour: before any join.
    """
    window = decode(WindowRequest, asks[0].common).window
    return [Answer(ask.device, encode(_observe(host, ask.device, window))) for ask in asks]


def answer_health(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Report which model is active on each device, and how often its ledger refused.

    Args:
        host: wiring of this process.
        asks: of one kind; their content is not read.

    Returns:
        One encoded `HealthReply` per ask, in order.
    """
    replies = []
    for ask in asks:
        active = slots_of(host, ask.device).active()
        refused = host.refused.get(ask.device, 0)
        reply = HealthReply(active.version if active else 0, active.slot if active else "", refused)
        replies.append(Answer(ask.device, encode(reply)))
    return replies


def installed_of(host: Host, device: DeviceId) -> Installed | None:
    """The model that serves on a device; None before the first install, or when it cannot be opened.

    Args:
        host: wiring of this process; keeps the opened model.
        device: one of the host's.
    """
    slots, known = slots_of(host, device), host.predictors.get(device)
    if known is not None and known.info == slots.active():  # another process may have installed meanwhile
        return known
    try:
        host.predictors[device] = open_installed(slots, host.model_cache)
    except ArtifactRejected:
        return None
    return host.predictors[device]


def _observe(host: Host, device: DeviceId, window: int) -> WindowReply:
    installed = installed_of(host, device)
    if installed is None:
        return NOT_READY
    if host.predictions is not None:
        return _reported(host, host.predictions, device, window, installed.info.version)
    tokens, y = host.rows.stream(device, window)
    x = raw_rows(host.joined().schema, tokens)
    classes, answers = _predicted(host, installed.predictor, x)
    schema = host.joined().schema
    counted = answered(schema, classes, answers).probabilities
    seen = _Seen(classes, counted, tokens, _truth(schema, y, len(x)))
    layout = layout_of(chosen_channels(schema, host.joined().scenario.drift.channels))
    host.sketches.put(device, window, _sketch(host, device, installed.info.version, seen), layout)
    if not host.policy.reveals_simulation:
        return WindowReply(True, installed.info.version, 0, 0, ())
    latencies = [_timed(host, installed, row) for row in x[:TIMED_ROWS]]
    correct = _correct(host.joined().schema, classes, answers, y)
    return WindowReply(True, installed.info.version, len(x), correct, tuple(latencies))


def _reported(host: Host, log: PredictionLog, device: DeviceId, window: int, version: int) -> WindowReply:
    """Put the newest window of real predictions where the report will ask for it."""
    task = host.joined()
    unit, drift = task.scenario.privacy.unit, task.scenario.drift
    channels, origin = chosen_channels(task.schema, drift.channels), f"{task.run_id} {version}"
    follow_watch(log, drift)
    fresh = [each for each in log.windows() if each.closed is not None and not each.reported]
    found = log.take(version, *_accepted(unit, drift.window))
    histograms = None if found is None else found.histograms(layout_of(_counted_by_rows(channels)))
    if found is not None and histograms is not None:
        flag = False
        if len(histograms) < len(channels):
            # Taken first: a crash in between leaves a window out of the device's reference, never in it twice.
            judged = [each for each in fresh if each.version == version and each.number <= found.number]
            flag = window_flag(host, device, task.schema, judged)
        whole = _with_flag(channels, histograms, flag, found.rows)
        report = window_report(whole, unit, channels, found.rows)
        host.sketches.put(device, window, report, layout_of(channels), origin)
        return WindowReply(True, version, 0, 0, ())
    # One that was handed over before and never reported (the server stopped, or too few others had one) counts still.
    return WindowReply(host.sketches.carry(device, window, origin), version, 0, 0, ())


def follow_watch(log: PredictionLog, drift: DriftSection) -> None:
    """Count from now on what a run reports, in windows of its length.

    Args:
        log: of this device.
        drift: of the run's scenario; a run that watches nothing changes nothing.
    """
    if not drift.enabled or not drift.windows:
        return
    if log.rule().rows != drift.window:
        log.set_rule(replace(log.rule(), rows=drift.window))
    if log.watched() != drift.channels:
        log.watch(drift.channels)


def _counted_by_rows(channels: Sequence[Channel]) -> list[Channel]:
    return [channel for channel in channels if not channel.source.of_windows]


def _with_flag(
    channels: Sequence[Channel], histograms: Sequence[npt.NDArray[Any]], flag: bool, rows: int
) -> list[npt.NDArray[Any]]:
    """Histograms of all channels: those that rows were counted into, and the flag of the whole window."""
    counted = iter(histograms)
    return [np.full(1, flag * float(rows)) if channel.source.of_windows else next(counted) for channel in channels]


def _timed(host: Host, installed: Installed, row: npt.NDArray[Any]) -> float:
    start = host.clock.seconds()
    installed.predictor.predict_one(row)
    return (host.clock.seconds() - start) * 1e6


def _predicted(host: Host, predictor: Predictor, x: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], FloatVector]:
    """Class numbers (n,), 0 for numbers and -1 where the model has no answer, and raw answers (n, outputs)."""
    task = host.joined()
    classes, raw = np.full(len(x), _NO_ANSWER), np.zeros((len(x), task.schema.outputs), np.float32)
    if host.policy.isolation is Isolation.PROCESS:
        for number, answer in enumerate(row_answers(predictor, x, Isolation.PROCESS, host.clock)):
            if answer is not None and answer.prediction is not None:
                raw[number] = answer.prediction.raw
                classes[number] = predictor.naming.decide(raw[number : number + 1])[0]
        return classes, raw
    step = _together(task.scenario.privacy.unit, len(x))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        try:
            answers = predictor.predict_matrix(x[part])
            raw[part] = answers.raw
            classes[part] = answers.naming.decide(answers.raw)
        except Exception as error:  # whatever its class: an error of the model is a row without an answer
            _log.warning("window: no answer for rows from %d on: %s", start, error)
    return classes, raw


def _correct(schema: Schema, classes: npt.NDArray[np.int64], answers: FloatVector, y: npt.NDArray[Any]) -> int:
    """Right answers of a simulated window: the class, or a value that is not off by more than a tenth of the range."""
    if schema.label_range is None:
        return int((classes == y).sum()) if len(y) else 0
    low, high = (ends[0] for ends in schema.ranges())
    near = np.abs(answers[:, 0] - y) <= NEAR * (high - low) if len(y) else np.zeros(0, np.bool_)
    return int((near & (classes != _NO_ANSWER)).sum()) if len(y) else 0


def _accepted(unit: Unit, rows: int) -> tuple[int, int]:
    """Least and most rows of a window that is reported."""
    match unit:
        case Unit.EXAMPLE:  # the monitor counts rows, so a window that closed by its time is too short to be one
            return rows, rows
        case Unit.DEVICE | Unit.NONE:
            return 1, MOST_WINDOW_ROWS
        case _:
            assert_never(unit)


def _together(unit: Unit, rows: int) -> int:
    """How many rows go through the model at once; see the module's rules."""
    match unit:
        case Unit.EXAMPLE:
            return 1
        case Unit.DEVICE | Unit.NONE:
            return max(rows, 1)
        case _:
            assert_never(unit)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a window held, row by row: labels -1 where the model has no answer."""

    classes: npt.NDArray[np.int64]
    answers: npt.NDArray[np.floating[Any]]
    inputs: FloatVector
    truth: npt.NDArray[Any]

    def counted(self, channels: Sequence[Channel]) -> Sketch:
        known = self.classes != _NO_ANSWER
        sketch = Sketch(channels)
        sketch.add(Outputs(self.classes[known], self.answers[known], self.inputs[known], self.truth[known]))
        sketch.add_unanswered(int((~known).sum()), self.inputs[~known])
        return sketch


def _truth(schema: Schema, y: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Labels of the rows as channels count them; -1 or NaN where a device has none."""
    if len(y) != rows:
        return np.full(rows, np.nan if schema.label_range is not None else -1)
    return counted_truth(schema, y)


def _sketch(host: Host, device: DeviceId, version: int, seen: _Seen) -> AnyFloats:
    task = host.joined()
    channels = chosen_channels(task.schema, task.scenario.drift.channels)
    if not seen.classes.size:
        return np.zeros(width(channels), np.float32)
    sketch = seen.counted(channels)
    if any(channel.source.of_windows for channel in channels):
        own = seen.counted(local_channels(task.schema))
        sketch.add_flag(raised(host, device, task.schema, version, own.histograms(), own.rows))
    return sketch.report(task.scenario.privacy.unit)
