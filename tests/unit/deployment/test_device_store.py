"""The folder of a real device: made once by its owner, private, and never overwritten."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.cli.device import app
from fedinfer.deployment.node import open_host, secure_noise
from fedinfer.deployment.store import (
    DATABASE,
    Floors,
    create_authority,
    enrol_device,
    open_device,
    read_authority,
    set_floors,
)
from fedinfer.errors import ConfigError, FedInferError, Misbehaviour, StoreError
from fedinfer.model_file.sandbox import Isolation
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.privacy.mechanism.noise import SecureStream
from fedinfer.secagg.keys import IdentityKey
from fedinfer.system import SimulatedEntropy, SystemClock, SystemEntropy
from tests.protocol.fleet import enrolled, real, settings, write_table

BUDGET = Budget(2.0, 1e-5)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return enrolled(tmp_path, 1, BUDGET)[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_store_says_what_its_owner_said(store: Path) -> None:
    device = open_device(store)
    assert (device.device, device.budget, device.floors.min_survivors) == ("r00", BUDGET, 3)
    assert device.data == store.parent / "r00.csv"


def test_secrets_are_readable_by_their_owner_only(store: Path) -> None:
    open_host(store)
    assert mode(store.parent / "authority.key") == 0o600
    assert mode(store / "identity.key") == 0o600
    assert mode(store / DATABASE) == 0o600
    assert mode(store) == 0o700


def test_a_key_is_never_overwritten(store: Path) -> None:
    before = (store / "identity.key").read_bytes()
    authority = read_authority(store.parent / "authority.key")
    with pytest.raises(StoreError, match=r"identity\.key") as caught:
        enrol_device(store, "r00", store.parent / "r00.csv", BUDGET, 3, authority, SystemEntropy(), SystemClock())
    assert "never overwritten" in caught.value.hint
    assert (store / "identity.key").read_bytes() == before
    with pytest.raises(StoreError, match=r"authority\.key"):
        create_authority(store.parent / "authority.key", SystemEntropy())


def test_an_authority_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nobody"):
        read_authority(tmp_path / "nobody")


@pytest.mark.parametrize("missing", ["device.json", "identity.key", "certificate", "authority.pub"])
def test_a_store_with_a_missing_file_is_named(store: Path, missing: str) -> None:
    (store / missing).unlink()
    with pytest.raises((ConfigError, StoreError), match=missing):
        open_device(store)


@pytest.mark.parametrize(
    "change",
    [
        {"budget": {"epsilon": -1, "delta": 1e-5}}, {"budget": {"epsilon": 1}}, {"budget": None},
        {"min_survivors": "many"}, {"data": 3},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(store: Path, change: dict[str, Any]) -> None:
    path = store / "device.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError):
        open_device(store)


def test_a_certificate_of_another_authority_name_or_key_is_refused(store: Path, tmp_path: Path) -> None:
    other = IdentityKey.generate(SimulatedEntropy("other"))
    good = {name: (store / name).read_bytes() for name in ("authority.pub", "identity.key", "device.json")}
    renamed = json.dumps(json.loads(good["device.json"]) | {"device": "r01"}).encode()
    for name, bad in (
        ("authority.pub", other.public_bytes), ("identity.key", other.private_bytes), ("device.json", renamed),
    ):  # fmt: skip
        (store / name).write_bytes(bad)
        with pytest.raises(Misbehaviour, match="did not sign"):
            open_device(store)
        (store / name).write_bytes(good[name])
    open_device(store)


def test_a_damaged_key_is_a_typed_error(store: Path) -> None:
    (store / "identity.key").write_bytes(b"short")
    with pytest.raises(FedInferError):
        open_device(store)


# --- the host over it ---


def test_a_real_device_is_given_nothing_that_could_be_seeded(store: Path) -> None:
    host = open_host(store)
    assert type(host.entropy) is SystemEntropy
    assert type(host.noise(None, "r00", "share")) is SecureStream  # type: ignore[arg-type] # it looks at nothing
    assert type(host.generator(None, "r00")) is SystemEntropy  # type: ignore[arg-type] # nor does this
    with pytest.raises(ConfigError, match="SystemEntropy"):
        SecureStream(SimulatedEntropy(1))  # type: ignore[arg-type] # the types differ, and it is checked
    assert not np.array_equal(secure_noise().words(4), secure_noise().words(4))


def test_a_real_device_reveals_and_allows_nothing_of_a_simulation(store: Path) -> None:
    policy = open_host(store).policy
    assert not policy.plain_sums
    assert not policy.reveals_simulation
    assert policy.isolation is Isolation.PROCESS
    assert not policy.unconfirmed_ranges
    assert policy.min_survivors == 3
    assert policy.budget == BUDGET
    assert open_host(store).drops_out("round-1", "r00") is None


def test_rows_of_a_device_are_split_alike_in_every_process(tmp_path: Path) -> None:
    stores = enrolled(tmp_path, 3, BUDGET)
    fleet = real(stores, settings())
    again = open_host(stores[0])
    first = fleet.hosts["r00"].rows
    np.testing.assert_array_equal(first.training("r00", 0)[0], again.rows.training("r00", 0)[0])
    train = {row.tobytes() for row in first.training("r00", 0)[0]}
    windows = [first.stream("r00", window)[0] for window in range(1, 8)]
    assert all(len(rows) == 5 for rows in windows)
    assert not train & {row.tobytes() for rows in windows for row in rows}
    np.testing.assert_array_equal(windows[0], windows[3])  # fifteen held-out rows, five in a window, round and round


def test_a_table_that_does_not_fit_the_task_is_refused_at_the_join(tmp_path: Path) -> None:
    stores = enrolled(tmp_path, 3, BUDGET)
    write_table(tmp_path / "r01.csv", 1, 30)
    (tmp_path / "r01.csv").write_text((tmp_path / "r01.csv").read_text().replace("a,b,c,y", "a,b,other,y"))
    with pytest.raises(AssertionError, match="r01"):  # the helper insists that everybody joins
        real(stores, settings())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_survivors": 1}, {"corruption_rate": 0.0}, {"corruption_rate": 1.0}, {"corruption_rate": -0.1},
        {"dropout_rate": 1.0}, {"dropout_rate": -0.1}, {"corruption_rate": math.nan}, {"dropout_rate": math.nan},
    ],
)  # fmt: skip
def test_floors_that_protect_nobody_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Floors(**({"min_survivors": 3} | wrong))


def test_what_the_owner_demands_is_what_the_device_checks(store: Path) -> None:
    assert open_device(store).floors == Floors(3, 0.1, 0.1)
    set_floors(store, Floors(4, 0.25, 0.3))
    policy = open_host(store).policy
    assert (policy.min_survivors, policy.corruption_rate, policy.dropout_rate) == (4, 0.25, 0.3)
    settings = json.loads((store / "device.json").read_text())
    assert settings["device"] == "r00"  # everything else stays
    (store / "device.json").write_text(json.dumps(settings | {"corruption_rate": 0.0}))
    with pytest.raises(ConfigError, match="corruption_rate 0"):
        open_device(store)


def test_the_owner_shows_and_sets_them_on_the_command_line(store: Path) -> None:
    shown = CliRunner().invoke(app, ["policy", "--store", str(store), "--json"])
    assert json.loads(shown.stdout) == {"min_survivors": 3, "corruption_rate": 0.1, "dropout_rate": 0.1}
    changed = CliRunner().invoke(app, ["policy", "--store", str(store), "--corruption-rate", "0.25"])
    assert changed.exit_code == 0
    assert "0.25" in changed.stdout
    assert open_device(store).floors == Floors(3, 0.25, 0.1)
    refused = CliRunner().invoke(app, ["policy", "--store", str(store), "--min-survivors", "1"])
    assert refused.exit_code == ConfigError.exit_code
    assert open_device(store).floors == Floors(3, 0.25, 0.1)
