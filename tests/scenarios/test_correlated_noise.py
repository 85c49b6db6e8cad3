"""`fedinfer run digits` with correlated noise: turns of 50 devices, an alarm, rounds after it, one budget for all."""

from __future__ import annotations

import pytest

from fedinfer.coordinator.context import LEDGER_OWNER
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Ledger
from fedinfer.store import open_store
from tests.scenarios.record_shape import missing
from tests.scenarios.runs import Run, run, scenario

pytestmark = pytest.mark.slow
BANDED = (
    "secure_aggregation.mode=ideal",
    "privacy.trust=central",
    "privacy.correlation=banded",
    "training.rounds=12",
    "training.cohort=50",
    "training.server_learning_rate=1.0",
)


@pytest.fixture(scope="module")
def banded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(scenario("digits", *BANDED), tmp_path_factory.mktemp("banded") / "run")


def test_the_run_with_its_retraining_stays_within_the_budget(banded: Run) -> None:
    record = banded.record
    assert banded.failure is None
    assert record["status"] == "completed"
    assert missing(record) == []
    assert [row["reason"] for row in record["rounds"]] == ["initial"] * 12 + ["drift"] * 12
    assert {row["cohort"] for row in record["rounds"]} == {50}
    assert record["drift"]["triggered_rounds"] == 1
    assert record["privacy"]["epsilon"] <= record["privacy"]["budget"] == 8.0
    assert (record["privacy"]["sampling"], record["privacy"]["accountant"]) == ("none", "pld")
    assert record["devices"]["refused"] == 0


def test_when_all_rounds_and_windows_ran_the_ledger_is_the_plan(banded: Run) -> None:
    """All looks too: the gates' events are the only ones a run may leave out."""
    privacy, correlation = banded.record["privacy"], banded.record["privacy"]["correlation"]
    assert (correlation["kind"], correlation["rounds"], correlation["limit"], correlation["separation"]) == (
        "banded", 24, 6, 4,
    )  # fmt: skip
    assert correlation["bands"] > 1
    ledger = Ledger(open_store(banded.folder / "ledger.sqlite", "privacy", LEDGER_MIGRATIONS))
    rounds = [entry for entry in ledger.entries(LEDGER_OWNER) if entry.reference.startswith("round-")]
    paid = [entry.event.events[0].noise_multiplier for entry in rounds if entry.event.events]  # type: ignore[union-attr] # Composed of Gaussian
    assert len(rounds) == 24
    assert [bool(entry.event.events) for entry in rounds] == [True, False, False, False] * 6  # type: ignore[union-attr] # Composed
    whole = privacy["noise_multiplier"] / correlation["sensitivity"]
    assert sum(price**-2 for price in paid) ** -0.5 == pytest.approx(whole, rel=1e-9)
    assert privacy["planned_epsilon"] * 0.9 < privacy["epsilon"] <= privacy["planned_epsilon"] * (1 + 1e-9)


def test_most_of_the_lost_accuracy_comes_back(banded: Run) -> None:
    drift = banded.record["drift"]
    assert drift["metric_before"] - drift["metric_during"] > 0.2
    assert drift["metric_after"] - drift["metric_during"] > 0.1
