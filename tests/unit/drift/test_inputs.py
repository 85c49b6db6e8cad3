"""Channels beside the answers: counted by hand, refused by name, and never more than their part of the norm."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.drift import chosen_channels, local_channels
from fedinfer.drift.channels import Bins, Outputs, Source, clip_norm, split, tally
from fedinfer.drift.inputs import CHOICES, possible_names
from fedinfer.drift.sketch import Sketch, report_norm
from fedinfer.errors import ConfigError, DataError
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.tensors import TensorSpec
from fedinfer.types import Unit

TABLE = Schema((Numeric("age", 0, 80), Categorical("sex", ("f", "m")), Numeric("dose", -1, 1)), "y", ("no", "yes"))
IMAGES = Schema((), "y", ("a", "b", "c"), shape=(1, 4, 4), pixel_max=16.0)
TEXTS = Schema((Text("said", 6, ("good", "bad")),), "y", ("no", "yes"))
NUMBER = Schema((Numeric("age", 0, 80),), "y", (), label_range=(0.0, 10.0))
NAN = np.nan
ROWS = np.array([[40, 0, 0.5], [NAN, 1, 0.0], [90, NAN, -1.0], [0, 1, NAN]], np.float32)


def seen(rows, schema=TABLE, truth=None):
    labels = np.zeros(len(rows), np.int64)
    return Outputs(labels, np.eye(max(schema.classes, 1))[labels], np.asarray(rows, np.float32), truth)


def counted(schema, name, rows, truth=None):
    (channel,) = chosen_channels(schema, [name])
    return tally(channel, seen(rows, schema, truth)).tolist(), channel


def test_faults_name_missing_unseen_and_out_of_range_cells_and_a_row_adds_one_at_most():
    counts, channel = counted(TABLE, "faults", ROWS)
    assert dict(zip(channel.names, counts, strict=True)) == {
        "age missing": 1.0, "sex missing": 0.5, "dose missing": 1.0, "age out of range": 0.5, "dose out of range": 0.0,
    }  # fmt: skip
    assert (channel.kind, channel.source) == (Bins.SHARES, Source.INPUT)


def test_a_named_column_is_counted_on_its_public_range_or_categories():
    counts, channel = counted(TABLE, "input:age", ROWS)
    assert counts == [1, 0, 0, 0, 1, 0, 0, 1]  # 90 is in the last bin, the missing cell in none
    assert channel.bin_name(0) == "0 to 10"
    assert counted(TABLE, "input:sex", ROWS)[0] == [1, 2]
    with pytest.raises(DataError, match="allowed are 0 to 1"):
        counted(TABLE, "input:sex", [[1, 2, 0]])


def test_texts_have_a_length_and_a_share_of_unknown_words():
    tokens = [[2, 1, 3, 0, 0, 0], [0] * 6, [1, 1, 1, 1, 1, 1]]
    assert counted(TEXTS, "faults", tokens)[0] == pytest.approx([1 / 3 + 1, 1])
    counts, channel = counted(TEXTS, "length", tokens)
    assert channel.bins == 7
    assert counts == [1, 0, 0, 1, 0, 0, 1]


def test_a_projection_is_public_fixed_and_sees_a_shift_of_the_whole_row():
    dark, bright = np.full((5, 16), 4.0), np.full((5, 16), 12.0)
    moved = [counted(IMAGES, f"projection:{number}", dark)[0] != counted(IMAGES, f"projection:{number}", bright)[0]
             for number in range(1, 9)]  # fmt: skip
    assert sum(moved) >= 5
    assert counted(IMAGES, "projection:2", dark)[0] == counted(IMAGES, "projection:2", dark)[0]
    assert sum(counted(TABLE, "projection:1", ROWS)[0]) == 4  # missing cells count as the middle


def test_a_number_with_breaks_is_binned_between_them():
    schema = Schema((Numeric("income", 0, 1000, breaks=(10.0, 20.0, 40.0)),), "y", ("no", "yes"))
    counts, channel = counted(schema, "input:income", np.array([[2.0], [7.0], [30.0], [900.0]]))
    assert counts == [1, 1, 0, 0, 0, 1, 0, 1]
    assert channel.bin_name(0) == "0 to 5"
    assert channel.bin_name(7) == "520 to 1000"


def test_a_projection_of_tensors_goes_by_their_ranges():
    schema = Schema((), "y", (), label_range=(0.0, 1.0), inputs=(TensorSpec("x", "float32", (16,), -500.0, 500.0),))
    low, high = np.full((5, 16), -400.0), np.full((5, 16), 400.0)
    moved = [counted(schema, f"projection:{number}", low)[0] != counted(schema, f"projection:{number}", high)[0]
             for number in range(1, 9)]  # fmt: skip
    assert sum(moved) >= 5


def test_errors_count_rows_whose_label_has_arrived():
    assert counted(TABLE, "errors", ROWS, np.array([0, 1, -1, 1]))[0] == [1, 2]
    assert counted(TABLE, "errors", ROWS)[0] == [0, 0]
    (channel,) = chosen_channels(NUMBER, ["errors"])
    outputs = Outputs(np.zeros(3, np.int64), np.array([[0.5], [0.5], [0.5]]), None, np.array([0.55, 0.7, NAN]))
    assert tally(channel, outputs).tolist() == [1, 1]


@pytest.mark.parametrize("schema", [TABLE, IMAGES, TEXTS, NUMBER], ids=["table", "images", "texts", "number"])
def test_every_possible_name_is_accepted_and_local_tests_look_at_all_but_flags_and_errors(schema):
    names = possible_names(schema)
    channels = chosen_channels(schema, names)
    assert tuple(channel.name for channel in channels) == names
    assert {channel.source for channel in local_channels(schema)} <= {Source.OUTPUT, Source.INPUT}
    assert len(local_channels(schema)) >= 2
    assert [channel.name for channel in chosen_channels(schema, ())] == (
        ["value"] if schema.label_range else ["predicted_class", "confidence"]
    )


def test_every_choice_is_possible_somewhere():
    everywhere = {name.split(":")[0] for schema in (TABLE, IMAGES, TEXTS, NUMBER) for name in possible_names(schema)}
    assert set(CHOICES) <= everywhere


@pytest.mark.parametrize(
    ("schema", "name", "says"),
    [
        (TABLE, "weather", "no channel 'weather'"), (TABLE, "input:weight", "names no numeric"),
        (IMAGES, "faults", "the rows are images"), (IMAGES, "length", "is for texts"), (TEXTS, "projection:1", "texts"),
        (IMAGES, "projection:0", "no number from 1"), (IMAGES, "projection:x", "no number"),
        (TABLE, "faults:age", "stands alone"), (TEXTS, "input:said", "names no numeric"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_fit_is_refused_with_those_that_do(schema, name, says):
    with pytest.raises(ConfigError, match=says):
        chosen_channels(schema, [name])
    with pytest.raises(ConfigError, match="comes twice"):
        chosen_channels(TABLE, ["faults", "faults"])


def test_rows_that_did_not_come_with_their_answers_are_refused():
    (channel,) = chosen_channels(TABLE, ["faults"])
    with pytest.raises(DataError, match="did not come with the answers"):
        tally(channel, Outputs(np.zeros(2, np.int64), np.eye(2)))


def test_inputs_of_unanswered_rows_are_counted_like_any_other():
    channels = chosen_channels(TABLE, ["predicted_class", "confidence", "faults", "input:sex"])
    sketch = Sketch(channels)
    sketch.add(seen(ROWS[:2]))
    sketch.add_unanswered(2, ROWS[2:])
    classes, sure, faulty, sex = sketch.histograms()
    assert (classes.sum(), sure.sum(), sex.tolist(), sketch.rows) == (2, 4, [1, 2], 4)
    assert faulty.sum() == 3
    report = sketch.report(Unit.DEVICE)
    assert report[:2].sum() / report[2:8].sum() == pytest.approx(0.5)  # classes of two rows, confidence of four


@given(st.integers(0, 10_000), st.booleans())
def test_no_device_whatever_its_rows_sends_more_than_each_source_may(seed, raised):
    rng = np.random.default_rng(seed)
    names = ["predicted_class", "confidence", "faults", "input:age", "errors", "flags"]
    channels, count = chosen_channels(TABLE, names), int(rng.integers(1, 9))
    rows = rng.choice([NAN, 0.0, 1.0, 500.0], (count, 3))
    rows[:, 1] = rng.choice([NAN, 0.0, 1.0], count)
    sketch = Sketch(channels)
    labels = rng.integers(0, 2, count)
    sketch.add(Outputs(labels, np.eye(2)[labels], rows.astype(np.float32), rng.integers(-1, 2, count)))
    sketch.add_flag(raised)
    pieces = split(sketch.report(Unit.DEVICE).astype(float), channels)
    for source in Source:
        mine = [channel for channel in channels if channel.source is source]
        norm = math.hypot(*(np.linalg.norm(pieces[channel.name]) for channel in mine))
        assert norm <= clip_norm(mine) * (1 + 1e-6)
    assert np.linalg.norm(sketch.report(Unit.DEVICE)) <= report_norm(Unit.DEVICE, channels) * (1 + 1e-6)
    assert pieces["flags"][0] == pytest.approx(channels[-1].most if raised else 0.0)


def test_what_is_wrong_with_inputs_does_not_cut_what_is_said_about_answers():
    channels = chosen_channels(TABLE, ["predicted_class", "confidence", "faults"])
    reports = []
    for rows in (np.zeros((4, 3)), np.full((4, 3), NAN)):
        sketch = Sketch(channels)
        labels = np.array([0, 1, 0, 1])
        sketch.add(Outputs(labels, np.array([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.4, 0.6]]), rows.astype(np.float32)))
        reports.append(sketch.report(Unit.DEVICE))
    assert np.array_equal(reports[0][:8], reports[1][:8])
    assert np.linalg.norm(reports[1][8:]) == pytest.approx(0.2)
