"""Channels that a scenario names: planned, counted on devices, summed, tested, recorded, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedinfer.config import override
from fedinfer.coordinator.start import _named
from fedinfer.drift.channels import width
from fedinfer.errors import ConfigError
from fedinfer.messages import Purpose
from fedinfer.privacy.charges import mechanism_of
from tests.protocol.fleet import SCHEMA, settings, simulated
from tests.protocol.test_loop_stories import fine, whole_run

NAMED = 'drift.channels = ["predicted_class", "confidence", "faults", "input:a", "errors", "flags"]'


@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_named_channels_are_in_the_plan_the_norm_and_the_charge(tmp_path: Path, trust: str) -> None:
    fleet = simulated(
        tmp_path, settings(f'privacy.unit = "device"\nprivacy.epsilon = 50.0\nprivacy.trust = "{trust}"\n{NAMED}'), 8
    )
    channels = fleet.plan.channels
    assert [channel.name for channel in channels] == NAMED.split('"')[1::2]
    norm = math.sqrt(0.32 * 4 + 0.04 + 0.25)
    assert fleet.plan.drift is not None
    assert fleet.plan.drift.norm == pytest.approx(norm)
    assert fleet.plan.drift.mechanism.dimension == width(channels)
    assert mechanism_of(fleet.promise("window-1", b"", Purpose.DRIFT)).clipping_norm == pytest.approx(norm)


def test_a_run_watches_named_channels_until_flags_are_compared(tmp_path: Path) -> None:
    scenario = settings(
        f'privacy.unit = "none"\ndrift.windows = 8\ndrift.reference_windows = 2\ndrift.max_triggers = 0\n{NAMED}',
        tmp_path,
    )
    record, failure = whole_run(tmp_path, scenario, fine)
    assert failure is None
    timeline = record["drift"]["timeline"]
    estimated = timeline[0]["estimated"]
    assert 0.0 <= estimated["low"] <= estimated["accuracy"] <= estimated["high"] <= 1.0
    assert estimated["low"] <= timeline[0]["metric"] <= estimated["high"]  # without noise, on the same kind of rows
    assert "concept drift" in estimated["but"]
    assert "flags" in timeline[5]["learning"]
    assert {row["channel"] for row in timeline[6]["channels"]} >= {"faults", "input:a", "errors", "flags"}
    assert [alarm for alarm in record["drift"]["alarms"] if alarm["channel"] != "flags"] == []


def test_devices_are_told_which_channels_auto_chose(tmp_path: Path) -> None:
    """Eight devices see so little that the answers stay alone; a device that was told `auto` would refuse the word."""
    quick = 'privacy.unit = "none"\ndrift.windows = 2\ndrift.reference_windows = 1\ndrift.max_triggers = 0\n'
    record, failure = whole_run(tmp_path, settings(quick + 'drift.channels = ["auto"]', tmp_path), fine)
    assert failure is None
    watched = [row["channel"] for row in record["drift"]["timeline"][1]["channels"]]
    assert watched == ["predicted_class", "confidence"]


def test_flags_of_single_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'flags' needs") as refused:
        simulated(tmp_path, settings('drift.channels = ["predicted_class", "flags"]'), 8)
    assert "leave flags out" in refused.value.hint


def test_a_channel_that_there_is_not_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no channel 'weather'") as refused:
        simulated(tmp_path, settings('drift.channels = ["weather"]'), 8)
    assert "input:a" in refused.value.hint


def test_real_devices_are_asked_for_every_channel_that_is_named() -> None:
    scenario = override(settings(), {"drift.channels": ["confidence", "faults", "calibration"]})
    site: Any = SimpleNamespace(scenario=scenario, schema=SCHEMA, simulated=False)
    assert _named(site, 8).drift.channels == ("confidence", "faults", "calibration")
