"""Inference on the device and the sketch of each window. Rows and predictions stay here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedinfer.device.host import Host
from fedinfer.device.install import slots_of
from fedinfer.drift.channels import CONFIDENCE_BINS, report_channels
from fedinfer.drift.sketch import OutputSketch, confidence_edges, device_report, example_report, report_norm
from fedinfer.errors import ArtifactRejected
from fedinfer.inference.installed import Installed, open_installed
from fedinfer.messages import HealthReply, WindowReply, WindowRequest
from fedinfer.ports import Answer, Ask
from fedinfer.types import DeviceId, FloatVector, Unit
from fedinfer.wire import decode, encode

TIMED_ROWS = 5
"""Rows of a window that are predicted one by one and timed; the rest goes through in one batch."""


def answer_window(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Infer on each device's rows of this window and keep the sketch until the report is asked for."""
    window = decode(WindowRequest, asks[0].common).window
    return [Answer(ask.device, encode(_observe(host, ask.device, window))) for ask in asks]


def answer_health(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Which model is active."""
    replies = []
    for ask in asks:
        active = slots_of(host, ask.device).active()
        refused = host.refused.get(ask.device, 0)
        reply = HealthReply(active.version if active else 0, active.slot if active else "", refused)
        replies.append(Answer(ask.device, encode(reply)))
    return replies


def installed_of(host: Host, device: DeviceId) -> Installed | None:
    """The model that serves on this device; None before the first install."""
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
        return WindowReply(False, 0, 0, 0, ())
    x, y = host.rows.stream(device, window)
    if len(x) == 0:
        return WindowReply(False, installed.info.version, 0, 0, ())
    predictor = installed.predictor
    latencies = [_timed(host, installed, row) for row in x[:TIMED_ROWS]]
    answers = predictor.predict_matrix(np.ascontiguousarray(x, np.float32))
    host.sketches.put(device, window, _sketch(host, answers.classes, answers.probabilities))
    if not host.policy.reveals_simulation:
        return WindowReply(True, installed.info.version, 0, 0, ())
    correct = int((answers.classes == y).sum()) if len(y) else 0
    return WindowReply(True, installed.info.version, len(x), correct, tuple(latencies))


def _timed(host: Host, installed: Installed, row: FloatVector) -> float:
    start = host.clock.seconds()
    installed.predictor.predict_one(row)
    return (host.clock.seconds() - start) * 1e6


def _sketch(host: Host, classes: np.ndarray, probabilities: FloatVector) -> FloatVector:
    schema, unit = host.joined().schema, host.joined().scenario.privacy.unit
    sketch = OutputSketch(schema.classes, confidence_edges(schema.classes, CONFIDENCE_BINS))
    sketch.add(classes, probabilities)
    if unit is Unit.EXAMPLE:
        return example_report(sketch.histograms())
    return device_report(sketch.histograms(), report_norm(unit, report_channels(schema.classes)))
