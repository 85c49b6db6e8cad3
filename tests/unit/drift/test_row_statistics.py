"""Mean, spread and share at the ends of a tensor: counted by hand, refused by name, and what a watch sees in them."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.device.counted import counted_channels
from fedinfer.drift import MonitorPlan, Outputs, Sketch, chosen_channels, report_norm, row_statistics, tally
from fedinfer.drift.monitor import WindowSum, begin, observe
from fedinfer.drift.row_statistics import CHOICES, statistic_names
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.system import simulation_rng
from fedinfer.tensors import STATISTICS, TensorSpec
from fedinfer.types import Unit

STATE = TensorSpec("h", "float32", (2,), -1, 1)
SCHEMA = Schema(
    (), "y", (), label_range=(-1.0, 1.0),
    inputs=(TensorSpec("gain", "float32", (), 0, 1), TensorSpec("image", "uint8", (2, 2, 1), 0, 200), STATE),
    answers=(TensorSpec("score", "float32", (1,), 0, 1), TensorSpec("hN", "float32", (2,), -1, 1, feeds="h")),
)  # fmt: skip
IMAGES = Schema((), "y", ("a", "b"), shape=(1, 2, 2), pixel_max=16.0)
TABLE = Schema((Numeric("age", 0, 80),), "y", ("no", "yes"))


def counted(schema: Schema, name: str, rows: object) -> list[float]:
    (channel,) = chosen_channels(schema, [name])
    x = np.asarray(rows, np.float32)
    return tally(channel, Outputs(np.zeros(len(x), np.int64), np.zeros((len(x), 1)), x)).tolist()


def rows_of(*images: list[float]) -> np.ndarray:
    return np.array([[0.5, *image, 0, 0] for image in images], np.float32)


def test_the_names_are_those_of_a_declaration():
    assert tuple(CHOICES) == STATISTICS
    assert statistic_names(SCHEMA) == ("mean:gain", "mean:image", "spread:image", "ends:image")
    assert statistic_names(IMAGES) == STATISTICS
    assert statistic_names(TABLE) == ()


def test_a_mean_lies_on_even_bins_of_the_range_and_only_its_own_values_count():
    images = rows_of([0, 0, 0, 0], [200, 200, 0, 0], [200, 200, 200, 200], [24, 24, 24, 24], [26, 26, 26, 26])
    assert counted(SCHEMA, "mean:image", images) == [2, 1, 0, 0, 1, 0, 0, 1]
    assert counted(SCHEMA, "mean:gain", images) == [0, 0, 0, 0, 5, 0, 0, 0]
    assert counted(IMAGES, "mean", [[16, 16, 16, 16], [4, 4, 4, 4]]) == [0, 0, 1, 0, 0, 0, 0, 1]


def test_spread_and_share_at_the_ends_lie_on_even_bins_of_their_root():
    whole, none, some = [0, 200, 0, 200], [7, 7, 7, 7], [0, 100, 100, 100]
    assert counted(SCHEMA, "spread:image", rows_of(whole, none)) == [1, 0, 0, 0, 0, 0, 0, 1]
    # the deviation of `some` is 43.3 of 100: its root 0.658, in the sixth of eight bins
    assert counted(SCHEMA, "spread:image", rows_of(some)) == [0, 0, 0, 0, 0, 1, 0, 0]
    assert counted(SCHEMA, "ends:image", rows_of(whole, none, some)) == [1, 0, 0, 0, 1, 0, 0, 1]
    names = chosen_channels(SCHEMA, ["spread:image"])[0].names
    assert (names[0], names[-1]) == ("0 to 1.562", "76.56 to 100")


def test_values_outside_count_as_the_ends_and_those_that_are_absent_not_at_all():
    nan = np.nan
    rows = rows_of([-50, 900, 900, np.inf], [nan, 100, 100, nan], [nan] * 4)
    assert counted(SCHEMA, "mean:image", rows) == [0, 0, 0, 0, 1, 0, 1, 0]
    assert counted(SCHEMA, "spread:image", rows) == [1, 0, 0, 0, 0, 0, 0, 1]
    assert counted(SCHEMA, "ends:image", rows) == [1, 0, 0, 0, 0, 0, 0, 1]


def test_many_large_rows_are_measured_a_few_at_a_time(monkeypatch):
    rows, sizes = rows_of(*([float(shade)] * 4 for shade in range(0, 200, 10))), []
    whole = counted(SCHEMA, "mean:image", rows)
    monkeypatch.setattr(row_statistics, "VALUES_AT_ONCE", 12)
    real = row_statistics.on_even_bins
    monkeypatch.setattr(
        row_statistics, "on_even_bins", lambda values, bins: sizes.append(len(values)) or real(values, bins)
    )
    assert counted(SCHEMA, "mean:image", rows) == whole
    assert sizes == [3] * 6 + [2]


@pytest.mark.parametrize(
    ("schema", "name", "hint"),
    [
        (SCHEMA, "mean:h", "known here: mean:gain"), (SCHEMA, "spread:gain", "known here"),
        (SCHEMA, "mean", "mean:image"),
        (IMAGES, "mean:image", "known here: mean, spread, ends"), (TABLE, "mean:age", "for a table: input:COLUMN"),
    ],
)  # fmt: skip
def test_what_is_no_statistic_of_the_rows_is_refused_with_those_that_are(schema, name, hint):
    with pytest.raises(ConfigError, match=f"'{name}' is no statistic of these rows") as refused:
        chosen_channels(schema, [name])
    assert hint in refused.value.hint


def test_a_real_device_counts_them_and_so_it_needs_the_rows():
    counted_here = counted_channels(SCHEMA, ["value", "spread:image"])
    assert counted_here.look_at_inputs
    assert counted_here.layout == (("value", 8), ("spread:image", 8))


@pytest.mark.parametrize("brighter", [False, True])
def test_brighter_images_alarm_under_noise_where_answers_do_not_move(brighter: bool):
    channels = chosen_channels(SCHEMA, ["value", "mean:image"])
    plan = MonitorPlan(channels, Unit.DEVICE, 3, 5, 0.05, 0.2, 0.6)
    state, alarms, rng = begin(plan), set(), simulation_rng("row statistics")
    noise = 3.0 * report_norm(Unit.DEVICE, channels)
    for window in range(8):
        total = noise * rng.standard_normal(16)
        for _ in range(60):
            images = np.clip(rng.normal(80, 20, (3, 4)) + 100 * (brighter and window >= 5), 0, 200)
            sketch = Sketch(channels)
            answers = Outputs(np.zeros(3, np.int64), np.full((3, 1), 0.5), rows_of(*images.tolist()))
            sketch.add(answers)
            total += sketch.report(Unit.DEVICE)
        state, found = observe(plan, state, WindowSum(window, total, tuple("abc" * 20), 3, noise))
        alarms |= {alarm.channel for alarm in found.alarms}
    assert alarms == ({"mean:image"} if brighter else set())
