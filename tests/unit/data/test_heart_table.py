"""The heart table: unchanged, read as its scenario says."""

import csv
import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import DataSection, Scenario, ScenarioSection, load_scenario
from fedinfer.data import Federation, load, public_schema
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric

FOLDER = Path(str(resources.files("fedinfer"))) / "data" / "tables"


def rows() -> list[dict[str, str]]:
    with (FOLDER / "heart_disease_uci.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def heart(seed: int = 1) -> Federation:
    return load(load_scenario("heart", [f"scenario.seed={seed}"]))


def all_rows(federation: Federation) -> tuple[np.ndarray, np.ndarray]:
    devices = federation.devices.values()
    x = np.concatenate([part for data in devices for part in (data.train_x, data.test_x)])
    return x, np.concatenate([part for data in devices for part in (data.train_y, data.test_y)])


def test_the_table_is_the_one_that_is_attributed() -> None:
    digest = hashlib.sha256((FOLDER / "heart_disease_uci.csv").read_bytes()).hexdigest()
    attribution = (FOLDER / "heart_disease_uci.ATTRIBUTION.md").read_text(encoding="utf-8")
    assert digest in attribution
    for fact in ("CC BY 4.0", "10.24432/C52P4X", "Janosi", "Steinbrunn", "Pfisterer", "Detrano", "1989"):
        assert fact in attribution


def test_four_hospitals_with_their_rows() -> None:
    federation = heart()
    sizes = {name: len(data.train_y) + len(data.test_y) for name, data in federation.devices.items()}
    assert sizes == {"Cleveland": 304, "Hungary": 293, "Switzerland": 123, "VA-Long-Beach": 200}
    assert list(federation.devices) == sorted(federation.devices)
    assert federation.warnings == ()


def test_the_label_is_any_diagnosis_above_zero() -> None:
    federation = heart()
    assert federation.schema.labels == ("healthy", "disease")
    _, y = all_rows(federation)
    expected = sum(int(row["num"]) > 0 for row in rows())
    assert (int(y.sum()), len(y)) == (expected, 920)


def test_zeros_that_mean_missing_are_missing() -> None:
    federation = heart()
    x, _ = all_rows(federation)
    names = [column.name for column in federation.schema.columns]
    table = rows()
    for name, zeros in (("chol", 172), ("trestbps", 1)):
        assert sum(row[name] not in ("",) and float(row[name]) == 0 for row in table) == zeros
        empty = sum(row[name] == "" for row in table)
        assert int(np.isnan(x[:, names.index(name)]).sum()) == zeros + empty
    swiss = federation.devices["Switzerland"]
    assert np.isnan(swiss.train_x[:, names.index("chol")]).all()


def test_every_cell_is_what_the_table_says() -> None:
    """Rows are compared as sorted tuples: the split shuffles nothing but membership."""
    federation = heart()
    x, y = all_rows(federation)
    expected = []
    for row in rows():
        cells = []
        for column in federation.schema.columns:
            text = row[column.name]
            if isinstance(column, Categorical):
                cells.append(float(column.categories.index(text)) if text else -99.0)
            else:
                missing = text == "" or (column.name in ("chol", "trestbps") and float(text) == 0)
                cells.append(-99.0 if missing else float(np.float32(text)))
        expected.append((*cells, int(row["num"]) > 0))
    found = [(*map(float, np.nan_to_num(cells, nan=-99.0)), bool(label)) for cells, label in zip(x, y, strict=True)]
    assert sorted(found) == sorted(expected)


def test_ranges_and_categories_are_public_and_cover_what_is_plausible() -> None:
    schema = heart().schema
    assert schema.confirmed
    assert schema == public_schema(load_scenario("heart"))
    x, _ = all_rows(heart())
    for place, column in enumerate(schema.columns):
        values = x[:, place][~np.isnan(x[:, place])]
        if isinstance(column, Numeric):
            outside = np.mean((values < column.low) | (values > column.high))
            assert outside < 0.01, column
        else:
            assert set(values) <= set(range(len(column.categories)))


def test_the_identifier_is_not_an_input() -> None:
    names = {column.name for column in heart().schema.columns}
    assert names.isdisjoint({"id", "dataset", "num"})
    assert len(names) == 13


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others() -> None:
    first, again, other = heart(3), heart(3), heart(4)
    for name in first.devices:
        np.testing.assert_array_equal(first.devices[name].train_x, again.devices[name].train_x)
        np.testing.assert_array_equal(first.devices[name].test_y, again.devices[name].test_y)
    assert any(
        not np.array_equal(first.devices[n].test_x, other.devices[n].test_x, equal_nan=True) for n in first.devices
    )


def test_held_out_rows_keep_the_class_mix_of_each_hospital() -> None:
    for data in heart().devices.values():
        count = len(data.train_y) + len(data.test_y)
        assert len(data.test_y) == round(0.34 * count)
        assert abs(data.train_y.mean() - data.test_y.mean()) < 1.5 / len(data.test_y)


def test_the_pooled_test_rows_are_those_of_the_devices_in_order() -> None:
    federation = heart()
    expected = np.concatenate([data.test_x for data in federation.devices.values()])
    np.testing.assert_array_equal(federation.test[0], expected)
    assert len(federation.test[1]) == len(expected)


def test_public_rows_are_taken_out_first() -> None:
    federation = load(load_scenario("heart", ["data.public_fraction=0.2"]))
    assert len(federation.public[1]) == 184
    _, y = all_rows(federation)
    assert len(y) == 920 - 184
    assert abs(federation.public[1].mean() - 509 / 920) < 0.01


def test_a_bare_built_in_is_described_by_its_scenario() -> None:
    bare = Scenario(
        scenario=ScenarioSection(seed=1), data=DataSection(source="builtin", name="heart", test_fraction=0.34)
    )
    found, expected = load(bare), heart()
    assert found.schema == expected.schema
    np.testing.assert_array_equal(found.test[0], expected.test[0])


def test_an_unknown_built_in_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'hart': no such built-in table") as caught:
        load(Scenario(data=DataSection(source="builtin", name="hart")))
    for name in ("heart", "credit", "digits", "ratings", "reviews", "watch"):
        assert name in caught.value.hint
