"""A model in service: counts, observations, hot swap under load, and going back when the model fails."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

from fedinfer.errors import ArtifactRejected, DataError, GateFailed, NoModel
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.observation import ObservationBuffer
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.prometheus import metrics_text
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.telemetry import EDGES_SECONDS, Telemetry, percentile
from fedinfer.system import FrozenClock, SystemClock
from tests.unit.inference.device_world import (
    NOW,
    Repository,
    make_manifest,
    make_model,
    make_rows,
    make_updater,
    softmax_of,
)

ROWS = make_rows(count=16, seed=4)


@pytest.fixture
def world(tmp_path):
    repository = Repository()
    repository.publish(1)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    return tmp_path, repository


def make_service(folder, observations=None, most_failures=3):
    slots = Slots(folder / "slots", flush=lambda descriptor: None)
    return Service(slots, SessionCache(4), SystemClock(), Telemetry(), most_failures, observations)


def install_bad(folder, version):
    """A version that passes no self-check, put there by hand: a model that breaks after its install."""
    slots = Slots(folder / "slots")
    manifest = make_manifest(version, {"float": make_model(seed=version)})
    files = {"model.onnx": make_model(seed=version, body="nan"), "manifest.json": manifest.to_bytes()}
    slots.swap(slots.stage(version, "float", files))


def test_answers_and_counts(world):
    folder, _ = world
    service = make_service(folder)
    expected = softmax_of(make_model(seed=1), ROWS)
    for row, probabilities in zip(ROWS, expected, strict=True):
        np.testing.assert_allclose(service.predict_one(row).probabilities, probabilities, atol=1e-5)
    model, answers = service.predict(ROWS)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    assert model.info.version == 1
    with pytest.raises(DataError):
        service.predict_one({"age": 1})
    with pytest.raises(DataError):
        service.predict(np.zeros((2, 2)))
    (figures,) = service.telemetry.figures()
    assert (figures.version, figures.predictions, sum(figures.counts)) == (1, 32, 32)
    assert figures.errors == {"DataError": 2}
    assert 0 < figures.percentile_us(0.5) <= figures.percentile_us(0.99)


def test_nothing_installed(tmp_path):
    with pytest.raises(ArtifactRejected, match="no model is installed"):
        make_service(tmp_path)


def test_reload_takes_what_another_process_installed(world):
    folder, repository = world
    service = make_service(folder)
    assert not service.reload()
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    assert service.current.info.version == 1
    assert service.reload()
    assert service.current.info.version == 2


def test_damaged_model_is_said_and_the_previous_one_serves(world, caplog):
    folder, repository = world
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    slots = Slots(folder / "slots")
    service = make_service(folder)
    (folder / "slots" / slots.active().slot / "model.onnx").write_bytes(b"rot")
    assert make_service(folder).current.info.version == 1
    assert not service.reload()
    assert service.current.info.version == 2


def test_stand_in_for_a_damaged_model_is_taken_once(world, caplog):
    folder, repository = world
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    slots = Slots(folder / "slots")
    (folder / "slots" / slots.active().slot / "model.onnx").write_bytes(b"rot")
    service = make_service(folder)
    assert service.current.info.version == 1
    caplog.clear()
    assert [service.reload() for _ in range(3)] == [False] * 3
    assert not caplog.records
    repository.publish(3)
    make_updater(folder, repository).install(repository.fetch, NOW)
    assert service.reload()
    assert service.current.info.version == 3


def test_hot_swap_under_load_loses_no_request(world):
    """Four clients ask all the time while versions are swapped; each answer is the whole answer of one version."""
    folder, repository = world
    service = make_service(folder)
    expected = {1: softmax_of(make_model(seed=1), ROWS)}
    stop, asked, wrong = threading.Event(), [], []

    def client():
        count = 0
        while not stop.is_set() or count < 50:
            place = count % len(ROWS)
            try:
                found = service.predict_one(ROWS[place]).probabilities
            except Exception as error:  # any error is a lost request
                wrong.append(error)
                break
            if not any(np.allclose(found, answers[place], atol=1e-5) for answers in list(expected.values())):
                wrong.append(found)
            count += 1
        asked.append(count)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    updater = make_updater(folder, repository)
    for version in range(2, 12):
        expected[version] = softmax_of(make_model(seed=version), ROWS)
        repository.publish(version)
        updater.install(repository.fetch, NOW)
        assert service.reload()
        time.sleep(0.02)
    stop.set()
    for thread in clients:
        thread.join()
    assert wrong == []
    assert sum(asked) == sum(figures.predictions for figures in service.telemetry.figures())
    assert [figures.version for figures in service.telemetry.figures()][-1] == 11


def test_model_that_fails_in_service_is_rolled_back_and_said(world, caplog):
    folder, _ = world
    install_bad(folder, 2)
    service = make_service(folder, most_failures=3)
    for _ in range(2):
        with pytest.raises(GateFailed, match="NaN"):
            service.predict_one(ROWS[0])
    assert service.current.info.version == 2
    with caplog.at_level(logging.WARNING), pytest.raises(GateFailed):
        service.predict(ROWS)
    assert "version 2 failed 3 times" in caplog.text
    assert service.current.info.version == 1
    assert Slots(folder / "slots").pointer().withdrawn == (2,)
    assert service.predict_one(ROWS[0]).label
    assert service.telemetry.figures()[1].errors == {"GateFailed": 3}


def test_a_withdrawn_model_stops_serving_until_a_new_one_comes(world, caplog):
    folder, repository = world
    service = make_service(folder)
    Slots(folder / "slots").withdraw(1)
    with caplog.at_level(logging.WARNING):
        assert service.reload()
    assert not service.reload()
    assert "version 1 was withdrawn" in caplog.text
    assert service.version == 0
    for ask in (lambda: service.predict_one(ROWS[0]), lambda: service.predict(ROWS), lambda: service.current):
        with pytest.raises(NoModel, match="withdrawn"):
            ask()
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    assert service.reload()
    assert service.version == 2
    assert service.predict_one(ROWS[0]).label


def test_bad_rows_do_not_bring_a_model_down(world):
    folder, repository = world
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    service = make_service(folder, most_failures=1)
    for _ in range(10):
        with pytest.raises(DataError):
            service.predict_one("1,2")
    assert service.current.info.version == 2


def test_success_resets_the_count_of_failures(world, monkeypatch):
    folder, repository = world
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    service = make_service(folder, most_failures=2)
    real = type(service.current.predictor).predict_one

    def sometimes(self, row):
        if row is None:
            raise GateFailed("the model fails on one row: simulated")
        return real(self, row)

    monkeypatch.setattr(type(service.current.predictor), "predict_one", sometimes)
    for row in (None, ROWS[0], None, ROWS[0]):
        if row is None:
            with pytest.raises(GateFailed):
                service.predict_one(row)
        else:
            service.predict_one(row)
    assert service.current.info.version == 2


def test_failing_model_without_a_previous_one_stays_and_says_so(world, caplog):
    folder, _ = world
    install_bad(folder, 2)
    slots = Slots(folder / "slots")
    slots.stage(3, "float", {"model.onnx": b"staged only"})
    service = make_service(folder, most_failures=1)
    with caplog.at_level(logging.ERROR), pytest.raises(GateFailed):
        service.predict_one(ROWS[0])
    assert "no previous version" in caplog.text
    assert service.current.info.version == 2


def test_observations_arrive_in_bulk_with_their_version(world):
    folder, repository = world
    seen = []
    buffer = ObservationBuffer(5, lambda found: seen.extend((each.version, each.rows, each.raw) for each in found))
    service = make_service(folder, buffer)
    for row in ROWS[:7]:
        service.predict_one(row)
    assert [(version, len(x)) for version, x, _ in seen] == [(1, 5)]
    np.testing.assert_array_equal(seen[0][1], ROWS[:5])
    np.testing.assert_allclose(seen[0][2], softmax_of(make_model(seed=1), ROWS[:5]), atol=1e-5)
    repository.publish(2)
    make_updater(folder, repository).install(repository.fetch, NOW)
    service.reload()
    service.predict_one(dict(zip(("age", "pressure", "ward", "smoker"), (5, 90, "7", "no"), strict=True)))
    assert [(version, len(x)) for version, x, _ in seen] == [(1, 5)]
    service.predict(ROWS)
    buffer.flush()
    buffer.flush()
    assert [(version, len(x)) for version, x, _ in seen] == [(1, 5), (1, 2), (2, 1), (2, 16)]
    np.testing.assert_array_equal(seen[2][1], [[5, 90, 2, 0]])


def test_histogram_buckets_and_percentiles():
    telemetry = Telemetry()
    for seconds in (1e-6, 1.5e-6, 10e-6, 0.001):
        telemetry.answered(3, seconds)
    telemetry.answered(3, 100.0)
    (figures,) = telemetry.figures()
    assert figures.counts[0] == 1
    assert figures.counts[-1] == 1
    assert figures.seconds == pytest.approx(100.0010125)
    assert figures.percentile_us(0.2) == pytest.approx(1.0)
    for share, seconds in ((0.4, 1.5e-6), (0.6, 10e-6), (0.8, 0.001)):
        assert seconds <= percentile(figures.counts, share) <= seconds * 2**0.25 * 1.0001
    assert figures.percentile_us(1.0) == float("inf")
    assert percentile((0, 0), 0.5) == 0.0
    assert len(figures.counts) == len(EDGES_SECONDS) + 1


def test_batch_counts_every_row_at_its_share_of_the_time():
    telemetry = Telemetry()
    telemetry.answered(1, 0.001, rows=1000)
    telemetry.answered(1, 0.0, rows=0)
    (figures,) = telemetry.figures()
    assert figures.predictions == 1000
    assert figures.percentile_us(0.5) == pytest.approx(1.0)


def test_metrics_are_prometheus_text():
    telemetry = Telemetry()
    telemetry.answered(2, 3e-6)
    telemetry.answered(2, 50e-6)
    telemetry.failed(2, DataError("x"))
    lines = metrics_text(telemetry.figures(), 2, 12.5).splitlines()
    assert "fedinfer_model_version 2" in lines
    assert "fedinfer_repository_age_seconds 12.500" in lines
    assert 'fedinfer_errors_total{version="2",error="DataError"} 1' in lines
    buckets = [line for line in lines if "_bucket" in line]
    counts = [int(line.rsplit(" ", 1)[1]) for line in buckets]
    assert counts == sorted(counts)
    assert buckets[-1] == 'fedinfer_prediction_seconds_bucket{version="2",le="+Inf"} 2'
    assert 'fedinfer_prediction_seconds_bucket{version="2",le="4e-06"} 1' in lines
    assert 'fedinfer_prediction_seconds_count{version="2"} 2' in lines
    assert "fedinfer_repository_age_seconds" not in metrics_text((), 1, None)


def test_clock_of_the_caller_is_used(world):
    folder, _ = world
    clock = FrozenClock(NOW)
    service = Service(Slots(folder / "slots"), SessionCache(1), clock, Telemetry(), 1)
    service.predict_one(ROWS[0])
    assert service.telemetry.figures()[0].seconds == 0.0
