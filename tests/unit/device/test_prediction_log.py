"""What a device predicted, in its store: whole windows whatever happens, each reported once, labels that come later."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from fedinfer.device.counted import layout_of
from fedinfer.device.labelled import BINS, class_sums, figures_of, number_sums, truth_of
from fedinfer.device.prediction_log import (
    FILE,
    MOST_CLOSED,
    MOST_REQUEST,
    MOST_WAITING_BYTES,
    PREDICTION_MIGRATIONS,
    PredictionLog,
)
from fedinfer.device.prediction_window import WaitingAnswers, WindowRule
from fedinfer.device.recorder import RecordedPredictor, Recorder, recorder_of
from fedinfer.drift import Outputs, Sketch, report_channels
from fedinfer.errors import ConfigError, DataError, StoreError
from fedinfer.inference import Naming, Observed, Predictions, SessionCache, Slots, open_installed
from fedinfer.schema import Numeric, Schema
from fedinfer.store import open_store
from fedinfer.system import FrozenClock, SystemClock
from tests.unit.inference.device_world import NOW, SCHEMA, Repository, make_rows, make_updater

LAYOUT = (("letters", 3), ("flags", 2))
NAMING = Naming(("well", "ill", "unclear"))
NUMBER = Schema((Numeric("x", 0, 1),), "y", (), label_range=(0.0, 100.0))


def letters(numbers: Sequence[int]):
    """Counts rows that are 0, 1 or 2, and whether they are 2."""
    rows = np.array(numbers)

    def count(start: int, end: int) -> tuple[np.ndarray, ...]:
        part = rows[start:end]
        return np.bincount(part, minlength=3), np.bincount((part == 2).astype(int), minlength=2)

    return count


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOW)


@pytest.fixture
def log(tmp_path: Path, clock: FrozenClock) -> PredictionLog:
    found = PredictionLog.open(tmp_path, clock)
    found.set_rule(WindowRule(5, 100.0))
    return found


def fill(log: PredictionLog, numbers: Sequence[int], version: int = 1, layout: Any = LAYOUT) -> None:
    log.add(version, layout, len(numbers), letters(numbers))


@pytest.mark.parametrize("before", [0, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 5, 7, 44, 45, 46, 50, 123])
def test_a_long_batch_fills_the_windows_that_its_rows_would_fill_one_by_one(
    tmp_path: Path, clock: FrozenClock, before: int, rows: int
) -> None:
    """Whatever is left out of a batch that fills more windows than are kept is what would be gone in the end."""
    kept = []
    numbers = np.random.default_rng(rows).integers(0, 3, before + rows).tolist()
    for name, pieces in (("whole", [numbers[:before], numbers[before:]]), ("single", [[each] for each in numbers])):
        (tmp_path / name).mkdir()
        log = PredictionLog.open(tmp_path / name, clock)
        log.set_rule(WindowRule(5, 100.0))
        for piece in pieces:
            fill(log, piece)
        windows = log.windows()
        kept.append([
            (window.number, window.rows, window.closed is None, *(counts.tolist() for counts in window.counts.values()))
            for window in windows
        ])  # fmt: skip
    assert kept[0] == kept[1]
    assert len(kept[0]) <= MOST_CLOSED + 1


def test_windows_close_at_their_number_of_rows_and_no_row_is_counted_twice(log: PredictionLog) -> None:
    numbers = [0, 1, 2, 2, 0, 1, 1, 1, 1, 1, 2, 2]
    fill(log, numbers[:3])
    fill(log, numbers[3:])
    fill(log, [])
    first, second, third = log.windows()
    assert [window.rows for window in (first, second, third)] == [5, 5, 2]
    assert [window.closed is None for window in (first, second, third)] == [False, False, True]
    for window, part in zip((first, second, third), (numbers[:5], numbers[5:10], numbers[10:]), strict=True):
        np.testing.assert_array_equal(window.counts["letters"], np.bincount(part, minlength=3))
        assert window.counts["flags"].tolist() == [sum(n != 2 for n in part), sum(n == 2 for n in part)]


def test_a_window_closes_after_its_time_at_the_next_look(log: PredictionLog, clock: FrozenClock) -> None:
    fill(log, [0, 1])
    clock.advance(99.0)
    fill(log, [2])
    assert [window.rows for window in log.windows()] == [3]
    clock.advance(1.0)
    assert log.windows()[0].closed is not None
    fill(log, [2])
    assert [(window.rows, window.closed is None) for window in log.windows()] == [(3, False), (1, True)]


def test_a_clock_that_went_back_closes_nothing(log: PredictionLog, clock: FrozenClock) -> None:
    fill(log, [0])
    clock.advance(-1e6)
    fill(log, [1])
    assert [window.rows for window in log.windows()] == [2]


@pytest.mark.parametrize("change", [{"version": 2}, {"layout": (("letters", 3), ("others", 2))}])
def test_another_version_or_layout_begins_anew_and_closed_windows_stay(log: PredictionLog, change: Any) -> None:
    fill(log, [0] * 7)
    fill(log, [1], **change)
    closed, opened = log.windows()
    assert (closed.version, closed.rows, opened.rows) == (1, 5, 1)
    assert opened.counts["letters"].tolist() == [0, 1, 0]


def test_a_smaller_window_closes_what_is_full_by_it(log: PredictionLog) -> None:
    fill(log, [0] * 4)
    log.set_rule(WindowRule(2, 100.0))
    assert log.windows()[0].closed is not None
    fill(log, [1] * 3)
    assert [(window.rows, window.closed is None) for window in log.windows()] == [(4, False), (2, False), (1, True)]


def test_a_window_is_handed_out_once_the_newest_first_and_never_an_older_one(log: PredictionLog) -> None:
    assert log.take(1, 1) is None
    fill(log, [0] * 4)
    assert log.take(1, 1) is None  # it is open
    fill(log, [0] + [1] * 5)
    assert log.take(2, 1) is None
    assert log.take(1, 6) is None
    assert log.take(1, 1, 4) is None
    taken = log.take(1, 5, 5)
    assert taken is not None
    assert taken.counts["letters"].tolist() == [0, 5, 0]
    assert log.take(1, 1) is None
    assert [window.reported for window in log.windows()] == [True, True]
    fill(log, [2] * 5)
    again = log.take(1, 1)
    assert again is not None
    assert again.number > taken.number


def test_only_the_last_closed_windows_are_kept(log: PredictionLog) -> None:
    fill(log, [0] * 5 * (MOST_CLOSED + 3) + [1])
    numbers = [window.number for window in log.windows()]
    assert numbers == list(range(4, MOST_CLOSED + 5))


def test_histograms_come_in_the_order_that_is_asked_for_or_not_at_all(log: PredictionLog) -> None:
    fill(log, [0, 2, 2])
    (window,) = log.windows()
    found = window.histograms((("flags", 2), ("letters", 3)))
    assert found is not None
    assert [counts.tolist() for counts in found] == [[1, 2], [1, 0, 2]]
    assert window.histograms((("letters", 4),)) is None
    assert window.histograms((("others", 3),)) is None


@pytest.mark.parametrize(("rows", "seconds"), [(0, 1.0), (10**10, 1.0), (1, 0.0), (1, float("nan"))])
def test_a_rule_without_sense_is_refused(rows: int, seconds: float) -> None:
    with pytest.raises(ConfigError, match="both are 1 to"):
        WindowRule(rows, seconds)


ADDING = """
import sys
from pathlib import Path
import numpy as np
from fedinfer.device.prediction_log import PredictionLog
from fedinfer.system import SystemClock
log, number = PredictionLog.open(Path(sys.argv[1]), SystemClock()), int(sys.argv[2])
print("ready", flush=True)
while number:
    log.add(1, (("a", 2),), 3, lambda start, end: (np.array([end - start, 0]),))
    number -= 1
"""


def add_in_another_process(folder: Path, batches: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", ADDING, str(folder), str(batches)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_several_processes_count_into_the_same_windows(tmp_path: Path, clock: FrozenClock) -> None:
    log = PredictionLog.open(tmp_path, clock)
    log.set_rule(WindowRule(100, 1e9))
    others = [add_in_another_process(tmp_path, 40) for _ in range(3)]
    assert [other.wait(60) for other in others] == [0, 0, 0]
    windows = log.windows()
    assert [window.rows for window in windows] == [100, 100, 100, 60]
    assert all(window.counts["a"].sum() == window.rows for window in windows)
    for other in others:
        assert other.stdout is not None
        other.stdout.close()


def test_a_process_that_is_killed_leaves_whole_windows(tmp_path: Path, clock: FrozenClock) -> None:
    log = PredictionLog.open(tmp_path, clock)
    log.set_rule(WindowRule(50, 1e9))
    other = add_in_another_process(tmp_path, -1)  # without end
    assert other.stdout is not None
    with other.stdout:
        other.stdout.readline()
        while len(log.windows()) < 3:
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(60)
    windows = log.windows()
    assert len(windows) >= 3
    assert all(window.counts["a"].sum() == window.rows for window in windows)
    assert all(window.rows == 50 for window in windows[:-1])
    log.add(1, (("a", 2),), 1, lambda start, end: (np.array([0, 1]),))
    assert log.windows()[-1].counts["a"][1] == 1


# --- labels that come later ---


def waiting(version: int = 1, rows: int = 2) -> WaitingAnswers:
    raw = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]] * rows, np.float32)[:rows]
    return WaitingAnswers(version, raw.argmax(1), raw)


def test_answers_wait_for_their_labels_and_are_labelled_once(log: PredictionLog) -> None:
    log.remember({"a": waiting(), "b": waiting(2)})
    recorder = Recorder(log)
    found = recorder.label("a", ["well", "ill"], SCHEMA, NAMING)
    assert (found.rows, found.value) == (2, 0.5)
    with pytest.raises(DataError, match="no answers wait for the labels of request 'a'"):
        recorder.label("a", ["well", "ill"], SCHEMA, NAMING)
    assert recorder.label("b", ["well", "unclear"], SCHEMA, NAMING).value == 1.0
    assert sorted(log.labels()) == [1, 2]


def test_labels_count_once_though_others_wait_under_the_same_id_by_then(log: PredictionLog) -> None:
    """Two calls that label one request at once, and a new request under its id between them."""
    sums = np.ones((3, BINS))
    log.remember({"a": waiting()})
    first, second = log.recall("a"), log.recall("a")
    log.add_labels(1, sums, "a", first.number)
    log.remember({"a": waiting(rows=1)})
    with pytest.raises(DataError, match="request 'a' has its labels already"):
        log.add_labels(1, sums, "a", second.number)
    np.testing.assert_array_equal(log.labels()[1], sums.ravel())
    assert len(log.recall("a").raw) == 1, "its own labels can still come"


def test_answers_that_waited_in_an_earlier_version_still_do(tmp_path: Path) -> None:
    before = open_store(tmp_path / FILE, "predictions", PREDICTION_MIGRATIONS[:2])
    data = np.array([[1, 0.25, 0.75]], "<f4").tobytes()
    before.execute("INSERT INTO waiting VALUES ('a', 7, 3, 1, ?)", (data,))
    before.commit()
    before.close()
    found = PredictionLog.open(tmp_path, SystemClock()).recall("a")
    assert (found.version, found.chosen.tolist(), found.raw.tolist(), found.number) == (3, [1], [[0.25, 0.75]], 7)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [(["well"], "1 labels for the 2 rows"), (["well", "dead"], "label 1 is 'dead'"), ([1, "ill"], "label 0 is '1'")],
)
def test_labels_that_do_not_fit_are_refused_and_the_answers_wait_on(
    log: PredictionLog, labels: list[object], reason: str
) -> None:
    log.remember({"a": waiting()})
    with pytest.raises(DataError, match=reason):
        Recorder(log).label("a", labels, SCHEMA, NAMING)
    assert len(log.recall("a").raw) == 2
    assert not log.labels()


def test_what_waits_is_bounded(log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedinfer.device.prediction_log.MOST_WAITING", 2)
    for request in ("a", "b", "c"):
        log.remember({request: waiting()})
    with pytest.raises(DataError, match="'a'"):
        log.recall("a")
    assert len(log.recall("b").raw) == len(log.recall("c").raw) == 2
    large = waiting(rows=MOST_WAITING_BYTES // 16 + 1)
    log.remember({"": waiting(), "x" * (MOST_REQUEST + 1): waiting(), "large": large})
    for request in ("", "x" * (MOST_REQUEST + 1), "large"):
        with pytest.raises(DataError, match="no answers wait"):
            log.recall(request)


def test_under_an_id_that_cannot_be_written_nothing_waits_and_all_others_do(log: PredictionLog) -> None:
    log.remember({"a": waiting(), "\ud800": waiting(), "b": waiting()})
    assert len(log.recall("a").raw) == len(log.recall("b").raw) == 2
    with pytest.raises(DataError, match=r"no answers wait for the labels of request '.ud800'"):
        log.recall("\ud800")


def test_figures_of_classes_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(3)
    raw = rng.dirichlet((1, 1, 1), 500).astype(np.float32)
    chosen, truth = raw.argmax(1), rng.integers(0, 3, 500)
    parts = [class_sums(chosen[part], raw[part], truth[part]) for part in (slice(200), slice(200, None))]
    found = figures_of(parts[0] + parts[1], SCHEMA)
    assert (found.rows, found.metric, found.calibration) == (500, "accuracy", "calibration_error")
    assert found.value == pytest.approx(sum(a == b for a, b in zip(truth, chosen, strict=True)) / 500)
    confidence, right = raw.max(1).astype(float), chosen == truth
    error = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (confidence >= low) & (confidence < low + 1 / BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found.calibration_value == pytest.approx(error, abs=1e-9)
    assert found.found == pytest.approx(
        {
            "balanced_accuracy": balanced_accuracy_score(truth, chosen),
            "f1": f1_score(truth, chosen, average="macro"),
            **{f"recall {SCHEMA.labels[c]}": recall_score(truth == c, chosen == c) for c in range(3)},
        }
    )
    nothing = figures_of(np.zeros((3, BINS)), SCHEMA)
    assert nothing.to_json() == {"rows": 0, "accuracy": None, "calibration_error": None}


def test_a_model_that_never_finds_the_rare_class_is_not_praised() -> None:
    two = replace(SCHEMA, labels=("ok", "leak"))
    truth = np.array([0] * 97 + [1] * 3)
    raw = np.tile(np.array([[0.9, 0.1]], np.float32), (100, 1))
    found = figures_of(class_sums(np.zeros(100, np.int64), raw, truth), two).to_json()
    assert found["accuracy"] == 0.97
    assert (found["balanced_accuracy"], found["f1"], found["recall ok"], found["recall leak"]) == (0.5, 0.0, 1.0, 0.0)


def test_labels_that_an_earlier_release_did_not_count_by_class_say_nothing_about_classes(log: PredictionLog) -> None:
    raw, truth = np.tile(np.array([[0.2, 0.7, 0.1]], np.float32), (4, 1)), np.array([1, 1, 0, 2])
    sums = class_sums(np.ones(4, np.int64), raw, truth)
    log.add_labels(1, sums[: 3 * BINS])
    both = figures_of(log.add_labels(1, sums), SCHEMA)
    assert (both.rows, both.value, both.found) == (8, 0.5, {})
    assert figures_of(log.add_labels(2, sums), SCHEMA).found["recall " + SCHEMA.labels[1]] == 1.0


def test_figures_of_numbers_are_those_of_their_definitions() -> None:
    naming = Naming((), bounds=(0.0, 100.0), interval=5.0)
    raw, truth = np.array([[10.0], [50.0], [97.0]], np.float32), np.array([12.0, 60.0, 100.0])
    found = figures_of(number_sums(naming, raw, truth), NUMBER)
    assert (found.metric, found.calibration) == ("rmse", "coverage")
    assert found.value == pytest.approx(np.sqrt(np.mean([4.0, 100.0, 9.0])))
    assert found.calibration_value == pytest.approx(2 / 3)
    assert figures_of(np.zeros(3), NUMBER).to_json() == {"rows": 0, "rmse": None, "coverage": None}


@pytest.mark.parametrize("label", ["7", True, None, float("nan"), float("inf"), 10**400, 1e299, -4e38])
def test_the_label_of_a_number_is_a_finite_number(label: object) -> None:
    assert truth_of([1, 2.5], NUMBER).tolist() == [1.0, 2.5]
    with pytest.raises(DataError, match="label 1 is"):
        truth_of([1, label], NUMBER)


def test_no_label_of_a_client_makes_the_figures_of_a_version_infinite_for_good() -> None:
    raw, largest = np.zeros((4, 1), np.float32), float(np.finfo(np.float32).max)
    truth = truth_of([largest, -largest] * 2, NUMBER)
    sums = number_sums(Naming((), bounds=(0.0, 100.0), interval=5.0), raw, np.asarray(truth, np.float64))
    found = figures_of(sums * 1e9, NUMBER)
    assert found.value == pytest.approx(largest)


# --- from predictions to counts ---


@pytest.fixture
def store(tmp_path: Path) -> Path:
    repository = Repository()
    repository.publish(1)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    return tmp_path


def expected(raw: np.ndarray) -> list[list[float]]:
    sketch = Sketch(report_channels(3))
    sketch.add(Outputs(raw.argmax(1), raw))
    return [counts.tolist() for counts in sketch.histograms()]


def counts_of(log: PredictionLog) -> list[list[float]]:
    found = log.windows()[-1].histograms(layout_of(report_channels(3)))
    assert found is not None
    return [counts.tolist() for counts in found]


def test_every_way_to_predict_fills_the_same_window(store: Path, clock: FrozenClock) -> None:
    installed = open_installed(Slots(store / "slots"), SessionCache(1))
    rows = make_rows(count=10, seed=5)
    recorder = recorder_of(store, clock)
    assert recorder is not None
    with RecordedPredictor(installed, recorder) as predictor:
        predictor.predict(rows[:4], "morning")
        predictor.predict_one(rows[4])
        assert len(list(predictor.stream([*rows[5:], "no row"], lambda number, error: None))) == 5
        assert not PredictionLog.open(store, clock).windows()  # in bulk, at the end
    log = PredictionLog.open(store, clock)
    assert counts_of(log) == expected(installed.predictor.predict(rows).raw)
    assert len(log.recall("morning").raw) == 4


def test_a_program_opens_the_store_and_is_counted(store: Path) -> None:
    import fedinfer

    with fedinfer.open_device(store).recorded() as predictor:
        predictor.predict_one({"age": 41, "pressure": 120.5, "ward": "7", "smoker": "no"})
    assert PredictionLog.open(store, FrozenClock(NOW)).windows()[0].rows == 1


def test_rows_without_an_answer_are_counted_where_the_channels_put_them(log: PredictionLog) -> None:
    log.set_rule(WindowRule(50, 100.0))
    recorder, raw = Recorder(log), np.array([[0.7, 0.2, 0.1]], np.float32)
    rows = np.zeros((1, 4), np.float32)
    answered, failed = Observed(1, NAMING, SCHEMA, rows, raw), Observed(1, NAMING, SCHEMA, rows, None)
    recorder([answered, failed, failed])
    sketch = Sketch(report_channels(3))
    sketch.add(Outputs(raw.argmax(1), raw))
    sketch.add_unanswered(2)
    assert counts_of(log) == [counts.tolist() for counts in sketch.histograms()]
    assert log.windows()[-1].rows == 3


def test_a_number_is_counted_by_its_place_in_its_range(log: PredictionLog) -> None:
    naming, raw = Naming((), bounds=(0.0, 100.0)), np.array([[0.0], [99.0]], np.float32)
    Recorder(log)([Observed(1, naming, NUMBER, np.zeros((2, 1)), raw)])
    assert log.windows()[-1].counts["value"].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_a_log_that_fails_stops_no_prediction_and_is_said_once(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreError("database: disk is full")

    monkeypatch.setattr(log, "add", full)
    recorder, raw = Recorder(log), np.array([[0.7, 0.2, 0.1]], np.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            recorder([Observed(1, NAMING, SCHEMA, np.zeros((1, 4)), raw)])
    assert [record.getMessage() for record in caplog.records] == ["predictions are not counted: database: disk is full"]


def test_without_a_place_for_the_log_nothing_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert recorder_of(tmp_path / "absent", FrozenClock(datetime(2030, 1, 1, tzinfo=UTC))) is None
    assert "predictions are not counted" in caplog.text


def test_labels_beside_their_rows_are_added_up(log: PredictionLog) -> None:
    raw = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32)
    recorder = Recorder(log)
    recorder.label_rows(1, Predictions(raw, NAMING), np.array([0, 0]), SCHEMA)
    assert recorder.label_rows(1, Predictions(raw, NAMING), np.array([0, 2]), SCHEMA).to_json()["accuracy"] == 0.75


def test_the_log_is_for_its_owner_alone_and_holds_no_row(store: Path, clock: FrozenClock) -> None:
    installed = open_installed(Slots(store / "slots"), SessionCache(1))
    recorder = recorder_of(store, clock)
    assert recorder is not None
    row = np.array([[41.0, 120.5, 2.0, 0.0]], np.float32)
    with RecordedPredictor(installed, recorder) as predictor:
        predictor.predict(row, "x")
    files = list(store.glob("predictions.sqlite*"))
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    data = b"".join(file.read_bytes() for file in files)
    for cell in (41.0, 120.5):
        assert np.float32(cell).tobytes() not in data
        assert np.float64(cell).tobytes() not in data
