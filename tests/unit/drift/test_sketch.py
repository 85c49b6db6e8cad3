import math
import subprocess
import sys

import numpy as np
import pytest

from fedinfer.drift.channels import (
    CONFIDENCE_BINS,
    Bins,
    Channel,
    Outputs,
    Source,
    clip_norm,
    confidence,
    confidence_edges,
    predicted_class,
    report_channels,
    split,
    tally,
    width,
)
from fedinfer.drift.sketch import (
    Sketch,
    device_report,
    example_report,
    example_sensitivity,
    report_norm,
    window_report,
)
from fedinfer.errors import BadMessage, ConfigError, DataError
from fedinfer.types import Unit
from tests.unit.drift.entries import uncounted


def said(labels, classes):
    """Outputs that are sure of their class."""
    labels = np.array(labels, np.int64)
    return Outputs(labels, np.eye(classes)[np.clip(labels, 0, classes - 1)])


def sure(rows):
    rows = np.array(rows)
    return Outputs(np.zeros(len(rows), np.int64), rows)


def test_classes_are_counted_and_unknown_ones_refused():
    assert tally(predicted_class(4), said([0, 2, 2, 1], 4)).tolist() == [1, 1, 2, 0]
    assert tally(predicted_class(3), said([], 3)).tolist() == [0, 0, 0]
    for bad in ([3], [-1]):
        with pytest.raises(DataError, match="allowed are 0 to 2"):
            tally(predicted_class(3), said(bad, 3))


def test_confidence_bins_span_from_one_over_classes_to_one():
    assert np.allclose(confidence_edges(2, 5), [0.6, 0.7, 0.8, 0.9])
    rows = [[0.5, 0.5], [0.45, 0.55], [0.05, 0.95], [0.0, 1.0], [0.25, 0.75]]
    assert tally(confidence(2, 5), sure(rows)).tolist() == [2, 0, 1, 0, 2]


def test_a_prediction_that_is_not_a_number_is_counted_in_the_lowest_bin():
    assert tally(confidence(2, 4), sure([[np.nan, np.nan], [0.1, 0.9]])).tolist() == [1, 0, 0, 1]


def test_confidence_edges_refuse_nonsense():
    for classes, bins in ((1, 5), (3, 1)):
        with pytest.raises(ConfigError):
            confidence_edges(classes, bins)


def test_device_report_is_normalised_and_clipped():
    report = device_report([np.array([5, 5]), np.array([10, 0, 0])], clipping_norm=10.0)
    assert report.dtype == np.float32
    assert report.tolist() == [0.5, 0.5, 1.0, 0.0, 0.0]
    clipped = device_report([np.array([5, 5]), np.array([10, 0, 0])], clipping_norm=0.5)
    assert np.linalg.norm(clipped) == pytest.approx(0.5, rel=1e-6)
    assert np.allclose(clipped / clipped[2], report)
    with pytest.raises(DataError, match="without rows"):
        device_report([np.array([0, 0]), np.array([0, 0])], clipping_norm=1.0)


def test_rows_without_an_answer_count_in_the_lowest_confidence_bin_and_in_no_class():
    channels = (predicted_class(2), confidence(2, 4))
    sketch = Sketch(channels)
    sketch.add(Outputs(np.array([1]), np.array([[0.1, 0.9]], np.float32)))
    sketch.add_unanswered(3)
    assert [histogram.tolist() for histogram in sketch.histograms()] == [[0, 1], [3, 0, 0, 1]]
    assert device_report(sketch.histograms(), 10.0).tolist() == [0.0, 0.25, 0.75, 0.0, 0.0, 0.25]
    failed = Sketch(channels)
    failed.add_unanswered(3)
    assert device_report(failed.histograms(), 10.0).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_one_row_moves_an_example_report_by_the_stated_sensitivity():
    channels = (predicted_class(3), confidence(3, 4))
    before = example_report([np.array([1, 2, 3]), np.array([0, 0, 2, 4])])
    after = example_report([np.array([1, 2, 4]), np.array([0, 1, 2, 4])])
    assert np.linalg.norm(after - before) == pytest.approx(example_sensitivity(channels))


def test_the_two_channels_give_the_norm_that_was_measured():
    """docs/how-to/drift.md: C = 0.8 for two spread histograms, to the last bit: mechanisms compare it exactly."""
    assert clip_norm(report_channels(10)) == 0.8
    assert report_norm(Unit.DEVICE, report_channels(10)) == report_norm(Unit.NONE, report_channels(10)) == 0.8
    assert report_norm(Unit.EXAMPLE, report_channels(10)) == math.sqrt(2)


def test_sketch_in_pieces_equals_sketch_in_one_go():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 1000)
    labels = probabilities.argmax(1)
    channels = report_channels(5)
    whole, pieces = Sketch(channels), Sketch(channels)
    whole.add(Outputs(labels, probabilities))
    for start in range(0, 1000, 37):
        pieces.add(Outputs(labels[start : start + 37], probabilities[start : start + 37]))
    for a, b in zip(pieces.histograms(), whole.histograms(), strict=True):
        assert np.array_equal(a, b)
        assert a.sum() == 1000


def test_histograms_handed_out_are_copies():
    sketch = Sketch(report_channels(2))
    sketch.histograms()[0][0] = 99
    assert sketch.histograms()[0].sum() == 0


@pytest.mark.parametrize("unit", [Unit.NONE, Unit.DEVICE, Unit.EXAMPLE])
def test_a_report_is_never_longer_than_the_norm_that_planning_charges_for_one_unit(unit):
    channels, sketch = report_channels(3), Sketch(report_channels(3))
    sketch.add(sure([[1.0, 0.0, 0.0]] * (1 if unit is Unit.EXAMPLE else 20)))  # as peaked as can be
    report = window_report(sketch.histograms(), unit, channels)
    assert np.linalg.norm(report) == pytest.approx(report_norm(unit, channels), rel=1e-6)


def test_split_cuts_by_channel_and_refuses_other_lengths_and_infinities():
    channels = (predicted_class(3), confidence(3, 4))
    assert width(channels) == 7
    pieces = split(np.arange(7.0), channels)
    assert pieces["predicted_class"].tolist() == [0, 1, 2]
    assert pieces["confidence"].tolist() == [3, 4, 5, 6]
    with pytest.raises(BadMessage, match="shape"):
        split(np.zeros(8), channels)
    with pytest.raises(BadMessage, match="finite"):
        split(np.array([0, 0, 0, np.nan, 0, 0, 0]), channels)


def test_every_fleet_reports_class_and_confidence():
    assert [channel.name for channel in report_channels(4)] == ["predicted_class", "confidence"]
    assert report_channels(4)[1].bins == CONFIDENCE_BINS


def test_a_channel_needs_at_least_two_bins():
    with pytest.raises(ConfigError, match="1 bins"):
        uncounted("x", 1, Bins.ORDERED, Source.INPUT)


# ------------------------------------------------------------------ half an entry
def entry(**changes):
    values = {
        "name": "doubt", "bins": 2, "kind": Bins.ORDERED, "source": Source.OUTPUT,
        "count": lambda outputs: np.array([len(outputs.labels), 0]), "clip_share": 0.5,
    }  # fmt: skip
    return Channel(**{**values, **changes})


@pytest.mark.parametrize("missing", ["name", "bins", "kind", "source", "count", "clip_share"])
def test_half_an_entry_is_no_channel(missing):
    whole = {field: getattr(entry(), field) for field in ("name", "bins", "kind", "source", "count", "clip_share")}
    del whole[missing]
    with pytest.raises(TypeError, match=missing):
        Channel(**whole)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_channel_without_a_part_of_the_norm_is_refused(share):
    with pytest.raises(ConfigError, match=r"doubt: clip share"):
        entry(clip_share=share)


@pytest.mark.parametrize(
    "count",
    [
        lambda outputs: np.array([len(outputs.labels), 0, 0]),
        lambda outputs: np.array([2 * len(outputs.labels), 0]),
        lambda outputs: np.array([0, 0]),
        lambda outputs: np.array([len(outputs.labels) + 1, -1]),
    ],
    ids=["another number of bins", "every row twice", "no row at all", "less than nothing"],
)
def test_a_channel_that_does_not_count_every_row_once_stops_the_window(count):
    """Unit `example` charges sqrt(F) for one row: a channel that counts it twice would break the promise in silence."""
    sketch = Sketch((predicted_class(2), entry(count=count)))
    with pytest.raises(DataError, match="doubt"):
        sketch.add(said([0, 1, 1], 2))
    assert all(counts.sum() == 0 for counts in sketch.histograms()), "nothing is half counted"


def test_a_device_needs_only_numpy():
    code = (
        "import sys; import fedinfer.drift.sketch, fedinfer.drift.monitor, fedinfer.drift.policy; "
        "heavy = {'torch', 'scipy', 'pydantic', 'sklearn', 'dp_accounting', 'flwr', 'onnxruntime'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
