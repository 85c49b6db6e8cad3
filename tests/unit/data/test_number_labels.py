"""Labels that are numbers: read, clamped, split, moved by drift, read again on a device, proposed by `init`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.config import InjectSection, parse_scenario
from fedinfer.data import inject, load, load_own, propose, public_schema, summarize
from fedinfer.data.number_label import number_range
from fedinfer.data.targets import strata
from fedinfer.errors import ConfigError, DataError
from fedinfer.system import simulation_rng

HEAD = """
[data]
source = "csv"
path = "t.csv"
label = "y"
label_range = [0, 100]
label_unit = "kg"
device = "d"
%s
[data.ranges]
x = [0, 10]
[model]
kind = "linear"
"""


def table(folder: Path, cells: list[str], devices: int = 3) -> None:
    lines = [f"{i % 11},{cell},d{i % devices}" for i, cell in enumerate(cells)]
    (folder / "t.csv").write_text("x,y,d\n" + "\n".join(lines) + "\n")


def scenario(folder: Path, more: str = ""):
    return parse_scenario(HEAD % more, folder, "t.toml")


def test_numbers_keep_their_unit_and_stay_in_the_public_range(tmp_path):
    table(tmp_path, [f"{value}" for value in (1.5, 99.25, -40, 3e3, 50, 60)] * 5)
    federation = load(scenario(tmp_path))
    assert federation.schema.label_range == (0.0, 100.0)
    assert (federation.schema.labels, federation.schema.label_unit, federation.schema.outputs) == ((), "kg", 1)
    y = np.concatenate([np.concatenate([d.train_y, d.test_y]) for d in federation.devices.values()])
    assert y.dtype == np.float64
    assert sorted(set(y)) == [0.0, 1.5, 50.0, 60.0, 99.25, 100.0]
    assert any("lies outside its public range [0, 100] in 10 of 30 rows" in line for line in federation.warnings)
    assert summarize(scenario(tmp_path), federation)["data"]["label"]["median"] == pytest.approx(55.0)


@pytest.mark.parametrize("empty", ["", "NA", "-1"])
def test_missing_labels_are_refused_or_dropped_as_asked(tmp_path, empty):
    table(tmp_path, [*["5", "20", "70"] * 6, empty])
    sentinel = "missing_values = { y = [-1] }"
    with pytest.raises(DataError, match=r"label column 'y' empty in 1 of 19 rows, first in row 20"):
        load(scenario(tmp_path, sentinel))
    kept = load(scenario(tmp_path, f'unlabelled = "drop"\n{sentinel}'))
    assert sum(len(d.train_y) + len(d.test_y) for d in kept.devices.values()) == 18


@pytest.mark.parametrize(
    ("cells", "words"),
    [(["5", "high", "7", "9"] * 3, "'high' is not a number"), (["5"] * 12, "fewer than two different values")],
)
def test_what_cannot_be_learned_is_said(tmp_path, cells, words):
    table(tmp_path, cells)
    with pytest.raises(DataError, match=words):
        load(scenario(tmp_path))


@pytest.mark.parametrize(
    ("more", "words"),
    [('labels = ["a", "b"]', "labels makes classes"), ("label_above = 3", "label_above makes classes")],
)
def test_a_number_or_classes_not_both(tmp_path, more, words):
    with pytest.raises(ConfigError, match=words):
        scenario(tmp_path, more)


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_strata_follow_the_order_and_have_like_sizes(values):
    y = np.array(values)
    found = strata(y)
    order = np.argsort(y, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    if len(np.unique(y)) == len(y) and len(y) >= 20:
        sizes = np.bincount(found)
        assert sizes.max() - sizes.min() <= len(y) // 10 + 1


def test_a_device_reads_the_same_numbers_as_the_simulation(tmp_path):
    table(tmp_path, [f"{value:.2f}" for value in np.linspace(-5, 120, 40)], devices=2)
    asked = scenario(tmp_path)
    own = load_own(asked, public_schema(asked), tmp_path / "t.csv", simulation_rng("own"))
    whole = load(asked)
    pooled = np.concatenate([np.concatenate([d.train_y, d.test_y]) for d in whole.devices.values()])
    np.testing.assert_array_equal(np.sort(np.concatenate([own.train_y, own.test_y])), np.sort(pooled))
    assert public_schema(asked) == whole.schema


def test_label_drift_mirrors_a_number_in_its_range(tmp_path):
    table(tmp_path, ["10", "30", "95"] * 5)
    federation = load(scenario(tmp_path))
    x, y = np.zeros((3, 1), np.float32), np.array([10.0, 30.0, 95.0])
    change = InjectSection(kind="label", at_window=1)
    _, moved = inject(x, y, federation.schema, change, 1, simulation_rng("m"))
    assert moved.tolist() == [90.0, 70.0, 5.0]


# --- init ---


def test_many_numbers_are_proposed_as_a_number(tmp_path):
    table(tmp_path, [f"{value:.1f}" for value in np.linspace(3, 61, 120)])
    proposal = propose(tmp_path / "t.csv", tmp_path / "m", "y", "d")
    assert proposal.label_range == (3.0, 61.0)
    made = parse_scenario(proposal.text, tmp_path / "m", "m")
    assert made.data.label_range == (3.0, 61.0)
    assert load(made).schema.outputs == 1
    assert any("range of label 'y'" in line for line in load(made).warnings), "nobody has confirmed it"
    cut = propose(tmp_path / "t.csv", tmp_path / "m", "y", "d", label_above=40.0)
    assert parse_scenario(cut.text, tmp_path / "m", "m").data.label_above == 40.0


def test_few_numbers_stay_classes(tmp_path):
    table(tmp_path, ["1", "2", "3"] * 20)
    assert propose(tmp_path / "t.csv", tmp_path / "m", "y", "d").label_range is None


def test_one_wild_value_does_not_stretch_the_range():
    low, high = number_range([*[f"{v / 10}" for v in range(2000)], "9e9"]) or (0.0, 0.0)
    assert -30.0 <= low <= 0.0
    assert 199.0 <= high <= 250.0


@given(st.lists(st.floats(-1e9, 1e9), min_size=11, max_size=60, unique=True))
def test_a_range_is_proposed_for_any_numbers(values):
    low, high = number_range([repr(value) for value in values]) or (0.0, 0.0)
    assert low < high
    inside = np.quantile(values, (0.1, 0.9))
    assert low <= inside[0] + 1e-6 * abs(inside[0])
    assert high >= inside[1] - 1e-6 * abs(inside[1])


def test_decimal_commas_of_a_label_are_read_as_everywhere(tmp_path):
    lines = [f"{i % 11};{i},5;d{i % 3}" for i in range(60)]
    (tmp_path / "t.csv").write_text("x;y;d\n" + "\n".join(lines) + "\n")
    federation = load(scenario(tmp_path, 'delimiter = ";"\ndecimal = ","'))
    y = np.concatenate([np.concatenate([d.train_y, d.test_y]) for d in federation.devices.values()])
    assert sorted(y) == [i + 0.5 for i in range(60)]
