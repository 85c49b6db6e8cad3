"""`fedinfer privacy`: names, JSON and exit codes that scripts rely on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedinfer.cli.privacy import app
from fedinfer.privacy import account, at_least, at_most, group_epsilon
from fedinfer.privacy.accounting.events import GaussianEvent, Repeated
from fedinfer.privacy.accounting.ledger import ANY_TASK, LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.privacy.accounting.ledger_records import Protected
from fedinfer.store import open_store
from fedinfer.types import Relation, Unit


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_epsilon_as_in_the_research_table() -> None:
    result = call(
        "epsilon", "--noise-multiplier", 1.0, "--rounds", 10000, "--sampling-rate", 0.01, "--delta", 1e-5, "--json"
    )
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["epsilon"] == pytest.approx(6.188, abs=2e-3)
    assert (shown["accountant"], shown["sampling"]) == ("pld", "poisson")
    assert (shown["relation"], shown["unit"]) == ("zero-out-one", "example")


def test_noise_and_epsilon_are_inverse() -> None:
    common = ("--delta", 1e-5, "--rounds", 100, "--sampling-rate", 0.01, "--json")
    noise = json.loads(call("noise", "--epsilon", 4, *common).stdout)
    back = json.loads(call("epsilon", "--noise-multiplier", noise["noise_multiplier"], *common).stdout)
    assert back["epsilon"] == noise["epsilon"]
    assert 3.99 < back["epsilon"] <= 4


def test_distributed_trust_is_accounted_as_integers() -> None:
    common = ("--delta", 1e-5, "--rounds", 20, "--unit", "device", "--json")
    central = json.loads(call("noise", "--epsilon", 2, *common).stdout)
    distributed = json.loads(call("noise", "--epsilon", 2, "--trust", "distributed", *common).stdout)
    assert (central["accountant"], distributed["accountant"]) == ("pld", "pld")
    assert distributed["relation"] == "zero-out-one"
    assert central["noise_multiplier"] < distributed["noise_multiplier"] < 1.1 * central["noise_multiplier"]


def test_devices_get_no_amplification_and_the_answer_says_so() -> None:
    common = ("--noise-multiplier", 5, "--delta", 1e-5, "--rounds", 10, "--unit", "device", "--json")
    plain = json.loads(call("epsilon", *common).stdout)
    sampled = json.loads(call("epsilon", "--sampling-rate", 0.1, *common).stdout)
    assert sampled["epsilon"] == plain["epsilon"]
    assert sampled["sampling"] == "none"
    assert "not amplified" in sampled["notes"][0]


def test_replace_one_costs_more() -> None:
    common = ("--noise-multiplier", 5, "--delta", 1e-5, "--rounds", 10, "--json")
    assert (
        json.loads(call("epsilon", "--relation", "replace-one", *common).stdout)["epsilon"]
        > 1.9 * json.loads(call("epsilon", *common).stdout)["epsilon"]
    )


def test_plain_words_name_accountant_and_relation() -> None:
    shown = call("epsilon", "--noise-multiplier", 3, "--delta", 1e-5, "--rounds", 10).stdout
    for word in ("epsilon", "accountant pld", "relation zero-out-one", "sampling rate 1 (none)"):
        assert word in shown


def test_a_delta_is_not_shown_smaller_than_it_is() -> None:
    """An epsilon is claimed at a delta; at a smaller one it would be larger."""
    shown = call("epsilon", "--noise-multiplier", 3, "--delta", 1.0000004e-5, "--rounds", 10).stdout
    assert "at delta 1.00001e-05" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("noise", "--epsilon", 0, "--delta", 1e-5, "--rounds", 10),
        ("noise", "--epsilon", 1, "--delta", 0, "--rounds", 10),
        ("noise", "--epsilon", 1, "--delta", 1e-5, "--rounds", 0),
        ("noise", "--epsilon", 1, "--delta", 1e-5, "--rounds", 0, "--trust", "distributed"),
        ("noise", "--epsilon", 1, "--delta", 1e-5, "--rounds", 10, "--sampling-rate", 2),
        ("noise", "--epsilon", 1, "--delta", 1e-5, "--rounds", 10, "--unit", "none"),
        ("noise", "--epsilon", 1, "--delta", 1e-5, "--rounds", 10, "--relation", "swap"),
        ("epsilon", "--noise-multiplier", -1, "--delta", 1e-5, "--rounds", 10),
        ("epsilon", "--noise-multiplier", 1, "--delta", 1e-5),
        ("ledger", "/nonexistent/run"),
        ("group", "/nonexistent/run"),
        ("group", ".", "--rows", "two"),
    ],
)
def test_bad_input_exits_with_2(arguments: tuple[object, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def run_folder(folder: Path) -> Path:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    for name, owners in (("ledger.sqlite", ["server"]), ("devices.sqlite", ["a", "b"])):
        connection = open_store(folder / name, "ledger", LEDGER_MIGRATIONS)
        ledger = Ledger(connection, Protected(Unit.EXAMPLE, Relation.ZERO_OUT))
        ledger.open_accounts(owners, "run-1", Budget(3.0, 1e-5))
        ledger.reserve(owners, "run-1", "round-0001", [GaussianEvent(9.0)], "train round-0001", now)
        ledger.commit(owners, "run-1", "round-0001", now)
        connection.close()
    open_store(folder / "other.sqlite", "other", ["CREATE TABLE x (y)"]).close()
    return folder


def test_rows_of_one_person_cost_more_than_so_many_times_one_row(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (row,) = json.loads(call("group", folder, "--rows", "1,5", "--json").stdout)["groups"]
    assert (row["owners"], row["unit"], row["delta"]) == (3, "example", 1e-5)
    assert row["epsilon"]["1"] == account([GaussianEvent(9.0)], 1e-5, Relation.ZERO_OUT).epsilon
    assert row["epsilon"]["5"] == group_epsilon([GaussianEvent(9.0)], 1e-5, 5) > 5 * row["epsilon"]["1"]
    words = call("group", folder, "--rows", "5").stdout
    assert "a and 2 more" in words
    assert "5 rows" in words


def test_a_device_with_several_tasks_is_told_what_they_cost_together(tmp_path: Path) -> None:
    connection = open_store(tmp_path / "device.sqlite", "ledger", LEDGER_MIGRATIONS)
    ledger = Ledger(connection, Protected(Unit.EXAMPLE, Relation.ZERO_OUT))
    now = datetime(2026, 5, 1, tzinfo=UTC)
    for task in (ANY_TASK, "one", "two"):
        ledger.open_account("d", task, Budget(9.0, 1e-5))
    for task in ("one", "two"):
        ledger.reserve(["d"], task, "r", [GaussianEvent(9.0)], "", now)
    connection.close()
    rows = json.loads(call("group", tmp_path, "--rows", "2", "--json").stdout)["groups"]
    told = {row["task"]: row["epsilon"]["2"] for row in rows}
    assert told[ANY_TASK] == group_epsilon([Repeated(GaussianEvent(9.0), 2)], 1e-5, 2) > told["one"]


def test_ledger_of_a_run_shows_who_why_how_much_and_what_is_left(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    shown = json.loads(call("ledger", folder, "--json").stdout)
    assert [row["owner"] for row in shown["accounts"]] == ["a", "b", "server"]
    for row in shown["accounts"]:
        assert row["spent"]["epsilon"] + row["remaining_epsilon"] == pytest.approx(3.0)
    entry = shown["entries"][-1]
    assert (entry["ledger"], entry["owner"], entry["reason"]) == ("ledger.sqlite", "server", "train round-0001")
    assert entry["event"]["events"] == [{"kind": "gaussian", "noise_multiplier": 9.0}]
    assert entry["epsilon_alone"] > 0
    words = call("ledger", folder / "devices.sqlite", "--owner", "b").stdout
    assert "round-0001" in words
    assert "server" not in words


def test_nothing_of_a_ledger_is_cut_off_at_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = run_folder(tmp_path)
    result = call("ledger", folder)
    assert "\u2026" not in result.stdout
    for row in json.loads(call("ledger", folder, "--json").stdout)["accounts"]:
        assert at_most(row["spent"]["epsilon"], 4) in result.stdout
        assert at_least(row["remaining_epsilon"], 4) in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_reading_a_ledger_changes_nothing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    before = {file.name: file.read_bytes() for file in folder.glob("*.sqlite")}
    call("ledger", folder, "--json")
    assert {file.name: file.read_bytes() for file in folder.glob("*.sqlite")} == before
    assert call("ledger", folder / "other.sqlite").exit_code == 2
    (folder / "junk.sqlite").write_bytes(b"no database at all" * 100)
    assert call("ledger", folder / "junk.sqlite").exit_code == 2
