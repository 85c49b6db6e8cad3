"""A CSV of texts goes the whole way: private rounds, waves, a signed file that takes the texts, drift reports."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import load_scenario
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.simulation.engine import DEVICES_FOLDER
from fedinfer.text import column_of, raw_rows, tokens
from tests.scenarios.runs import run

pytestmark = pytest.mark.slow
FORMS = (
    'I say: "{} {}" ({}); {}!',
    "{} {},\n\n{}\r\n{}",
    "{}\t{} caf\u00e9 \U0001f600 {} {}",
    "\u00a0 {} '{}' {} ((( {} ,",
)
SCENARIO = """
[data]
source = "csv"
path = "letters.csv"
label = "verdict"
device = "shop"
drop = ["number"]
text = "letter"
vocabulary = "words.txt"
text_length = 12
[model]
kind = "bag"
hidden = [4]
[training]
rounds = 8
sampling_rate = 1.0
server_optimizer = "fedadam"
server_learning_rate = 0.1
[privacy]
unit = "example"
epsilon = 60.0
delta = 1e-4
[artifact]
max_metric_drop = 0.1
[drift]
windows = 2
window = 20
epsilon = 20.0
rounds = 1
[drift.inject]
kind = "label"
at_window = 2
"""


def write_letters(path: Path) -> None:
    draw = random.Random(3)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["number", "shop", "letter", "verdict"])
        for number in range(480):
            verdict = draw.choice(["praise", "complaint"])
            words = [draw.choice(["good", "fine"] if verdict == "praise" else ["bad", "cold"]) for _ in range(4)]
            letter = "" if number % 40 == 0 else draw.choice(FORMS).format(*words)
            table.writerow([number, f"shop {number % 6}", letter, verdict])


def test_a_csv_of_texts_becomes_a_file_that_reads_texts(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv")
    (tmp_path / "words.txt").write_text("good\nfine\nbad\ncold\n")
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    done = run(load_scenario(str(tmp_path)), tmp_path / "run")
    assert done.failure is None
    record = done.record
    assert (record["status"], record["models"][0]["devices_active"]) == ("completed", 6)
    assert record["models"][0]["float_metric"] > 0.8
    assert [row["reporters"] for row in record["drift"]["timeline"]] == [6, 6]
    installed = open_installed(Slots(done.folder / DEVICES_FOLDER / "shop-0" / "slots"), SessionCache(1))
    column = installed.manifest.schema.text
    assert column is not None
    assert (column.name, column.length, column.vocabulary) == ("letter", 12, ("good", "fine", "bad", "cold"))
    texts = [form.format("good", "Fine", "GOOD", "fine") for form in FORMS] + ["", "BAD", "cold,\nbad"]
    plain = raw_rows(installed.manifest.schema, tokens(texts, column))
    answers = installed.predictor.predict(column_of(texts))
    np.testing.assert_allclose(answers.probabilities, installed.predictor.predict(plain).probabilities, atol=1e-6)
    assert [installed.manifest.schema.labels[k] for k in answers.classes[[0, 1, 2, 5, 6]]] == [
        *["praise"] * 3,
        *["complaint"] * 2,
    ]
