"""How `fedinfer run` ends when something is wrong: the exit code, a message in words, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedinfer.cli.main import app
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.accounting.ledger import ANY_TASK, LEDGER_MIGRATIONS, Ledger
from fedinfer.privacy.charges import protected_of
from fedinfer.simulation import engine
from fedinfer.simulation.population import device_budget
from fedinfer.store import open_store

RUNNER = CliRunner()
SHORT = ("training.rounds=2", "drift.enabled=false", "fleet.dropout=0.0")


def start(out: Path | None, *overrides: str, scenario: str = "heart", words: tuple[str, ...] = ("--quiet",)) -> Result:
    sets = [word for text in overrides for word in ("--set", text)]
    where = ["--out", str(out)] if out else []
    return RUNNER.invoke(app, ["run", scenario, *where, *words, *sets])


def said(result: Result) -> str:
    """What was printed on stderr, in one line."""
    return " ".join(result.stderr.split())


def untouched(folder: Path) -> bool:
    return not folder.exists()


# --- 0 ---


def test_a_finished_run_ends_with_0_and_says_where_everything_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = start(out, *SHORT)
    assert result.exit_code == 0, result.output
    for word in ("completed", "accuracy", "epsilon", "devices", str(out), "report.html"):
        assert word in result.stdout
    names = {path.name for path in out.iterdir()}
    assert {"run.json", "events.jsonl", "ledger.sqlite", "checkpoints", "artifacts", "report.html"} <= names
    assert {"metadata", "targets"} <= {path.name for path in (out / "artifacts").iterdir()}
    assert not list(out.rglob("*.part"))


def test_json_prints_the_record_alone_on_stdout(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = start(out, *SHORT, words=("--json",))
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads((out / "run.json").read_text())


def test_json_of_a_run_that_stopped_is_its_record_too(tmp_path: Path) -> None:
    result = start(tmp_path / "run", *SHORT, "fleet.dropout=0.9", words=("--json",))
    assert result.exit_code == 4
    assert json.loads(result.stdout)["status"] == "aborted"
    assert "TooFewSurvivors" in said(result)


def test_json_of_bad_input_prints_nothing_on_stdout(tmp_path: Path) -> None:
    result = start(tmp_path / "run", "privacy.epsilon=-1", words=("--json",))
    assert (result.exit_code, result.stdout) == (2, "")


# --- 2: nothing half-written ---

BAD = {
    "unknown scenario": ((), "haert", ["haert", "did you mean 'heart'"]),
    "unknown key": (("privacy.epsilom=1",), "heart", ["epsilom", "epsilon"]),
    "wrong type": (("training.rounds=many",), "heart", ["training", "rounds", "many"]),
    "epsilon": (("privacy.epsilon=0",), "heart", ["privacy", "epsilon", "0"]),
    "delta": (("privacy.delta=0.5",), "heart", ["delta", "0.5"]),
    "cohort": (("training.cohort=5",), "heart", ["cohort", "5", "4"]),
    "factory": (("model.factory=no_such_module:model",), "heart", ["no_such_module"]),
    "label": (("data.label=nothing",), "heart", ["nothing"]),
    "no room for drift": (("drift.epsilon=8.0",), "digits", ["drift", "8.0"]),
    "too few to hide": (("secure_aggregation.corruption_rate=0.6",), "heart", ["corrupt"]),
    "override": (("rounds",), "heart", ["rounds"]),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_ends_with_2_names_what_is_wrong_and_writes_nothing(tmp_path: Path, case: str) -> None:
    overrides, scenario, words = BAD[case]
    result = start(tmp_path / "run", *overrides, scenario=scenario)
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in said(result), said(result)
    assert "Traceback" not in result.output
    assert untouched(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_epsilon_too_small_for_one_round_says_what_would_be_needed(tmp_path: Path) -> None:
    result = start(tmp_path / "run", "privacy.epsilon=0.001", "drift.enabled=false")
    assert result.exit_code == 2
    message = said(result)
    assert "epsilon 0.001 is too small to train even one useful round" in message
    needed = [float(text) for text in re.findall(r"epsilon ([0-9.]+), one round ([0-9.]+[0-9])", message)[0]]
    assert 0.001 < needed[1] < needed[0]
    proposed = float(re.findall(r"privacy.epsilon = ([0-9.]*[0-9])", message)[0])
    assert proposed >= needed[0]
    assert untouched(tmp_path / "run")


def test_an_epsilon_that_is_enough_for_one_round_only_says_so(tmp_path: Path) -> None:
    few = said(start(tmp_path / "run", "privacy.epsilon=0.001", "drift.enabled=false"))
    one = float(re.findall(r"one round ([0-9.]+[0-9])", few)[0])
    result = start(tmp_path / "run", f"privacy.epsilon={1.5 * one}", "drift.enabled=false")
    assert result.exit_code == 2
    assert "is too small for 20 useful rounds" in said(result)
    assert re.search(r"or [1-9]\d* rounds in all", said(result))


def test_a_folder_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    result = start(tmp_path, *SHORT)
    assert result.exit_code == 2
    assert "not empty" in said(result)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    result = start(tmp_path / "run", *SHORT)
    assert result.exit_code == 2
    assert str(tmp_path / "run") in said(result).replace(" ", "")
    assert (tmp_path / "run").read_text() == "precious"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """/proc refuses even root."""
    result = start(Path("/proc/fedinfer-run"), *SHORT)
    assert result.exit_code == 2
    assert "/proc/fedinfer-run" in said(result)
    assert "--out" in said(result)


# --- 3 ---


def test_devices_whose_owners_budget_is_gone_end_the_run_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hospitals spent what their owners allow in earlier work; two of four refuse, three are needed."""
    real = engine.simulated_host

    def prespent(scenario, federation, folder, clock, processes):  # type: ignore[no-untyped-def] # as the real one
        folder.mkdir(parents=True)
        connection = open_store(folder / "devices.sqlite", "privacy", LEDGER_MIGRATIONS)
        ledger = Ledger(connection, protected_of(scenario.privacy.unit))
        for device in sorted(federation.devices)[:2]:
            for task in (ANY_TASK, "earlier"):
                ledger.open_account(device, task, device_budget(scenario))
            for noise in (8.0, 32.0, 128.0):
                for number in range(100):
                    spend = [GaussianEvent(noise)]
                    if ledger.reserve([device], "earlier", f"{noise}-{number}", spend, "", clock.now())[device]:
                        break
        connection.close()
        return real(scenario, federation, folder, clock, processes)

    monkeypatch.setattr(engine, "simulated_host", prespent)
    out = tmp_path / "run"
    result = start(out, *SHORT)
    assert result.exit_code == 3, result.output
    assert "2 of 4 devices refuse" in said(result)
    assert "budget_exhausted" in result.stdout
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "budget_exhausted"
    assert record["devices"]["refused"] == 2
    assert (out / "report.html").exists()


def test_a_device_budget_below_that_of_the_run_ends_it_with_3(tmp_path: Path) -> None:
    """Owners allow less than the server plans: their ledgers say no to the first request, and nothing is spent."""
    out = tmp_path / "run"
    result = start(out, "privacy.device_epsilon=0.3", "drift.enabled=false", "fleet.dropout=0.0")
    assert result.exit_code == 3, result.output
    record = json.loads((out / "run.json").read_text())
    assert [row["status"] for row in record["rounds"]] == ["aborted"]
    assert record["rounds"][0]["refused"] == 4
    assert "all that it may ask for costs" in said(result)
    assert "budget 0.3" in said(result)


# --- 4 ---


def test_too_few_survivors_end_with_4(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = start(out, "fleet.dropout=0.9", "drift.enabled=false")
    assert result.exit_code == 4, result.output
    message = said(result)
    assert "TooFewSurvivors" in message
    assert "5 rounds in a row" in message
    assert "dropout_rate" in message
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "aborted"
    assert [row["status"] for row in record["rounds"]] == ["aborted"] * 5
    assert record["models"] == []
    assert (out / "report.html").exists()


# --- 5 ---


def test_a_file_that_no_device_would_take_is_found_before_the_first_round(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = start(out, *SHORT, "artifact.max_bytes=100")
    assert result.exit_code == 2, result.output
    assert "no budget was spent" in said(result)
    assert not out.exists()


def test_a_rejected_artifact_ends_with_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real rows may show what made-up ones did not."""
    monkeypatch.setattr(engine, "rehearse", lambda *parts: None)
    out = tmp_path / "run"
    result = start(out, *SHORT, "artifact.max_bytes=100")
    assert result.exit_code == 5, result.output
    assert "GateFailed" in said(result)
    assert "100" in said(result)
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "aborted"
    assert record["models"] == []
    assert all(row["status"] == "released" for row in record["rounds"])


# --- a full disk ---

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from fedinfer.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 2000, 20_000])
def test_a_disk_that_fills_up_ends_with_2_and_a_sentence(tmp_path: Path, limit: int) -> None:
    """No file may grow beyond a limit: what a full disk does to every write, at another moment for each limit."""
    out = tmp_path / "run"
    words = ["run", "heart", "--quiet", "--out", str(out), *(word for text in SHORT for word in ("--set", text))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED.format(limit=limit), *words],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in answer.stderr, answer.stderr[-2000:]
    assert answer.returncode == 2, (answer.returncode, answer.stdout, answer.stderr[-2000:])
    said = answer.stderr.replace("\n", "")
    assert str(out) in said or "database" in said or "temporary files" in said
    assert "space" in answer.stderr
    record = out / "run.json"
    if record.exists():
        json.loads(record.read_text())
