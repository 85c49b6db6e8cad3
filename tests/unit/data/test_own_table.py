"""A deployment: the schema from the scenario alone, and each device's own table read by it."""

from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import Scenario, load_scenario, parse_scenario
from fedinfer.data import load, load_own, public_schema
from fedinfer.errors import DataError
from fedinfer.schema import Categorical, Numeric

TEXT = """
[data]
source = "csv"
path = "all.csv"
label = "y"
labels = ["no", "yes"]
device = "site"
drop = ["id"]
[data.ranges]
age = [0, 120]
[data.categories]
sex = ["f", "m"]
"""
ROWS = "sex,local note,age,y\nf,a,30,no\nm,b,40,no\nother,c,,no\nf,d,31,no\n"


def scenario(text: str = TEXT) -> Scenario:
    return parse_scenario(text, Path("/pilot"), "pilot")


def table(tmp_path: Path, text: str = ROWS) -> Path:
    path = tmp_path / "own.csv"
    path.write_text(text)
    return path


def test_the_schema_needs_no_rows() -> None:
    schema = public_schema(scenario())
    assert schema.columns == (Numeric("age", 0, 120), Categorical("sex", ("f", "m")))
    assert schema.labels == ("no", "yes")
    assert schema.confirmed


def test_a_device_reads_by_the_schema_in_any_order_and_with_one_class(tmp_path: Path) -> None:
    data = load_own(scenario(), public_schema(scenario()), table(tmp_path), np.random.default_rng(0))
    x = np.concatenate([data.train_x, data.test_x])
    assert (len(data.train_y), len(data.test_y)) == (3, 1)
    assert not np.concatenate([data.train_y, data.test_y]).any()
    found = sorted(map(tuple, np.nan_to_num(x, nan=-1.0).tolist()))
    assert found == [(-1.0, -1.0), (30.0, 0.0), (31.0, 0.0), (40.0, 1.0)]


def test_simulation_and_deployment_have_the_same_schema_for_built_ins() -> None:
    for name in ("heart", "digits"):
        assert public_schema(load_scenario(name)) == load(load_scenario(name)).schema


def test_a_numeric_label_needs_no_list() -> None:
    text = TEXT.replace('labels = ["no", "yes"]', "label_above = 3")
    assert public_schema(scenario(text)).labels == ("0", "1")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('label = "y"', 'label = "y"\nranges_confirmed = false', "ranges_confirmed = false"),
        ('labels = ["no", "yes"]', "", r"\[data\] labels"),
        ('drop = ["id"]', 'categorical = ["city"]', r"categorical = 'city'.*public list"),
        ('[data.ranges]\nage = [0, 120]\n[data.categories]\nsex = ["f", "m"]', "", "for every input column"),
    ],
)
def test_an_incomplete_description_is_refused(old: str, new: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        public_schema(scenario(TEXT.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sex,y\nf,no\nm,yes\n", r"own\.csv: \[data\] ranges = 'age': no such column"),
        ("age,y\n1,no\n2,yes\n", r"own\.csv: \[data\] categories = 'sex': no such column"),
        ("sex,age\nf,1\nm,2\n", r"\[data\] label = 'y': no such column"),
        ("sex,age,y\nf,1,no\nm,2,maybe\n", "'maybe' is not one of"),
        ("sex,age,y\nf,1,no\nm,2,\n", "label column 'y' empty in 1 of 2 rows"),
        ("sex,age,y\nf,one,no\nm,2,yes\n", "column 'age', row 2: 'one' is not a number"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_own(scenario(), public_schema(scenario()), table(tmp_path, text), np.random.default_rng(0))


def test_a_device_without_a_label_is_empty(tmp_path: Path) -> None:
    text = TEXT.replace('label = "y"', 'label = "y"\nunlabelled = "drop"')
    with pytest.raises(DataError, match="empty device: none of 2 rows has a label"):
        load_own(
            scenario(text),
            public_schema(scenario(text)),
            table(tmp_path, "sex,age,y\nf,1,\nm,2,\n"),
            np.random.default_rng(0),
        )
