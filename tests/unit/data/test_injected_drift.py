"""Changing the world of a simulation."""

import numpy as np
import pytest
from scipy import ndimage

from fedinfer.config import InjectSection
from fedinfer.data import drifting_devices, inject
from fedinfer.data.drifted import rotated, rotation_matrix
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric, Schema

IMAGE = Schema((), "digit", ("0", "1"), shape=(1, 8, 8), pixel_max=16.0)
COLOUR = Schema((), "digit", ("0", "1"), shape=(3, 5, 7), pixel_max=1.0)
TABLE = Schema((Numeric("age", 0, 100), Categorical("sex", ("F", "M")), Numeric("dose", -1, 1)), "y", ("a", "b", "c"))


def table(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(0, 100, n), rng.integers(0, 2, n), rng.uniform(-1, 1, n)], axis=1).astype(np.float32)
    x[::7, 0] = np.nan
    return x, rng.integers(0, 3, n).astype(np.int64)


def changed(kind: str, amount: float | None = None, column: str = "", window: int = 5) -> tuple[np.ndarray, np.ndarray]:
    x, y = table()
    section = InjectSection(kind=kind, at_window=5, amount=amount, column=column)
    return inject(x, y, TABLE, section, window, np.random.default_rng(1))


@pytest.mark.parametrize("schema", [IMAGE, COLOUR])
@pytest.mark.parametrize("degrees", [30.0, -30.0, 45.0, 90.0, 137.5, 360.0])
def test_rotation_is_that_of_scipy(schema: Schema, degrees: float) -> None:
    x = np.random.default_rng(2).uniform(0, 1, (6, schema.width)).astype(np.float32)
    images = x.reshape(6, *schema.shape)
    expected = ndimage.rotate(images, degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant", cval=0.0)
    np.testing.assert_allclose(rotated(x, schema, degrees), expected.reshape(6, -1), atol=1e-5)


def test_a_quarter_turn_is_numpys() -> None:
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    found = rotated(image.reshape(1, 64), IMAGE, 90.0).reshape(1, 8, 8)
    quarter_turns = [np.rot90(image, schedule, axes=(1, 2)) for schedule in (1, 3)]
    assert any(np.allclose(found, turned, atol=1e-5) for turned in quarter_turns)


def test_rotation_keeps_pixels_in_their_range() -> None:
    matrix = rotation_matrix(8, 8, 30.0)
    assert matrix.min() >= 0
    assert matrix.sum(axis=1).max() <= 1 + 1e-6


def test_nothing_changes_before_the_window_and_in_a_quiet_run() -> None:
    x, y = table()
    for kind in ("shift", "scale", "noise", "label"):
        before = changed(kind, window=4)
        np.testing.assert_array_equal(before[0], x)
        np.testing.assert_array_equal(before[1], y)
    np.testing.assert_array_equal(changed("none")[0], x)


def test_a_shift_is_in_parts_of_the_public_range() -> None:
    x, y = table()
    moved, labels = changed("shift", 0.25)
    np.testing.assert_allclose(moved[:, 0] - x[:, 0], np.where(np.isnan(x[:, 0]), np.nan, 25.0), rtol=1e-5)
    np.testing.assert_array_equal(moved[:, 1], x[:, 1])
    np.testing.assert_allclose(moved[:, 2] - x[:, 2], 0.5, rtol=1e-5)
    np.testing.assert_array_equal(labels, y)


def test_a_named_column_changes_alone() -> None:
    x, _ = table()
    for kind in ("shift", "scale", "noise"):
        moved, _ = changed(kind, column="dose")
        np.testing.assert_array_equal(moved[:, :2], x[:, :2])
        assert not np.allclose(moved[:, 2], x[:, 2])


def test_a_scale_works_about_the_middle_of_the_range() -> None:
    x, _ = table()
    scaled, _ = changed("scale", 2.0)
    np.testing.assert_allclose(scaled[:, 0] - 50, 2 * (x[:, 0] - 50), rtol=1e-4)
    np.testing.assert_allclose(scaled[:, 2], 2 * x[:, 2], rtol=1e-5)


def test_noise_has_the_stated_spread_and_keeps_missing_values() -> None:
    x, _ = table()
    noisy, _ = changed("noise", 0.1)
    difference = noisy[:, 0] - x[:, 0]
    np.testing.assert_array_equal(np.isnan(noisy), np.isnan(x))
    assert abs(np.nanstd(difference) - 10.0) < 0.6
    np.testing.assert_array_equal(noisy[:, 1], x[:, 1])


def test_labels_move_by_one_class_and_inputs_stay() -> None:
    x, y = table()
    same, moved = changed("label")
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(moved, (y + 1) % 3)
    _, half = changed("label", 0.5)
    assert abs(np.mean(half != y) - 0.5) < 0.05


def test_upper_labels_become_rarer_and_rows_keep_their_inputs() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 4000)
    x = np.stack([y, -y], axis=1).astype(np.float32)
    schema = Schema((Numeric("a", 0, 3), Numeric("b", -3, 0)), "y", ("p", "q", "r", "s"))
    moved_x, moved_y = inject(x, y, schema, InjectSection(kind="prior", at_window=1, amount=0.8), 1, rng)
    np.testing.assert_array_equal(moved_x[:, 0], moved_y)
    np.testing.assert_array_equal(moved_x[:, 1], -moved_y.astype(np.float32))
    assert np.mean(moved_y >= 2) == pytest.approx(0.2 * 0.5, abs=0.02)
    upper = y >= 2
    alone = inject(x[upper], y[upper], schema, InjectSection(kind="prior", at_window=1), 1, rng)
    np.testing.assert_array_equal(alone[1], y[upper])  # a device that has nothing else keeps what it has
    number = Schema((Numeric("a", 0, 3), Numeric("b", -3, 0)), "y", (), label_range=(0.0, 3.0))
    values = inject(x, y.astype(float), number, InjectSection(kind="prior", at_window=1, amount=1.0), 1, rng)[1]
    assert values.max() <= 1.5


def test_kinds_that_do_not_fit_the_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="'rotate': the rows are no images"):
        changed("rotate")
    for column in ("sex", "absent"):
        with pytest.raises(ConfigError, match=f"column = '{column}': no such numeric column") as caught:
            changed("shift", column=column)
        assert caught.value.hint == "numeric: age, dose"


def test_default_amounts_are_those_of_the_reference_page() -> None:
    np.testing.assert_array_equal(changed("shift")[0], changed("shift", 0.25)[0])
    np.testing.assert_array_equal(changed("scale")[0], changed("scale", 1.5)[0])
    np.testing.assert_array_equal(changed("noise")[0], changed("noise", 0.2)[0])
    images = np.ones((1, 64), dtype=np.float32)
    section = InjectSection(kind="rotate", at_window=1)
    turned, _ = inject(images, np.zeros(1, np.int64), IMAGE, section, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(turned, rotated(images, IMAGE, 30.0))


def test_drifting_devices_are_fixed_by_the_seed_and_grow_with_the_fraction() -> None:
    devices = [f"d{number:03d}" for number in range(100)]
    some = drifting_devices(devices, InjectSection(kind="shift", fraction=0.3), 7)
    more = drifting_devices(devices[::-1], InjectSection(kind="shift", fraction=0.6), 7)
    assert (len(some), len(more)) == (30, 60)
    assert some < more
    assert drifting_devices(devices, InjectSection(kind="shift", fraction=1.0), 7) == set(devices)
    assert drifting_devices(devices, InjectSection(kind="none"), 7) == frozenset()
    assert some != drifting_devices(devices, InjectSection(kind="shift", fraction=0.3), 8)


def test_pixels_shift_scale_and_get_noise_like_numbers() -> None:
    images = np.full((400, 64), 4.0, dtype=np.float32)
    labels = np.zeros(400, np.int64)
    for kind, check in (
        ("shift", lambda x: np.allclose(x, 8.0)),
        ("scale", lambda x: np.allclose(x, 8.0 + 1.5 * (4.0 - 8.0))),
        ("noise", lambda x: abs(x.std() - 0.2 * 16) < 0.1 and abs(x.mean() - 4.0) < 0.1),
    ):
        changed, _ = inject(images, labels, IMAGE, InjectSection(kind=kind), 5, np.random.default_rng(0))
        assert check(changed), kind


def shaped(shape: str, window: int, kind: str = "shift", **fields: object) -> np.ndarray:
    x, y = table()
    section = InjectSection(kind=kind, at_window=5, shape=shape, over=4, column="dose", **fields)
    return inject(x, y, TABLE, section, window, np.random.default_rng(1))[0][:, 2] - x[:, 2]


def test_a_gradual_change_grows_evenly_and_stays() -> None:
    moved = [float(shaped("gradual", window, amount=0.4).mean()) for window in (4, 5, 6, 8, 20)]
    assert moved == pytest.approx([0.0, 0.2, 0.4, 0.8, 0.8], abs=1e-5)  # 0.4 of the range of 2
    middle, whole = (shaped("gradual", window, "scale", amount=2.0) for window in (6, 8))
    np.testing.assert_allclose(middle, whole / 2, atol=1e-5)


def test_a_recurring_change_comes_and_goes() -> None:
    moved = [float(shaped("recurring", window, amount=0.4).mean()) for window in range(4, 15)]
    assert moved == pytest.approx([0.0] + [0.8] * 4 + [0.0] * 4 + [0.8] * 2, abs=1e-5)


def test_cells_go_missing_in_any_column_and_sensors_stick_at_the_low_end() -> None:
    x, _ = table()
    gone, _ = changed("missing", 0.25, "sex")
    assert np.isnan(gone[:, 1]).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(gone[:, [0, 2]], x[:, [0, 2]])
    stuck, _ = changed("stuck", 0.5, "dose")
    assert (stuck[:, 2] == -1.0).mean() == pytest.approx(0.5, abs=0.04)
    assert np.isnan(changed("missing", 1.0)[0]).all()
    with pytest.raises(ConfigError, match="no such numeric column"):
        changed("stuck", 0.5, "sex")
    with pytest.raises(ConfigError, match="images have no missing cells"):
        inject(
            np.zeros((1, 64), np.float32),
            np.zeros(1),
            IMAGE,
            InjectSection(kind="missing"),
            9,
            np.random.default_rng(0),
        )


def test_named_devices_drift_and_unknown_ones_are_refused() -> None:
    section = InjectSection(kind="shift", devices=("north", "east"))
    assert drifting_devices(["north", "east", "south"], section, 1) == {"north", "east"}
    with pytest.raises(ConfigError, match="no device 'east'"):
        drifting_devices(["north", "south"], section, 1)
    assert drifting_devices(["north"], InjectSection(devices=("x",)), 1) == frozenset()
