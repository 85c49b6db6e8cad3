"""A device's windows and installs: a sketch is reported once, a rejected model leaves the old one serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.drift_store import SKETCH_MIGRATIONS, MemorySketches, Sketches, StoredSketches
from fedinfer.drift import report_channels, window_report
from fedinfer.errors import Misbehaviour
from fedinfer.messages import (
    HealthReply,
    HealthRequest,
    Kind,
    PushReply,
    PushRequest,
    WindowReply,
    WindowRequest,
)
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.store import open_store
from fedinfer.types import Unit
from fedinfer.wire import decode, encode
from tests.protocol.fleet import Fleet, enrolled, real, settings, simulated

ONE = np.arange(8, dtype=np.float32)
LAYOUT = (("a", 2), ("b", 6))


@pytest.fixture(params=["memory", "stored"])
def sketches(request: pytest.FixtureRequest, tmp_path: Path) -> Sketches:
    if request.param == "memory":
        return MemorySketches()
    return StoredSketches(open_store(tmp_path / "s.sqlite", "sketches", SKETCH_MIGRATIONS))


def test_a_sketch_is_handed_out_once(sketches: Sketches) -> None:
    sketches.put("d", 1, ONE, LAYOUT)
    np.testing.assert_array_equal(sketches.take("d", 1, LAYOUT), ONE)
    with pytest.raises(Misbehaviour, match="no sketch of window 1"):
        sketches.take("d", 1, LAYOUT)


@pytest.mark.parametrize("other", [(("a", 8),), (("b", 2), ("a", 6)), ()])
def test_a_sketch_of_other_channels_is_not_handed_out_and_waits_on(
    sketches: Sketches, other: tuple[tuple[str, int], ...]
) -> None:
    """Even with as many bins: one row moves two channels further than one, for which the noise would be."""
    sketches.put("d", 1, ONE, LAYOUT, "run 7")
    assert sketches.carry("d", 2, "run 7")
    with pytest.raises(Misbehaviour, match="window 2 on device d counts other channels"):
        sketches.take("d", 2, other)
    np.testing.assert_array_equal(sketches.take("d", 2, LAYOUT), ONE)


def test_one_row_moves_a_report_of_millions_by_its_own_counts(sketches: Sketches) -> None:
    """In single precision the next number after 2^24 is two further, and after 4,000,000 a quarter."""
    channels, layout = report_channels(2), (("a", 1), ("b", 1))
    before = [np.array([2.0**24 + 1]), np.array([4e6 + 0.3])]
    for window, more in enumerate((0.0, 1.0), 1):
        counts = [histogram + more / place for place, histogram in enumerate(before, 1)]
        sketches.put("d", window, window_report(counts, Unit.EXAMPLE, channels), layout)
    moved = sketches.take("d", 2, layout).astype(np.float64) - sketches.take("d", 1, layout)
    np.testing.assert_allclose(moved, [1.0, 0.5], atol=1e-8)


def test_windows_and_devices_are_kept_apart(sketches: Sketches) -> None:
    for device in ("d", "e"):
        for window in (1, 2):
            sketches.put(device, window, ONE * window, LAYOUT)
    np.testing.assert_array_equal(sketches.take("e", 2, LAYOUT), ONE * 2)
    np.testing.assert_array_equal(sketches.take("d", 2, LAYOUT), ONE * 2)
    np.testing.assert_array_equal(sketches.take("d", 1, LAYOUT), ONE)


def test_a_window_observed_again_replaces_the_old_sketch(sketches: Sketches) -> None:
    sketches.put("d", 1, ONE, LAYOUT)
    sketches.put("d", 1, ONE * 3, LAYOUT)
    np.testing.assert_array_equal(sketches.take("d", 1, LAYOUT), ONE * 3)


def test_what_was_never_reported_is_carried_to_a_later_window_and_older_ones_are_forgotten(sketches: Sketches) -> None:
    for window in (1, 2):
        sketches.put("d", window, ONE * window, LAYOUT, "run 7")
    assert sketches.carry("d", 4, "run 7")
    np.testing.assert_array_equal(sketches.take("d", 4, LAYOUT), ONE * 2)
    assert not sketches.carry("d", 5, "run 7")
    for window in (1, 2):
        with pytest.raises(Misbehaviour):
            sketches.take("d", window, LAYOUT)


def test_a_window_that_is_asked_again_keeps_its_sketch(sketches: Sketches) -> None:
    sketches.put("d", 3, ONE, LAYOUT, "run 7")
    assert sketches.carry("d", 3, "run 7")
    np.testing.assert_array_equal(sketches.take("d", 3, LAYOUT), ONE)


def test_sketches_of_another_run_version_device_or_a_later_window_are_not_carried(sketches: Sketches) -> None:
    sketches.put("d", 3, ONE, LAYOUT, "run 7")
    assert not sketches.carry("d", 4, "run 8")
    assert not sketches.carry("e", 4, "run 7")
    assert not sketches.carry("d", 2, "run 7")
    sketches.put("d", 4, ONE * 4, LAYOUT, "other 7")
    assert sketches.carry("d", 4, "run 7")
    np.testing.assert_array_equal(sketches.take("d", 4, LAYOUT), ONE)


def test_a_stored_sketch_survives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    StoredSketches(open_store(path, "sketches", SKETCH_MIGRATIONS)).put("d", 1, ONE, LAYOUT)
    taken = StoredSketches(open_store(path, "sketches", SKETCH_MIGRATIONS)).take("d", 1, LAYOUT)
    np.testing.assert_array_equal(taken, ONE)
    taken[0] = 1  # it is the caller's own copy


# --- before and without a model ---


@pytest.fixture(params=["simulated", "real"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Fleet:
    if request.param == "simulated":
        return simulated(tmp_path, settings(), 4)
    return real(enrolled(tmp_path / "stores", 4, Budget(8.0, 1e-5)), settings())


def ask(fleet: Fleet, kind: Kind, common: bytes) -> bytes:
    device = min(fleet.hosts)
    answer = fleet.post.responders[device].answer([Ask(device, kind, common)])[0]
    assert not answer.error, answer
    return answer.body


def test_without_a_model_a_window_is_not_ready(fleet: Fleet) -> None:
    reply = decode(WindowReply, ask(fleet, Kind.WINDOW, encode(WindowRequest(1))))
    assert reply == WindowReply(False, 0, 0, 0, ())


def test_without_a_model_a_device_is_healthy_and_says_so(fleet: Fleet) -> None:
    assert decode(HealthReply, ask(fleet, Kind.HEALTH, encode(HealthRequest(1)))) == HealthReply(0, "", 0)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"metadata/timestamp.json": b"{}"},
        {"metadata/1.root.json": b"not json", "metadata/timestamp.json": b"\xff\xfe"},
        {"../../escape": b"x", "targets/model.onnx": b"x" * 1000},
    ],
)
def test_a_push_that_is_no_signed_release_is_refused_and_leaves_nothing(
    fleet: Fleet, tmp_path: Path, files: dict[str, bytes]
) -> None:
    reply = decode(PushReply, ask(fleet, Kind.PUSH, encode(PushRequest(1, files))))
    assert not reply.installed
    assert reply.version == 0
    assert reply.reason
    assert not list(tmp_path.rglob("escape"))
    assert not list(tmp_path.rglob("model.onnx"))


def test_all_devices_of_a_process_answer_in_the_order_they_were_asked(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, settings(), 4)
    responder: DeviceResponder = fleet.post.responders["d00"]
    names = ["d03", "d00", "d02"]
    answers = responder.answer([Ask(name, Kind.HEALTH, encode(HealthRequest(1))) for name in names])
    assert [answer.device for answer in answers] == names
    assert responder.answer([]) == []


def test_a_common_part_that_cannot_be_read_concerns_everybody(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, settings(), 4)
    for kind in Kind:
        if kind is Kind.ENROLL:
            continue  # it looks at nothing the server says
        answers = fleet.post.responders["d00"].answer([Ask(name, kind, b"garbage") for name in ("d00", "d01")])
        wanted = "BadMessage" if kind not in (Kind.SHARES, Kind.SURVIVORS, Kind.UNMASK, Kind.HEALTH) else None
        for answer in answers:
            assert wanted is None or answer.error == wanted, (kind, answer)
            assert kind is Kind.HEALTH or not answer.body
