"""A malicious model: signed by the server, built to answer questions about the rows that it sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedinfer.device import inference as observe
from fedinfer.device.counted import layout_of
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.drift.channels import report_channels, width
from fedinfer.errors import GateFailed
from fedinfer.inference.predict.answers import Naming, Predictions
from fedinfer.messages import Kind, WindowReply, WindowRequest
from fedinfer.model_file.sandbox import Isolation
from fedinfer.ports import Answer, Ask
from fedinfer.wire import decode, encode
from tests.protocol.fleet import SCHEMA, settings, simulated

NAMING = Naming(SCHEMA.labels)


class Spy:
    """A model of two classes that has no answer for rows with a large first value, and says how many there were."""

    def predict_matrix(self, x: Any) -> Predictions:
        secret = int((x[:, 0] > 0.5).sum())
        if secret:
            raise GateFailed(f"the model answers NaN for {secret} rows")
        return Predictions(np.tile(np.array([0.9, 0.1], np.float32), (len(x), 1)), NAMING)


class Crowd:
    """A model in which one row changes the answers of all others of its batch."""

    def predict_matrix(self, x: Any) -> Predictions:
        likely = 0.9 if (x[:, 0] > 0.5).any() else 0.1
        return Predictions(np.tile(np.array([likely, 1 - likely], np.float32), (len(x), 1)), NAMING)


def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, model: Any) -> tuple[Host, str]:
    """A device that reveals nothing, with this model in its slot."""
    host = next(iter(simulated(tmp_path, settings(f'privacy.unit = "{unit}"'), 4).hosts.values()))
    host.policy = replace(host.policy, reveals_simulation=False)
    installed = SimpleNamespace(predictor=model, info=SimpleNamespace(version=3))
    monkeypatch.setattr(observe, "installed_of", lambda *_: installed)
    return host, min(host.members)


def window(host: Host, device: str, x: np.ndarray) -> Answer:
    host.rows = SimpleNamespace(stream=lambda *_: (x.astype(np.float32), np.zeros(len(x), np.int64)))  # type: ignore[assignment]  # streams only
    return DeviceResponder(host).answer([Ask(device, Kind.WINDOW, encode(WindowRequest(1)))])[0]


def taken(host: Host, device: str) -> np.ndarray:
    return host.sketches.take(device, 1, layout_of(report_channels(SCHEMA.classes)))


def table(*firsts: float) -> np.ndarray:
    return np.array([[first, 0.0, 1.0] for first in firsts])


@pytest.mark.parametrize("unit", ["example", "device"])
def test_a_model_that_fails_on_chosen_rows_tells_the_server_nothing(
    unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply of a window is the same bytes for none, some and only rows without an answer; so is having a report."""
    replies = set()
    for number, x in enumerate([table(0.1, 0.2, 0.3), table(0.1, 0.9, 0.3), table(0.9, 0.9, 0.9)]):
        (tmp_path / str(number)).mkdir()
        host, device = watching(tmp_path / str(number), monkeypatch, unit, Spy())
        answer = window(host, device, x)
        replies.add((answer.body, answer.error, answer.detail))
        assert taken(host, device).shape == (width(report_channels(SCHEMA.classes)),)
    assert replies == {(encode(WindowReply(True, 3, 0, 0, ())), "", "")}


@pytest.mark.parametrize("unit", ["example", "device"])
@pytest.mark.parametrize("simulated", [False, True])
def test_a_window_without_rows_is_answered_like_any_other(
    unit: str, simulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few held-out rows one label decides whether there are rows at all; the report of none is zeros."""
    host, device = watching(tmp_path, monkeypatch, unit, Spy())
    isolation = Isolation.NONE if simulated else Isolation.PROCESS
    host.policy = replace(host.policy, reveals_simulation=simulated, isolation=isolation)
    answer = window(host, device, table().reshape(0, 3))
    assert (answer.body, answer.error, answer.detail) == (encode(WindowReply(True, 3, 0, 0, ())), "", "")
    sketch = taken(host, device)
    assert sketch.shape == (width(report_channels(SCHEMA.classes)),)
    assert not sketch.any()


@pytest.mark.parametrize("model", [Spy(), Crowd()])
def test_one_row_moves_its_own_counts_only(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit `example`: whatever the model does with a batch, a row more or less changes one count in each histogram."""
    host, device = watching(tmp_path, monkeypatch, "example", model)
    base = [0.1, 0.2, 0.3, 0.4]
    for extra in (0.45, 0.9):
        sketches = []
        for firsts in (base, [*base, extra]):
            assert decode(WindowReply, window(host, device, table(*firsts)).body).ready
            sketches.append(taken(host, device))
        assert np.linalg.norm(sketches[1] - sketches[0]) <= np.sqrt(2) + 1e-6


def test_a_real_window_reveals_no_simulated_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, device = watching(tmp_path, monkeypatch, "example", Crowd())
    reply = decode(WindowReply, window(host, device, table(0.1, 0.9)).body)
    assert (reply.simulated_rows, reply.simulated_correct, reply.simulated_latencies_us) == (0, 0, ())
