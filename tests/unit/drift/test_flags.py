"""A device's own test: one bit, raised equally often while nothing changes, more often when it does."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedinfer.drift import chosen_channels, judge_window, local_channels, named, pack_reference, unpack_reference
from fedinfer.drift.channels import Outputs, tally
from fedinfer.drift.flags import LEVEL, LOCAL_WINDOWS, LocalReference
from fedinfer.schema import Numeric, Schema

SCHEMA = Schema((Numeric("a", -4, 4), Numeric("b", -4, 4)), "y", ("no", "yes"))
CHANNELS = chosen_channels(SCHEMA, ["input:a", "input:b"])


def counts(rng, rows, shift=0.0):
    x = rng.normal(size=(rows, 2)) + np.array([shift, 0.0])
    labels = np.zeros(rows, np.int64)
    return tuple(tally(channel, Outputs(labels, np.eye(2)[labels], x.astype(np.float32))) for channel in CHANNELS)


def raised(shift, devices=400, rows=50, windows=4, seed=0):
    rng, flags = np.random.default_rng(seed), []
    for _ in range(devices):
        reference = None
        for _ in range(LOCAL_WINDOWS):
            reference, flag = judge_window(CHANNELS, reference, 1, counts(rng, rows), rows)
            assert not flag
        flags += [judge_window(CHANNELS, reference, 1, counts(rng, rows, shift), rows)[1] for _ in range(windows)]
    return np.mean(flags)


def test_a_quiet_device_seldom_raises_its_flag_and_a_shifted_one_often():
    assert raised(0.0) <= LEVEL * 1.3
    assert raised(0.7, devices=60) >= 0.7


def test_the_p_value_is_that_of_the_pooled_quadratic_form():
    """Written out with numpy and scipy for one channel of two bins: the two-sample z test of shares, squared."""
    channel = chosen_channels(SCHEMA, ["predicted_class"])[0]
    reference = LocalReference(1, (np.array([60.0, 40.0]),), 100, LOCAL_WINDOWS)
    for now in range(51):
        flag = judge_window([channel], reference, 1, (np.array([50.0 - now, now]),), 50)[1]
        pooled = (40 + now + 0.5) / 151
        z = (now / 50 - 0.4) / np.sqrt(pooled * (1 - pooled) * (1 / 50 + 1 / 100))
        p_value = 2 * stats.norm.sf(abs(z))
        assert flag == (p_value < LEVEL)
        both = LocalReference(1, reference.counts * 2, 100, LOCAL_WINDOWS)
        shared = judge_window([channel] * 2, both, 1, (np.array([50.0 - now, now]),) * 2, 50)[1]
        assert shared == (p_value < LEVEL / 2)


def test_another_model_begins_anew_and_the_reference_stops_growing():
    rng, reference = np.random.default_rng(1), None
    for window in range(LOCAL_WINDOWS + 3):
        reference, _ = judge_window(CHANNELS, reference, 1, counts(rng, 10), 10)
        assert reference.rows == 10 * min(window + 1, LOCAL_WINDOWS)
    reference, flag = judge_window(CHANNELS, reference, 2, counts(rng, 10, 9.0), 10)
    assert (reference.version, reference.windows, flag) == (2, 1, False)


def test_a_reference_is_packed_and_read_and_that_of_another_task_is_forgotten():
    rng = np.random.default_rng(2)
    reference, _ = judge_window(CHANNELS, None, 3, counts(rng, 20), 20)
    again = unpack_reference(pack_reference(reference), CHANNELS)
    assert (again.version, again.rows, again.windows, again.unusual) == (3, 20, 1, (0, 0))
    lasting = replace(reference, unusual=(0, 7))
    assert unpack_reference(pack_reference(lasting), CHANNELS).unusual == (0, 7)
    assert all(np.array_equal(a, b) for a, b in zip(again.counts, reference.counts, strict=True))
    assert unpack_reference(pack_reference(reference), local_channels(SCHEMA)) is None


def test_an_empty_window_raises_nothing():
    reference = LocalReference(1, tuple(np.zeros(channel.bins) for channel in CHANNELS), 0, LOCAL_WINDOWS)
    assert judge_window(CHANNELS, reference, 1, counts(np.random.default_rng(0), 5), 5)[1] is False


@pytest.mark.parametrize("window", range(LOCAL_WINDOWS))
def test_the_first_windows_are_the_devices_own_reference(window):
    rng, reference = np.random.default_rng(3), None
    for _ in range(window):
        reference, _ = judge_window(CHANNELS, reference, 1, counts(rng, 50), 50)
    assert judge_window(CHANNELS, reference, 1, counts(rng, 50, 5.0), 50)[1] is False


def test_a_column_that_stays_unusual_is_named_and_one_that_was_is_not():
    rng, reference = np.random.default_rng(4), None
    for shift in (0.0,) * LOCAL_WINDOWS + (2.0,):
        reference, _ = judge_window(CHANNELS, reference, 1, counts(rng, 50, shift), 50)
    assert (reference.unusual, named(CHANNELS, reference)) == ((1, 0), ())
    for _ in range(3):
        reference, _ = judge_window(CHANNELS, reference, 1, counts(rng, 50, 2.0), 50)
    assert (reference.unusual, named(CHANNELS, reference)) == ((4, 0), ("input:a",))
    reference, flag = judge_window(CHANNELS, reference, 1, counts(rng, 50), 50)
    assert (reference.unusual, named(CHANNELS, reference), flag) == ((0, 0), (), False)
    again, _ = judge_window(CHANNELS, replace(reference, unusual=(3, 3)), 2, counts(rng, 50), 50)
    assert named(CHANNELS, again) == ()


def test_a_quiet_device_names_nothing_in_nearly_all_windows():
    rng, found, windows = np.random.default_rng(5), 0, 0
    for _ in range(150):
        reference = None
        for window in range(LOCAL_WINDOWS + 8):
            reference, _ = judge_window(CHANNELS, reference, 1, counts(rng, 30), 30)
            found += bool(named(CHANNELS, reference)) and window >= LOCAL_WINDOWS
            windows += window >= LOCAL_WINDOWS
    assert found / windows <= 0.0025 + 3 * (0.0025 / windows) ** 0.5
