"""A table as a spreadsheet of another country exports it goes the whole way: `init`, a run, a device that predicts."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.config import load_scenario
from fedinfer.simulation.engine import DEVICES_FOLDER
from tests.scenarios.runs import run

pytestmark = pytest.mark.slow
MISSING, SENTINEL = "-", "-200"
OVERRIDES = (
    "drift.enabled=false",
    "training.rounds=12",
    "training.sampling_rate=1.0",
    "privacy.epsilon=60.0",
    "artifact.max_metric_drop=0.2",
    "data.missing_values.lab=[-200]",
    "data.ranges.lab=[0, 2000]",
)


def write(path: Path, rows: int = 600) -> None:
    """The label follows from a time within a minute, from a laboratory value, and from whether that is missing."""
    draw = random.Random(5)
    with path.open("w", encoding="cp1252", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["lab", "sekunde", "station", "ergebnis"])
        for _ in range(rows):
            second, lab = draw.randint(0, 59), draw.uniform(0, 2000)
            kind = draw.random()
            shown = MISSING if kind < 0.1 else SENTINEL if kind < 0.2 else german(lab)
            ill = lab > 1000 if kind >= 0.2 else True
            result = draw.choice(["JA", "Ja"]) if ill else draw.choice(["NEIN", "Nein", "nein"])
            table.writerow([shown, 1_700_000_000 + second, draw.choice(["Köln", "Bern_1", "1_2"]), result])


def german(value: float) -> str:
    return f"{value:,.2f}".replace(",", " ").replace(".", ",").replace(" ", ".")


def predicted(store: Path, text: str, name: str) -> list[str]:
    path = store.parent / name
    path.write_bytes(text.encode("cp1252"))
    found = CliRunner().invoke(app, ["device", "predict", "--store", str(store), str(path)])
    assert found.exit_code == 0, found.output
    return [row["label"] for row in csv.DictReader(io.StringIO(found.stdout))]


def test_from_a_spreadsheet_to_answers(tmp_path: Path) -> None:
    write(tmp_path / "labor.csv")
    folder = tmp_path / "task"
    made = CliRunner().invoke(app, ["init", str(folder), "--csv", str(tmp_path / "labor.csv"), "--label", "ergebnis"])
    assert made.exit_code == 0, made.output
    scenario = load_scenario(str(folder), list(OVERRIDES))
    data = scenario.data
    assert (data.delimiter, data.decimal, data.thousands, data.encoding) == (";", ",", ".", "cp1252")
    assert [label.lower() for label in data.labels] == ["nein", "ja"]
    done = run(scenario, tmp_path / "run")
    assert done.failure is None
    record = done.record
    assert record["models"][0]["float_metric"] > 0.85
    store = min((done.folder / DEVICES_FOLDER).glob("*/slots")).parent
    no, yes = data.labels
    second, place = 1_700_000_030, "Köln"
    head = "lab;sekunde;station\n"
    cells = ["1.900,5", MISSING, "", SENTINEL, "-200,0", "90,25", "1.100.000,0"]
    rows = "".join(f"{cell};{second};{place}\n" for cell in cells)
    assert predicted(store, head + rows, "q.csv") == [yes, yes, yes, yes, yes, no, yes]
    # The same rows in another order of columns, with quotes, and cut at commas, as another program exports them.
    other = 'station,sekunde,lab\n"Köln",1700000030,"1.900,5"\n"Köln",1700000030,"90,25"\n'
    assert predicted(store, other, "q2.csv") == [yes, no]
    path = store.parent / "bad.csv"
    path.write_text(head + f"1900.5;{second};1_2\n")
    refused = CliRunner().invoke(app, ["device", "predict", "--store", str(store), str(path)])
    assert refused.exit_code == 2
    assert "column 'lab', row 2: '1900.5' is not a number" in refused.stderr
    assert 'decimal = "."' in refused.stderr


def test_a_file_of_tabs_is_published_and_its_devices_read_such_files(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [(draw.randint(1, 72), draw.choice(["basic", "pro"])) for _ in range(300)]
    told = [f"{draw.choice(('Yes', 'Y') if at < 30 else ('no', 'N'))}\t{at}\t{plan}\n" for at, plan in rows]
    table = tmp_path / "plans.tsv"
    table.write_text("churned\ttenure\tplan\n" + "".join(told))
    made = CliRunner().invoke(app, ["init", str(tmp_path / "task"), "--csv", str(table), "--label", "churned"])
    assert made.exit_code == 0, made.output
    scenario = load_scenario(str(tmp_path / "task"), ["drift.enabled=false", "training.rounds=3"])
    assert scenario.data.delimiter == "\t"
    done = run(scenario, tmp_path / "run")
    assert done.failure is None
    store = min((done.folder / DEVICES_FOLDER).glob("*/slots")).parent
    assert len(predicted(store, "plan\ttenure\nbasic\t3\npro\t70\n", "q.tsv")) == 2
