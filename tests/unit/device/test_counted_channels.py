"""Channels that real devices count as they predict: those of the run, as simulated devices count them, crash or not."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.device.counted import counted_channels, inputs_of, layout_of
from fedinfer.device.host import Host
from fedinfer.device.inference import answer_window
from fedinfer.device.prediction_log import PredictionLog
from fedinfer.device.prediction_window import WindowRule
from fedinfer.device.recorder import RecordedPredictor, Recorder, recorder_of
from fedinfer.drift import Outputs, Sketch, chosen_channels, possible_names, width
from fedinfer.inference import (
    Installed,
    Naming,
    ObservationBuffer,
    Observed,
    Service,
    SessionCache,
    Slots,
    Telemetry,
    open_installed,
)
from fedinfer.messages import Kind, WindowReply, WindowRequest
from fedinfer.model_file import Isolation
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.schema import Schema, Text
from fedinfer.system import FrozenClock
from fedinfer.text import column_of
from fedinfer.wire import decode, encode
from tests.protocol.fleet import enrolled, real, settings
from tests.unit.inference.device_world import NOW, SCHEMA, Repository, make_rows, make_updater

NAMES = ("predicted_class", "confidence", "faults", "input:age", "input:ward", "projection:2", "errors", "calibration")
WATCHED = [*NAMES, "flags"]
ROWS = 5


def install(folder: Path) -> Installed:
    repository = Repository()
    repository.publish(1)
    make_updater(folder, repository).install(repository.fetch, NOW)
    return open_installed(Slots(folder / "slots"), SessionCache(1))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    install(tmp_path)
    return tmp_path


@pytest.fixture
def log(store: Path) -> PredictionLog:
    found = PredictionLog.open(store, FrozenClock(NOW))
    found.set_rule(WindowRule(50, 1000.0))
    found.watch(NAMES)
    return found


def recorder_in(store: Path) -> Recorder:
    found = recorder_of(store, FrozenClock(NOW))
    assert found is not None
    return found


def counts_in(log: PredictionLog) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in log.windows()[-1].counts.items()}


def expected(rows: np.ndarray, raw: np.ndarray, truth: np.ndarray | None = None) -> dict[str, list[float]]:
    sketch = Sketch(chosen_channels(SCHEMA, NAMES))
    sketch.add(Outputs(raw.argmax(1), raw, rows, truth))
    return dict(zip(NAMES, (counts.tolist() for counts in sketch.histograms()), strict=True))


def faulty_rows(count: int, seed: int = 5) -> np.ndarray:
    rows = make_rows(count=count, seed=seed)
    rows[::3, 0] = 500.0  # out of its range
    return rows


def test_every_way_to_predict_counts_the_channels_of_the_run(store: Path, log: PredictionLog) -> None:
    installed, rows, recorder = install(store), faulty_rows(16), recorder_in(store)
    with RecordedPredictor(installed, recorder) as predictor:
        predictor.predict(rows[:4])
        predictor.predict_one(rows[4])
        assert len(list(predictor.stream([*rows[5:9], "no row"], lambda number, error: None))) == 4
    buffer = ObservationBuffer(256, recorder)
    service = Service(Slots(store / "slots"), SessionCache(1), FrozenClock(NOW), Telemetry(), 5, buffer)
    service.predict(rows[9:15])
    service.predict_one(rows[15])
    buffer.flush()
    found = counts_in(log)
    assert found == expected(rows, installed.predictor.predict(rows).raw)
    assert found["faults"][0] > 0  # ages that are missing
    assert found["faults"][4] > 0  # ages out of range
    assert log.windows()[-1].rows == 16


def test_a_batch_that_fills_several_windows_puts_each_row_into_its_own(store: Path, log: PredictionLog) -> None:
    log.set_rule(WindowRule(4, 1000.0))
    installed, rows = install(store), faulty_rows(8)
    with RecordedPredictor(installed, recorder_in(store)) as predictor:
        raw = predictor.predict(rows).raw
    for window, part in zip(log.windows(), (slice(0, 4), slice(4, 8)), strict=True):
        assert {name: counts.tolist() for name, counts in window.counts.items()} == expected(rows[part], raw[part])


def test_rows_on_which_the_model_fails_count_in_channels_of_inputs(log: PredictionLog) -> None:
    rows, raw = faulty_rows(4), np.full((1, 3), 1 / 3, np.float32)
    naming = Naming.of_schema(SCHEMA)
    seen = [Observed(1, naming, SCHEMA, rows[:1], raw), Observed(1, naming, SCHEMA, rows[1:], None)]
    Recorder(log)(seen)
    sketch = Sketch(chosen_channels(SCHEMA, NAMES))
    sketch.add(Outputs(raw.argmax(1), raw, rows[:1]))
    sketch.add_unanswered(3, rows[1:])
    assert list(counts_in(log).values()) == [counts.tolist() for counts in sketch.histograms()]


def test_texts_are_counted_by_their_words(tmp_path: Path) -> None:
    schema = Schema((Text("said", 4, ("good", "bad")),), "y", ("no", "yes"))
    log = PredictionLog.open(tmp_path, FrozenClock(NOW))
    names = [name for name in possible_names(schema) if name != "flags"]
    log.watch(names)
    rows = column_of(["Good, good!", "never heard bad", ""])
    raw = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], np.float32)
    Recorder(log)([Observed(1, Naming.of_schema(schema), schema, rows, raw)])
    sketch = Sketch(chosen_channels(schema, names))
    sketch.add(Outputs(raw.argmax(1), raw, np.array([[2, 2, 0, 0], [1, 1, 3, 0], [0, 0, 0, 0]], np.float32)))
    assert list(counts_in(log).values()) == [counts.tolist() for counts in sketch.histograms()]
    assert counts_in(log)["faults"] == [pytest.approx(2 / 3), 1.0]
    np.testing.assert_array_equal(inputs_of(SCHEMA, np.ones((2, 4))), np.ones((2, 4)))


def test_other_channels_begin_another_window(store: Path, log: PredictionLog) -> None:
    with RecordedPredictor(install(store), recorder_in(store)) as predictor:
        predictor.predict(faulty_rows(4))
    log.watch(("confidence",))
    with RecordedPredictor(install(store), recorder_in(store)) as predictor:
        predictor.predict(faulty_rows(3))
    (window,) = log.windows()
    assert (list(window.counts), window.rows) == (["confidence"], 3)


def test_a_model_that_the_channels_do_not_fit_has_its_answers_counted(
    store: Path, log: PredictionLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.watch(("confidence", "input:weight"))
    with caplog.at_level(logging.WARNING), RecordedPredictor(install(store), recorder_in(store)) as predictor:
        predictor.predict(faulty_rows(BULK := 300))
    assert [(list(each.counts), each.rows) for each in log.windows()][-1][0] == ["predicted_class", "confidence"]
    assert sum(each.rows for each in log.windows()) == BULK
    assert [record.getMessage()[:45] for record in caplog.records] == ["of this model only the answers are counted: ["]


def test_flags_need_what_the_own_test_compares_and_are_no_histogram_of_rows() -> None:
    counted = counted_channels(SCHEMA, ("confidence", "flags"))
    names = [channel.name for channel in counted.channels]
    assert names[0] == "confidence"
    assert set(names) == {"confidence", "predicted_class", "faults"} | {f"input:{c.name}" for c in SCHEMA.columns}
    assert len(names) == len(set(names))
    assert counted_channels(SCHEMA, ()).layout == layout_of(chosen_channels(SCHEMA, ()))


# --- labels that come later ---


def answered_in(store: Path, rows: np.ndarray, request: str) -> Any:
    with RecordedPredictor(install(store), recorder_in(store)) as predictor:
        return predictor.predict(rows, request)


def label(store: Path, request: str, names: list[str]) -> None:
    recorder_in(store).label(request, names, SCHEMA, Naming.of_schema(SCHEMA))


def test_labels_count_in_the_window_that_is_open_when_they_come(store: Path, log: PredictionLog) -> None:
    log.set_rule(WindowRule(4, 1000.0))
    answers = answered_in(store, faulty_rows(6), "morning")
    names = [SCHEMA.labels[place] for place in answers.raw.argmax(1)]
    names[0] = next(name for name in SCHEMA.labels if name != names[0])
    log.set_rule(WindowRule(10, 1000.0))
    label(store, "morning", names)
    closed, opened = log.windows()
    assert (closed.labelled, opened.labelled, opened.rows) == (0, 6, 2)
    assert closed.counts["errors"].tolist() == [0, 0]
    assert opened.counts["errors"].tolist() == [5, 1]
    truth = np.array([SCHEMA.labels.index(name) for name in names])
    assert opened.counts["calibration"].tolist() == expected(faulty_rows(6), answers.raw, truth)["calibration"]
    assert opened.counts["predicted_class"].sum() == 2


def test_labels_of_a_version_that_is_gone_or_too_many_of_them_count_in_no_window(
    store: Path, log: PredictionLog
) -> None:
    log.set_rule(WindowRule(5, 1000.0))
    for request in ("a", "b", "c"):
        answered_in(store, faulty_rows(4), request)
    label(store, "a", ["well"] * 4)
    label(store, "b", ["well"] * 4)  # eight in a window of five
    assert log.windows()[-1].labelled == 4
    rows, raw = faulty_rows(1), np.full((1, 3), 1 / 3, np.float32)
    Recorder(log)([Observed(2, Naming.of_schema(SCHEMA), SCHEMA, rows, raw)])
    label(store, "c", ["well"] * 4)
    assert (log.windows()[-1].version, log.windows()[-1].labelled) == (2, 0)
    assert log.labels()[1].sum() > 0


def test_labels_beside_their_rows_open_a_window_by_themselves(store: Path, log: PredictionLog) -> None:
    installed = install(store)
    answers = installed.predictor.predict(faulty_rows(3))
    recorder_in(store).label_rows(1, answers, answers.raw.argmax(1), SCHEMA)
    (window,) = log.windows()
    assert (window.rows, window.labelled, window.counts["errors"].tolist()) == (0, 3, [3, 0])
    log.watch(("confidence",))  # no channel looks at labels
    recorder_in(store).label_rows(1, answers, answers.raw.argmax(1), SCHEMA)
    assert log.windows()[-1].labelled == 3


# --- a process that is killed ---

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from fedinfer.device.prediction_log import PredictionLog
from fedinfer.device.recorder import RecordedPredictor, Recorder
from fedinfer.drift import Sketch
from fedinfer.inference import SessionCache, Slots, open_installed
from fedinfer.system import SystemClock

store, where = Path(sys.argv[1]), sys.argv[2]
recorder = Recorder(PredictionLog.open(store, SystemClock()))
installed = open_installed(Slots(store / "slots"), SessionCache(1))
predictor = RecordedPredictor(installed, recorder)
predictor.predict(np.ones((4, 4), np.float32), "a")
predictor.close()

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "collected":  # answered, and not handed on
    predictor.predict(np.ones((4, 4), np.float32), "b")
    killed()
if where == "counting":  # in the middle of the transaction
    before = Sketch.histograms
    Sketch.histograms = lambda sketch: before(sketch) if sketch.rows < 3 else killed()
    predictor.predict(np.ones((4, 4), np.float32), "b")
    predictor.close()
if where == "labelling":  # the figures are written, the window is not
    PredictionLog._count_late = killed
    recorder.label("a", ["well"] * 4, installed.predictor.schema, installed.predictor.naming)
"""


@pytest.mark.parametrize("where", ["collected", "counting", "labelling"])
def test_a_kill_between_prediction_and_count_leaves_whole_windows(store: Path, where: str) -> None:
    log = PredictionLog.open(store, FrozenClock(NOW))
    log.set_rule(WindowRule(5, 1e9))
    log.watch(NAMES)
    done = subprocess.run([sys.executable, "-c", KILLED, str(store), where], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    (window,) = log.windows()
    assert (window.rows, window.labelled, window.closed) == (4, 0, None)
    for name in ("predicted_class", "confidence", "input:age", "input:ward", "projection:2"):
        assert window.counts[name].sum() == 4, name
    assert log.labels() == {}
    assert len(log.recall("a").raw) == 4  # its labels can still come
    answered_in(store, faulty_rows(4), "again")
    label(store, "a", ["well"] * 4)
    full, opened = log.windows()
    assert (full.rows, opened.rows, opened.labelled) == (5, 3, 4)


# --- what the agent hands over ---


class Given:
    """Rows of windows for a host that simulates."""

    def __init__(self, windows: list[np.ndarray]) -> None:
        self.windows = windows

    def stream(self, device: str, window: int) -> tuple[np.ndarray, np.ndarray]:
        return self.windows[window - 1], np.empty(0, np.int64)

    def training_count(self, device: str) -> int:
        return 1


@pytest.fixture
def host(tmp_path: Path) -> Host:
    scenario = settings(f'privacy.unit = "device"\nprivacy.epsilon = 50.0\ndrift.window = {ROWS}')
    fleet = real(enrolled(tmp_path / "stores", 4, Budget(80.0, 1e-5)), scenario)
    found = fleet.hosts[min(fleet.hosts)]
    task = found.joined()
    drift = task.scenario.drift.model_copy(update={"channels": tuple(WATCHED)})
    task.scenario, task.schema = task.scenario.model_copy(update={"drift": drift}), SCHEMA
    install(found.folder(min(found.members)))
    return found


def ask(host: Host, window: int) -> WindowReply:
    device = min(host.members)
    return decode(WindowReply, answer_window(host, [Ask(device, Kind.WINDOW, encode(WindowRequest(window)))])[0].body)


def unusual_on(folder: Path) -> list[str]:
    """What the owner of a device is told."""
    said = CliRunner().invoke(app, ["device", "windows", "--store", str(folder)]).stdout
    found: list[str] = json.loads(
        CliRunner().invoke(app, ["device", "windows", "--store", str(folder), "--json"]).stdout
    )["unusual"]
    assert f"unusual, compared with the first windows of this version: {', '.join(found)}" in " ".join(said.split())
    return found


def test_a_real_device_reports_what_a_simulated_one_does_for_the_same_rows(host: Host) -> None:
    device = min(host.members)
    folder, channels = host.folder(device), chosen_channels(SCHEMA, WATCHED)
    windows = [make_rows(count=ROWS, seed=seed) for seed in range(4)]
    windows += [np.tile(np.float32([[99, 199, 2, 1]]), (ROWS, 1))] * 2  # another world: the flag goes up
    windows = [np.repeat(rows, 8, axis=0) for rows in windows]
    drift = host.joined().scenario.drift.model_copy(update={"window": 8 * ROWS})
    host.joined().scenario = host.joined().scenario.model_copy(update={"drift": drift})
    assert not ask(host, 1).ready
    assert host.predictions is not None
    assert host.predictions.watched() == tuple(WATCHED)
    reports = []
    for number, rows in enumerate(windows, 1):
        with RecordedPredictor(open_installed(Slots(folder / "slots"), SessionCache(1)), recorder_in(folder)) as it:
            it.predict(rows)
        assert ask(host, number).ready
        reports.append(host.sketches.take(device, number, layout_of(channels)))
    assert not ask(host, 7).ready
    unusual = unusual_on(folder)
    assert {"input:age", "input:ward"} <= set(unusual), unusual
    host.references.put(device, np.zeros(1))  # of another task: forgotten
    host.predictions, host.rows = None, Given(windows)
    host.policy = replace(host.policy, isolation=Isolation.NONE)
    for number, report in enumerate(reports, 1):
        assert ask(host, number).ready
        np.testing.assert_array_equal(host.sketches.take(device, number, layout_of(channels)), report)
    assert [report[width(channels) - 1] for report in reports] == [0, 0, 0, 0, 0.5, 0.5]


def test_windows_that_are_passed_over_are_part_of_the_devices_own_reference(host: Host) -> None:
    device = min(host.members)
    folder = host.folder(device)
    assert not ask(host, 1).ready
    with RecordedPredictor(open_installed(Slots(folder / "slots"), SessionCache(1)), recorder_in(folder)) as predictor:
        predictor.predict(make_rows(count=3 * ROWS, seed=1))
    assert ask(host, 1).ready
    kept = host.references.get(device)
    assert kept is not None
    assert kept[:3].tolist() == [1.0, 3.0 * ROWS, 3.0]  # version, rows, windows
