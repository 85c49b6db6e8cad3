"""The ledger's rules, one test or more for each."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedinfer.errors import BudgetExceeded, ConfigError, Misbehaviour, StoreError
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, NonPrivate, PoissonSampled, Repeated, SkellamEvent
from fedinfer.privacy.accounting.ledger import ANY_TASK, LEDGER_MIGRATIONS, Budget, Ledger, Protected, Refusal
from fedinfer.store import open_store, read_store, transaction
from fedinfer.types import Relation, Unit

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AR = Relation.ZERO_OUT
ROWS = Protected(Unit.EXAMPLE, Relation.ZERO_OUT)
DEVICES = Protected(Unit.DEVICE, Relation.ZERO_OUT)
EVENT = GaussianEvent(10.0)
BUDGET = Budget(1.0, 1e-5)


def make(folder: Path, protects: Protected | None = ROWS) -> Ledger:
    return Ledger(open_store(folder / "ledger.sqlite", "ledger", LEDGER_MIGRATIONS), protects)


def affordable(event: object, budget: Budget) -> int:
    count = 0
    while account([Repeated(event, count + 1)], budget.delta, AR).epsilon <= budget.epsilon:
        count += 1
    return count


def test_spending_goes_up_to_the_budget_and_not_beyond(tmp_path: Path) -> None:
    ledger, most = make(tmp_path), affordable(EVENT, BUDGET)
    assert most > 3
    ledger.open_account("d", "t", BUDGET)
    for index in range(most):
        assert ledger.reserve(["d"], "t", f"r{index}", [EVENT], "round", NOW) == {"d": None}
    before = ledger.spent("d", "t")
    refusal = ledger.reserve(["d"], "t", "one more", [EVENT], "round", NOW)["d"]
    assert isinstance(refusal, BudgetExceeded)
    assert "budget 1 at 1e-05" in str(refusal)
    assert ledger.spent("d", "t") == before == account([Repeated(EVENT, most)], 1e-5, AR)
    assert 0 < ledger.remaining("d", "t") < 0.5
    assert len(ledger.entries("d")) == most


def test_a_plan_calibrated_to_the_budget_fits_to_the_last_round(tmp_path: Path) -> None:
    """The ledger must use the accountant of the plan: Rényi bounds alone would refuse the last rounds."""
    from tests.unit.privacy.gaussians import gaussian_noise_multiplier

    z = gaussian_noise_multiplier(1.0, 1e-5, 12, 0.3, AR)
    event = PoissonSampled(0.3, GaussianEvent(z))
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    refusals = [ledger.reserve(["d"], "t", f"r{i}", [event], "round", NOW)["d"] for i in range(13)]
    assert refusals[:12] == [None] * 12
    assert isinstance(refusals[12], BudgetExceeded)


def test_a_reference_is_spent_once(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    assert ledger.reserve(["d"], "t", "r", [EVENT], "round", NOW)["d"] is None
    spent = ledger.spent("d", "t")
    for events in ([EVENT], [GaussianEvent(99.0)]):
        again = ledger.reserve(["d"], "t", "r", events, "round", NOW)["d"]
        assert isinstance(again, Misbehaviour)
        assert "'r' was spent before" in str(again)
    assert ledger.spent("d", "t") == spent
    assert len(ledger.entries(None)) == 1


def test_commit_changes_no_amount_and_may_be_repeated(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    ledger.reserve(["d"], "t", "r", [EVENT], "round", NOW)
    spent = ledger.spent("d", "t")
    assert ledger.entries("d")[0].committed_at == ""
    ledger.commit(["d"], "t", "r", NOW)
    ledger.commit(["d"], "t", "r", NOW + timedelta(hours=1))
    assert ledger.entries("d")[0].committed_at == NOW.isoformat()
    assert ledger.spent("d", "t") == spent
    with pytest.raises(Misbehaviour, match="never reserved"):
        ledger.commit(["d"], "t", "other", NOW)


def test_there_is_no_refund(tmp_path: Path) -> None:
    assert not [name for name in vars(Ledger) if any(word in name for word in ("refund", "delete", "cancel", "undo"))]
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    ledger.reserve(["d"], "t", "aborted", [EVENT], "round", NOW)
    assert make(tmp_path).spent("d", "t").epsilon == account([EVENT], 1e-5, AR).epsilon  # also after a restart


def test_a_batch_charges_each_owner_by_its_own_history(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_accounts(["rich", "spender"], "t", BUDGET)
    ledger.open_account("poor", "t", Budget(0.01, 1e-5))
    most = affordable(EVENT, BUDGET)
    for index in range(most):
        ledger.reserve(["spender"], "t", f"early {index}", [EVENT], "", NOW)
    verdicts = ledger.reserve(["rich", "poor", "spender"], "t", "r", [EVENT], "round", NOW)
    assert verdicts["rich"] is None
    assert isinstance(verdicts["poor"], BudgetExceeded)
    assert isinstance(verdicts["spender"], BudgetExceeded)
    assert ledger.spent("poor", "t").epsilon == 0
    assert ledger.spent("rich", "t") == account([EVENT], 1e-5, AR)


def test_many_owners_in_one_transaction(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    owners = [f"device-{i}" for i in range(1500)]  # more than one SQL statement takes
    ledger.open_accounts(owners, "t", BUDGET)
    assert ledger.reserve(owners, "t", "r", [EVENT], "round", NOW) == dict.fromkeys(owners)
    ledger.commit(owners, "t", "r", NOW)
    assert all(entry.committed_at for entry in ledger.entries(None))
    assert len(ledger.entries(None)) == 1500


def test_tasks_have_their_own_accounts(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "a", BUDGET)
    ledger.open_account("d", "b", Budget(2.0, 1e-6))
    ledger.reserve(["d"], "a", "r", [EVENT], "", NOW)
    assert ledger.spent("d", "b").epsilon == 0
    assert ledger.reserve(["d"], "b", "r", [EVENT], "", NOW)["d"] is None  # same reference, other task
    assert ledger.spent("d", "b").delta == 1e-6


def test_an_account_for_any_task_limits_all_of_them_together(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for task in ("a", "b"):
        ledger.open_account("d", task, BUDGET)
    ledger.open_account("d", ANY_TASK, BUDGET)
    most = affordable(EVENT, BUDGET)
    verdicts = [ledger.reserve(["d"], "ab"[i % 2], f"r{i}", [EVENT], "", NOW)["d"] for i in range(most + 1)]
    assert verdicts[:most] == [None] * most
    assert isinstance(verdicts[most], BudgetExceeded)
    assert ledger.spent("d", "a").epsilon < 1.0
    assert ledger.spent("d", ANY_TASK) == account([Repeated(EVENT, most)], 1e-5, AR)
    with pytest.raises(ConfigError, match="limits all tasks"):
        ledger.reserve(["d"], ANY_TASK, "x", [EVENT], "", NOW)


def test_a_budget_is_a_promise(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    ledger.open_account("d", "t", BUDGET)
    for other in (Budget(2.0, 1e-5), Budget(1.0, 1e-6)):
        with pytest.raises(ConfigError, match="asked for"):
            ledger.open_account("d", "t", other)
    with pytest.raises(ConfigError, match="replace-one"):
        make(tmp_path, Protected(Unit.EXAMPLE, Relation.REPLACE_ONE)).open_account("d", "t", BUDGET)
    assert ledger.budget("d", "t") == BUDGET
    for bad in ((0.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (float("nan"), 1e-5)):
        with pytest.raises(ConfigError):
            Budget(*bad)


def test_every_account_keeps_its_relation(tmp_path: Path) -> None:
    make(tmp_path, Protected(Unit.EXAMPLE, Relation.REPLACE_ONE)).open_account("d", "t", BUDGET)
    other = make(tmp_path)
    other.reserve(["d"], "t", "r", [EVENT], "", NOW)
    assert other.spent("d", "t") == account([EVENT], 1e-5, Relation.REPLACE_ONE)


def test_an_account_for_rows_is_none_for_devices_though_both_are_blanked_out(tmp_path: Path) -> None:
    """A bound for one row and a bound for a whole device do not add up, at the same relation and price."""
    make(tmp_path, ROWS).open_account("d", "t", BUDGET)
    with pytest.raises(ConfigError, match=r"unit example.*unit device"):
        make(tmp_path, DEVICES).open_account("d", "t", BUDGET)
    make(tmp_path, DEVICES).open_account("e", "t", BUDGET)
    units = {row["owner"]: row["unit"] for row in make(tmp_path, None).to_json()["accounts"]}
    assert units == {"d": "example", "e": "device"}


def test_a_ledger_that_is_only_read_opens_no_account(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unit and a relation"):
        make(tmp_path, None).open_account("d", "t", BUDGET)


def test_a_ledger_of_an_earlier_version_is_read_and_migrated_with_what_it_spent(tmp_path: Path) -> None:
    """There the relation alone told rows (add-or-remove-one) from devices (zero-out-one); the price was the same."""
    path = tmp_path / "ledger.sqlite"
    old = open_store(path, "ledger", LEDGER_MIGRATIONS[:1])
    for owner, relation in (("row", "add-or-remove-one"), ("device", "zero-out-one")):
        old.execute("INSERT INTO ledger_accounts VALUES (?, 't', 1.0, 1e-5, ?)", (owner, relation))
        Ledger(old).reserve([owner], "t", "r", [EVENT], "", NOW)
    old.close()
    spent = account([EVENT], 1e-5, AR).epsilon
    for connection in (read_store(path), open_store(path, "ledger", LEDGER_MIGRATIONS)):
        rows = {row["owner"]: row for row in Ledger(connection).to_json()["accounts"]}
        assert {owner: row["unit"] for owner, row in rows.items()} == {"row": "example", "device": "device"}
        assert all(row["spent"]["epsilon"] == spent for row in rows.values())
        connection.close()
    ledger = make(tmp_path, ROWS)
    ledger.open_account("row", "t", BUDGET)  # the same account: nothing was lost, nothing starts anew
    assert ledger.spent("row", "t").epsilon == spent
    with pytest.raises(ConfigError, match="unit device"):
        ledger.open_account("device", "t", BUDGET)


def test_unknown_accounts_and_doubled_owners_are_programming_errors(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    with pytest.raises(ConfigError, match="no account e/t"):
        ledger.reserve(["d", "e"], "t", "r", [EVENT], "", NOW)
    with pytest.raises(ConfigError, match="named twice"):
        ledger.reserve(["d", "d"], "t", "r", [EVENT], "", NOW)
    assert ledger.entries(None) == []
    with pytest.raises(ConfigError, match="no account"):
        ledger.remaining("e", "t")
    with pytest.raises(ConfigError, match="no account"):
        ledger.spent("e", "t")


def test_a_release_without_noise_is_refused_unless_the_budget_is_infinite(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    ledger.open_account("d", "unsafe", Budget(float("inf"), 1e-5))
    assert isinstance(ledger.reserve(["d"], "t", "r", [NonPrivate()], "", NOW)["d"], BudgetExceeded)
    assert ledger.reserve(["d"], "unsafe", "r", [NonPrivate()], "", NOW)["d"] is None
    assert ledger.spent("d", "unsafe").epsilon == float("inf")
    assert ledger.remaining("d", "unsafe") == 0


def test_what_the_command_line_shows(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.open_account("d", "t", BUDGET)
    events = [PoissonSampled(0.1, SkellamEvent(1e6, 100.0, 900.0))]
    ledger.reserve(["d"], "t", "round-1", events, "training round 1", NOW)
    shown = ledger.to_json()
    entry, row = shown["entries"][0], shown["accounts"][0]
    assert (entry["owner"], entry["reason"], entry["committed_at"]) == ("d", "training round 1", None)
    assert entry["epsilon_alone"] == row["spent"]["epsilon"] == account(events, 1e-5, AR).epsilon
    assert row["remaining_epsilon"] == pytest.approx(1.0 - row["spent"]["epsilon"])
    assert entry["event"]["events"][0]["kind"] == "poisson_sampled"
    ledger.commit(["d"], "t", "round-1", NOW)
    assert ledger.to_json()["entries"][0]["committed_at"] == NOW.isoformat()


def test_concurrent_threads_cannot_overspend(tmp_path: Path) -> None:
    ledger, most = make(tmp_path), affordable(EVENT, BUDGET)
    ledger.open_account("d", "t", BUDGET)
    granted: list[str] = []

    def spend(name: int) -> None:
        for index in range(most):
            if ledger.reserve(["d"], "t", f"{name}/{index}", [EVENT], "", NOW)["d"] is None:
                granted.append(f"{name}/{index}")

    threads = [threading.Thread(target=spend, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == most == len(ledger.entries("d"))


def _spend_in_a_process(folder: Path, name: int, attempts: int, results: multiprocessing.Queue[int]) -> None:
    ledger = make(folder)
    refusals = [ledger.reserve(["d"], "t", f"{name}/{i}", [EVENT], "", NOW)["d"] for i in range(attempts)]
    results.put(refusals.count(None))


def test_concurrent_processes_cannot_overspend(tmp_path: Path) -> None:
    most = affordable(EVENT, BUDGET)
    make(tmp_path).open_account("d", "t", BUDGET)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_spend_in_a_process, args=(tmp_path, n, most, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    granted = sum(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert granted == most == len(make(tmp_path).entries("d"))


def test_a_second_process_does_not_check_between_check_and_write_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is enough for one of two; who leaves a transaction waits until the other has left one too."""
    alone = account([EVENT], BUDGET.delta, AR).epsilon
    ledgers = [make(tmp_path) for _ in range(2)]
    ledgers[0].open_account("d", "t", Budget(alone * 1.01, BUDGET.delta))
    both = threading.Barrier(2)

    @contextmanager
    def transaction_and_wait(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        with transaction(connection) as database:
            yield database
        with suppress(threading.BrokenBarrierError):
            both.wait(5)

    monkeypatch.setattr("fedinfer.privacy.accounting.ledger.transaction", transaction_and_wait)
    found: list[Refusal | None] = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(ledgers[n].reserve(["d"], "t", f"r{n}", [EVENT], "", NOW)["d"])
        )
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 1
    assert len(ledgers[0].entries("d")) == 1


def test_a_full_disk_spends_nothing_and_says_so(tmp_path: Path) -> None:
    connection = open_store(tmp_path / "ledger.sqlite", "ledger", LEDGER_MIGRATIONS)
    ledger = Ledger(connection, ROWS)
    ledger.open_account("d", "t", BUDGET)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    failure = None
    for index in range(2000):
        try:
            ledger.reserve(["d"], "t", f"r{index}" + "x" * 4000, [GaussianEvent(1e6)], "", NOW)
        except StoreError as error:
            failure = error
            break
    assert failure is not None
    connection.execute("PRAGMA max_page_count = 1000000")
    assert len(ledger.entries(None)) == index  # what was granted is there, the failed one is not
    assert ledger.reserve(["d"], "t", "afterwards", [GaussianEvent(1e6)], "", NOW)["d"] is None
