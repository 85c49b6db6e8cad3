"""Windows of inference."""

import numpy as np

from fedinfer.data import DeviceData, stream_window


def device(held_out: int) -> DeviceData:
    train = np.full((3, 2), -1.0, dtype=np.float32)
    test = np.arange(2 * held_out, dtype=np.float32).reshape(held_out, 2)
    return DeviceData(train, np.zeros(3, np.int64), test, np.arange(held_out, dtype=np.int64))


def test_a_window_holds_different_held_out_rows_with_their_labels() -> None:
    x, y = stream_window(device(50), window=2, rows=20, seed=1)
    assert len(set(y.tolist())) == 20
    np.testing.assert_array_equal(x[:, 0], 2 * y)


def test_windows_differ_and_come_again_with_the_seed() -> None:
    data = device(50)
    first = stream_window(data, 1, 20, 1)[1]
    np.testing.assert_array_equal(first, stream_window(data, 1, 20, 1)[1])
    assert not np.array_equal(first, stream_window(data, 2, 20, 1)[1])
    assert not np.array_equal(first, stream_window(data, 1, 20, 2)[1])


def test_a_tiny_device_shows_all_it_has() -> None:
    for held_out in (0, 1, 2):
        x, y = stream_window(device(held_out), 1, 20, 1)
        assert x.shape == (held_out, 2)
        assert sorted(y.tolist()) == list(range(held_out))


def test_changing_a_window_does_not_change_the_device() -> None:
    data = device(4)
    x, _ = stream_window(data, 1, 4, 1)
    x[:] = 99
    assert data.test_x.max() < 99


def test_over_time_every_held_out_row_is_seen() -> None:
    data = device(30)
    seen = {label for window in range(40) for label in stream_window(data, window, 5, 1)[1].tolist()}
    assert seen == set(range(30))
