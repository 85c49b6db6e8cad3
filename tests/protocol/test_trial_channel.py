"""A new drift channel is one entry of `REPORT`: planning, devices, monitor and record follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedinfer.device.counted import layout_of
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.drift import channels
from fedinfer.drift.channels import Bins, Channel, Counts, Outputs, Source, report_channels, split, width
from fedinfer.messages import Kind, Purpose, WindowRequest
from fedinfer.ports import Ask
from fedinfer.privacy.charges import mechanism_of
from fedinfer.wire import encode
from tests.protocol.fleet import SCHEMA, Fleet, settings, simulated
from tests.protocol.test_loop_stories import whole_run
from tests.protocol.test_red_team_models import Crowd, watching

SHARE = 0.5


class Weather:
    """A world that the trial channel sees: every row falls into the bin of today."""

    def __init__(self) -> None:
        self.today = 0
        self.windows = 0

    def channel(self, classes: int) -> Channel:
        return Channel("weather", 3, Bins.CATEGORIES, Source.OUTPUT, self.count, SHARE)

    def count(self, outputs: Outputs) -> Counts:
        return np.bincount(np.full(len(outputs.labels), self.today), minlength=3)

    def changes_in_window(self, last: int, devices: int):
        def passing(node: int, asked: str, reply: Message) -> Sequence[Message]:
            self.windows += asked == Kind.WINDOW
            self.today = int(self.windows >= last * devices)
            return [reply]

        return passing


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    trial = Weather()
    monkeypatch.setattr(channels, "REPORT", (*channels.REPORT, trial.channel))
    return trial


@pytest.mark.parametrize(("unit", "norm"), [("device", math.sqrt(0.32 + 0.32 + SHARE)), ("example", math.sqrt(3))])
def test_the_entry_is_in_the_plan_and_in_the_norm(weather: Weather, tmp_path: Path, unit: str, norm: float) -> None:
    fleet: Fleet = simulated(tmp_path, settings(f'privacy.unit = "{unit}"\nprivacy.epsilon = 50.0'), 8)
    assert [channel.name for channel in report_channels(2)] == ["predicted_class", "confidence", "weather"]
    assert fleet.plan.drift is not None
    assert fleet.plan.drift.mechanism.clipping_norm == pytest.approx(norm)
    assert fleet.plan.drift.mechanism.dimension == width(report_channels(2)) == 2 + 6 + 3
    assert mechanism_of(fleet.promise("window-1", b"", Purpose.DRIFT)).clipping_norm == pytest.approx(norm)


@pytest.mark.parametrize("unit", ["device", "example"])
def test_a_device_counts_and_cuts_it(
    weather: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    host, device = watching(tmp_path, monkeypatch, unit, Crowd())
    weather.today = 2
    DeviceResponder(host).answer([Ask(device, Kind.WINDOW, encode(WindowRequest(1)))])
    report = host.sketches.take(device, 1, layout_of(report_channels(SCHEMA.classes)))
    pieces = split(report.astype(np.float64), report_channels(SCHEMA.classes))
    if unit == "example":
        assert pieces["weather"].tolist() == [0, 0, pieces["predicted_class"].sum()]
    else:
        assert pieces["weather"][2] == pytest.approx(pieces["predicted_class"].sum(), rel=1e-6)
        assert np.linalg.norm(report) <= math.sqrt(0.64 + SHARE) + 1e-6


def test_a_run_reports_it_tests_it_and_raises_its_alarm(weather: Weather, tmp_path: Path) -> None:
    scenario = settings(
        'privacy.unit = "none"\ndrift.windows = 4\ndrift.reference_windows = 2\ndrift.max_triggers = 0', tmp_path
    )
    record, failure = whole_run(tmp_path, scenario, weather.changes_in_window(3, 8))
    assert failure is None
    timeline = record["drift"]["timeline"]
    assert timeline[1]["learning"] == ["predicted_class", "confidence", "weather"]
    quiet, moved = ({row["channel"]: row for row in timeline[at]["channels"]} for at in (2, 3))
    assert not quiet["weather"]["alarm"]
    assert moved["weather"]["alarm"]
    assert moved["weather"]["p_value"] < 1e-3 < quiet["weather"]["p_value"]
    assert [alarm["channel"] for alarm in record["drift"]["alarms"]] == ["weather"]


def test_half_an_entry_stops_the_run_before_it_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(channels, "REPORT", (*channels.REPORT, lambda classes: Channel("weather", 3, Bins.ORDERED)))
    with pytest.raises(TypeError, match="count"):
        simulated(tmp_path, settings(), 4)
