"""The drift channel of a predicted number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.drift.channels import VALUE_BINS, Outputs, clip_norm, report_channels, tally, value, width
from fedinfer.drift.sketch import Sketch, window_report
from fedinfer.errors import ConfigError
from fedinfer.types import Unit


def said(places):
    column = np.array(places, np.float32).reshape(-1, 1)
    return Outputs(np.zeros(len(column), np.int64), column)


def test_a_number_has_one_channel_instead_of_class_and_confidence():
    (channel,) = report_channels(0)
    assert (channel.name, channel.bins, width([channel])) == ("value", VALUE_BINS, VALUE_BINS)
    assert clip_norm([channel]) < 1.0
    assert [each.name for each in report_channels(2)] == ["predicted_class", "confidence"]
    with pytest.raises(ConfigError):
        report_channels(1)


def test_places_are_counted_by_the_public_range():
    assert tally(value(4), said([0.0, 0.24, 0.25, 0.6, 0.99, 1.0])).tolist() == [2, 1, 1, 2]


def test_what_is_no_number_counts_in_the_lowest_bin():
    assert tally(value(4), said([np.nan, -3.0, -np.inf, 7.0, np.inf])).tolist() == [3, 0, 0, 2]


@given(st.lists(st.floats(width=32), max_size=40), st.integers(2, 20))
def test_every_row_counts_once_whatever_the_model_says(places, bins):
    with np.errstate(all="ignore"):
        assert tally(value(bins), said(places)).sum() == len(places)


@pytest.mark.parametrize("unit", [Unit.EXAMPLE, Unit.DEVICE])
def test_one_row_moves_a_report_by_the_norm_that_is_accounted(unit):
    channels = report_channels(0)
    sketch, other = Sketch(channels), Sketch(channels)
    sketch.add(said([0.1, 0.5]))
    other.add(said([0.1]))
    other.add_unanswered(1)
    reports = [window_report(each.histograms(), unit, channels) for each in (sketch, other)]
    if unit is Unit.EXAMPLE:
        assert np.abs(reports[0]).sum() == 2.0
        assert reports[1].tolist() == [2.0, *[0.0] * 7]
    else:
        assert all(np.linalg.norm(report) <= clip_norm(channels) + 1e-6 for report in reports)
