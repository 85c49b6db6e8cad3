import subprocess
import sys

import numpy as np
import pytest

from fedinfer.drift.channels import (
    CONFIDENCE_BINS,
    Bins,
    Channel,
    Source,
    output_channels,
    report_channels,
    split,
    width,
)
from fedinfer.drift.sketch import (
    OutputSketch,
    class_histogram,
    confidence_edges,
    confidence_histogram,
    device_report,
    example_report,
    example_sensitivity,
    quantile_edges,
)
from fedinfer.errors import BadMessage, ConfigError, DataError


def test_class_histogram_counts_and_refuses_unknown_classes():
    assert class_histogram(np.array([0, 2, 2, 1]), 4).tolist() == [1, 1, 2, 0]
    assert class_histogram(np.array([], np.int64), 3).tolist() == [0, 0, 0]
    for bad in ([3], [-1]):
        with pytest.raises(DataError, match="allowed are 0 to 2"):
            class_histogram(np.array(bad), 3)


def test_confidence_bins_span_from_one_over_classes_to_one():
    edges = confidence_edges(2, 5)
    assert np.allclose(edges, [0.6, 0.7, 0.8, 0.9])
    rows = np.array([[0.5, 0.5], [0.45, 0.55], [0.05, 0.95], [0.0, 1.0], [0.25, 0.75]])
    assert confidence_histogram(rows, edges).tolist() == [2, 0, 1, 0, 2]


def test_a_prediction_that_is_not_a_number_is_counted_in_the_lowest_bin():
    edges = confidence_edges(2, 4)
    rows = np.array([[np.nan, np.nan], [0.1, 0.9]])
    assert confidence_histogram(rows, edges).tolist() == [1, 0, 0, 1]


def test_confidence_edges_refuse_nonsense():
    for classes, bins in ((1, 5), (3, 1)):
        with pytest.raises(ConfigError):
            confidence_edges(classes, bins)


def test_quantile_edges_fill_bins_equally_and_refuse_ties():
    values = np.arange(1000) / 1000
    counts = np.bincount(np.searchsorted(quantile_edges(values, 10), values, side="right"))
    assert counts.tolist() == [100] * 10
    with pytest.raises(ConfigError, match="ties"):
        quantile_edges(np.zeros(100), 10)


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
    sketch = OutputSketch(2, confidence_edges(2, 4))
    sketch.add(np.array([1]), np.array([[0.1, 0.9]], np.float32))
    sketch.add_unanswered(3)
    assert [histogram.tolist() for histogram in sketch.histograms()] == [[0, 1], [3, 0, 0, 1]]
    assert sketch.rows == 4
    assert device_report(sketch.histograms(), 10.0).tolist() == [0.0, 0.25, 0.75, 0.0, 0.0, 0.25]
    failed = OutputSketch(2, confidence_edges(2, 4))
    failed.add_unanswered(3)
    assert device_report(failed.histograms(), 10.0).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_one_row_moves_an_example_report_by_the_stated_sensitivity():
    channels = output_channels(3, 4)
    before = example_report([np.array([1, 2, 3]), np.array([0, 0, 2, 4])])
    after = example_report([np.array([1, 2, 4]), np.array([0, 1, 2, 4])])
    assert np.linalg.norm(after - before) == pytest.approx(example_sensitivity(channels))


def test_sketch_in_pieces_equals_sketch_in_one_go():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 1000)
    labels = probabilities.argmax(1)
    edges = confidence_edges(5, 10)
    whole, pieces = OutputSketch(5, edges), OutputSketch(5, edges)
    whole.add(labels, probabilities)
    for start in range(0, 600, 37):
        pieces.add(labels[start : min(start + 37, 600)], probabilities[start : min(start + 37, 600)])
    kept = pieces.histograms()
    resumed = OutputSketch(5, edges)
    resumed.restore(kept)
    resumed.add(labels[600:], probabilities[600:])
    assert resumed.rows == whole.rows == 1000
    for a, b in zip(resumed.histograms(), whole.histograms(), strict=True):
        assert np.array_equal(a, b)
    with pytest.raises(DataError, match="kept window"):
        OutputSketch(4, edges).restore(kept)


def test_histograms_handed_out_are_copies():
    sketch = OutputSketch(2, confidence_edges(2, 4))
    sketch.histograms()[0][0] = 99
    assert sketch.rows == 0


def test_split_cuts_by_channel_and_refuses_other_lengths_and_infinities():
    channels = output_channels(3, 4)
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
        Channel("x", 1, Bins.ORDERED, Source.INPUT)


def test_a_device_needs_only_numpy():
    code = (
        "import sys; import fedinfer.drift.sketch, fedinfer.drift.monitor, fedinfer.drift.policy; "
        "heavy = {'torch', 'scipy', 'pydantic', 'sklearn', 'dp_accounting', 'flwr', 'onnxruntime'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
