"""A CSV with a column of free text: what is read, what is refused by name, and where the words come from."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
import typer
from pyarrow import parquet
from typer.testing import CliRunner

from fedinfer.cli.init import init
from fedinfer.cli.validate import validate
from fedinfer.config import Scenario, from_flat, load_scenario, to_flat
from fedinfer.data import check_against_data, load, load_own, public_schema
from fedinfer.data.guess import ColumnRole, Guess, guess_column, settled
from fedinfer.data.summary import summarize
from fedinfer.data.vocabulary import english_words, read_words
from fedinfer.errors import ConfigError, DataError, Misbehaviour
from fedinfer.schema import Text
from fedinfer.system import simulation_rng
from fedinfer.text import tokens
from fedinfer.training import load_trainer

WORDS = ("good", "bad", "bread", "caf\u00e9")
TEXTS = (
    'Good bread, "very" good', "line one\nbad\r\nbad", "", "caf\u00e9 \U0001f600; good\tbad", "NA", "'' \"\" ,,,",
    "\u00a0good", " bad ",
)  # fmt: skip
PILOT = """
[data]
source = "csv"
path = "letters.csv"
label = "verdict"
labels = ["no", "yes"]
text = "letter"
vocabulary = "words.txt"
text_length = 6
{keys}
[model]
kind = "bag"
hidden = [4]
"""


def write_letters(path: Path, rows: int = 40, header: tuple[str, ...] = ("letter", "verdict")) -> list[str]:
    """A table of awkward letters; every fifth row of a kind has the other verdict."""
    letters = [TEXTS[row % len(TEXTS)] for row in range(rows)]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(
            [letter, "yes" if row % 3 else "no", f"shop-{row % 4}"][: len(header)] for row, letter in enumerate(letters)
        )
    return letters


def pilot(folder: Path, keys: str = "", toml: str = PILOT) -> Scenario:
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "scenario.toml").write_text(toml.format(keys=keys), encoding="utf-8")
    return load_scenario(str(folder))


def rows_of(federation) -> np.ndarray:
    parts = [part for data in federation.devices.values() for part in (data.train_x, data.test_x)]
    return np.concatenate([*parts, federation.public[0]])


def as_sorted(x: np.ndarray) -> list[list[float]]:
    return sorted(x.tolist())


def test_rows_are_the_tokens_of_the_texts_as_they_are_written(tmp_path: Path) -> None:
    letters = write_letters(tmp_path / "letters.csv")
    federation = load(pilot(tmp_path, "public_fraction = 0.2\n[data.partition]\ndevices = 3"))
    column = Text("letter", 6, WORDS)
    assert federation.schema.columns == (column,)
    assert federation.warnings == ()
    assert as_sorted(rows_of(federation)) == as_sorted(tokens(letters, column))
    assert (len(federation.devices), len(federation.public[1])) == (3, 8)


def test_a_column_names_the_devices_and_others_are_dropped(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv", header=("letter", "verdict", "shop"))
    federation = load(pilot(tmp_path, 'device = "shop"'))
    assert list(federation.devices) == ["shop-0", "shop-1", "shop-2", "shop-3"]
    dropped = load(pilot(tmp_path, 'drop = ["shop"]\n[data.partition]\ndevices = 2'))
    assert len(dropped.devices) == 2


def test_another_input_column_is_refused_with_the_line_that_drops_it(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv", header=("letter", "verdict", "shop"))
    with pytest.raises(DataError, match=r"letters\.csv: \[data\] text = 'letter' stands alone.*'shop'") as refused:
        load(pilot(tmp_path))
    assert refused.value.hint == 'drop = ["shop"]'


def test_without_a_file_the_words_are_those_of_reviews(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv")
    scenario = pilot(tmp_path, toml=PILOT.replace('vocabulary = "words.txt"\ntext_length = 6\n', ""))
    assert load(scenario).schema.columns == (Text("letter", 64, english_words()),)
    assert "vocabulary of 1000" in summarize(scenario, load(scenario))["data"]["inputs"]


def test_a_list_that_nobody_confirmed_is_said_and_stops_a_deployment(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv")
    scenario = pilot(tmp_path, "ranges_confirmed = false")
    assert "letter (vocabulary)" in load(scenario).warnings[0]
    with pytest.raises(DataError, match="ranges_confirmed"):
        public_schema(scenario)


def test_parquet_texts_are_the_same(tmp_path: Path) -> None:
    letters = write_letters(tmp_path / "letters.csv")
    verdicts = ["yes" if row % 3 else "no" for row in range(len(letters))]
    values = [None if letter == "" else letter for letter in letters]
    parquet.write_table(arrow.table({"letter": values, "verdict": verdicts}), tmp_path / "letters.parquet")
    scenario = pilot(tmp_path)
    other = pilot(tmp_path, toml=PILOT.replace("letters.csv", "letters.parquet"))
    np.testing.assert_array_equal(rows_of(load(scenario)), rows_of(load(other)))


def test_a_text_that_no_device_would_take_is_named_by_row(tmp_path: Path) -> None:
    (tmp_path / "letters.csv").write_text("letter,verdict\ngood,yes\n" + "x" * 100_001 + ",no\n")
    with pytest.raises(DataError, match=r"letters\.csv: column 'letter', row 3: a text of 100,001 characters"):
        load(pilot(tmp_path))


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ("[data.ranges]\nage = [0, 1]", "'letter' and column 'age': a text is the only input"),
        ('categorical = ["age"]', "a text is the only input"),
        ('drop = ["letter"]', "cannot be the label, the device column or a dropped column"),
        ('device = "letter"', "cannot be the label, the device column"),
    ],
)
def test_keys_that_do_not_go_with_a_text_are_refused(tmp_path: Path, keys: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        pilot(tmp_path, keys)


def test_the_table_is_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names the table itself"):
        pilot(tmp_path, toml=PILOT.replace("words.txt", "./letters.csv"))
    with pytest.raises(ConfigError, match="is for a column of free text"):
        pilot(tmp_path, toml=PILOT.replace('text = "letter"\n', ""))
    with pytest.raises(ConfigError, match="needs source = 'csv'"):
        load_scenario("heart", ["data.text=age"])
    with pytest.raises(ConfigError, match="text_length = 4097"):
        load_scenario("heart", ["data.text_length=4097"])


@pytest.mark.parametrize("kind", ["logistic", "mlp", "gru"])
def test_a_kind_that_reads_no_texts_is_refused(tmp_path: Path, kind: str) -> None:
    write_letters(tmp_path / "letters.csv")
    scenario = pilot(tmp_path, toml=PILOT.replace('"bag"', f'"{kind}"'))
    with pytest.raises(ConfigError, match=f"'{kind}' cannot read texts") as refused:
        load_trainer(scenario.model, load(scenario).schema, scenario.training, 1)
    assert "bag" in str(refused.value.hint)


def test_a_kind_of_texts_asks_for_the_key() -> None:
    scenario = load_scenario("heart", ["model.kind=bag"])
    with pytest.raises(ConfigError, match="needs a text column") as refused:
        load_trainer(scenario.model, load(scenario).schema, scenario.training, 1)
    assert "[data] text" in str(refused.value.hint)


def test_injected_drift_of_numbers_does_not_fit_texts(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv")
    drifted = PILOT + '[drift.inject]\nkind = "shift"\nat_window = 2\n[privacy]\nepsilon = 8.0\n'
    scenario = pilot(tmp_path, toml=drifted)
    with pytest.raises(ConfigError, match="the rows are texts"):
        check_against_data(scenario, load(scenario))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"good\nGood\n", r"words\.txt: line 2: 'Good' can never be found"),
        (b"good\ntwo words\n", "line 2: 'two words' can never be found"),
        (b"good\n\nbad\r\ngood\n", "line 4: 'good' is in line 1 already"),
        (b"letter,verdict\n", "line 1: 'letter,verdict' can never"),
        (b"\n \n", "0 words, allowed are 1 to 100000"),
        (b"good\n\xff\n", "byte 5 is not UTF-8"),
    ],
)
def test_a_word_list_that_cannot_be_used_is_named_by_line(tmp_path: Path, content: bytes, rule: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=rule):
        read_words(tmp_path / "words.txt")


def test_a_word_list_may_have_a_mark_of_byte_order_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbfgood\r\n\r\n caf\xc3\xa9 \n")
    assert read_words(tmp_path / "words.txt") == ("good", "caf\u00e9")
    with pytest.raises(DataError, match="cannot be read"):
        read_words(tmp_path / "absent.txt")


def test_the_word_list_lies_beside_the_toml_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_letters(tmp_path / "letters.csv")
    scenario = pilot(tmp_path)
    below = tmp_path / "below"
    below.mkdir()
    (below / "more.toml").write_text('extends = "../scenario.toml"\n[training]\nrounds = 3\n')
    assert load_scenario(str(below / "more.toml")).data.vocabulary == str(tmp_path / "words.txt")
    assert load(load_scenario(str(below / "more.toml"))).schema == load(scenario).schema
    monkeypatch.chdir(below)
    (below / "few.txt").write_text("good\n")
    changed = load_scenario(str(tmp_path), ["data.vocabulary=few.txt"])
    assert load(changed).schema.columns == (Text("letter", 6, ("good",)),)


def test_a_device_of_a_deployment_needs_the_words_of_the_task_and_opens_no_file(tmp_path: Path) -> None:
    scenario = pilot(tmp_path)
    schema = public_schema(scenario)
    letters = write_letters(tmp_path / "own.csv", 12, ("letter", "verdict", "shop"))
    (tmp_path / "words.txt").unlink()
    received = from_flat(to_flat(scenario))
    data = load_own(received, schema, tmp_path / "own.csv", simulation_rng("own"))
    assert as_sorted(np.concatenate([data.train_x, data.test_x])) == as_sorted(
        tokens(letters, Text("letter", 6, WORDS))
    )
    with pytest.raises(Misbehaviour, match="not the one that its scenario describes"):
        load_own(received, replace(schema, label="shop"), tmp_path / "own.csv", simulation_rng("own"))
    with pytest.raises(ConfigError, match="0 words"):
        load_own(received, load(load_scenario("heart")).schema, tmp_path / "own.csv", simulation_rng("own"))
    (tmp_path / "own.csv").write_text("note,verdict\na,yes\nb,no\n")
    with pytest.raises(DataError, match=r"own\.csv: \[data\] text = 'letter': no such column"):
        load_own(received, schema, tmp_path / "own.csv", simulation_rng("own"))


def test_simulation_and_deployment_agree_on_the_schema(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters.csv")
    assert public_schema(pilot(tmp_path)) == load(pilot(tmp_path)).schema


# --- fedinfer init ---


def letters(rows: int) -> list[str]:
    return [f'Dear shop, number {row} was "good",\nyours' for row in range(rows)]


def initialised(tmp_path: Path, columns: dict[str, list[object]], *options: str) -> tuple[Scenario, dict[str, str]]:
    app = typer.Typer()
    app.command()(init)
    app.command()(validate)
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    command = ["init", str(tmp_path / "p"), "--csv", str(tmp_path / "t.csv"), "--label", "y", "--json", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    checked = CliRunner().invoke(app, ["validate", str(tmp_path / "p")])
    assert checked.exit_code == 0, checked.output
    return load_scenario(str(tmp_path / "p")), {c["name"]: c["role"] for c in json.loads(done.output)["columns"]}


def test_init_takes_long_different_values_for_a_text(tmp_path: Path) -> None:
    labels = ["yes" if row % 2 else "no" for row in range(60)]
    columns = {"id": [*range(60)], "letter": letters(60), "stars": [row % 5 for row in range(60)], "y": labels}
    scenario, roles = initialised(tmp_path, columns)
    assert roles == {"id": "drop", "letter": "text", "stars": "drop"}
    assert (scenario.data.text, scenario.model.kind, scenario.data.vocabulary) == ("letter", "bag", "")
    text = (tmp_path / "p" / "scenario.toml").read_text(encoding="utf-8")
    assert "free text: 60 different values, 7 words in the median" in text
    assert "a text stands alone, 'letter' was taken" in text
    assert public_schema(scenario).text is not None


def test_init_keeps_a_table_with_notes_a_table(tmp_path: Path) -> None:
    numbers = {name: [(row * factor) % 17 for row in range(60)] for name, factor in (("a", 3), ("b", 5), ("c", 7))}
    columns = {**numbers, "notes": letters(60), "y": ["yes" if row % 2 else "no" for row in range(60)]}
    scenario, roles = initialised(tmp_path, columns)
    assert (scenario.data.text, roles["notes"], roles["a"]) == ("", "drop", "numeric")
    assert "to learn from it see text" in (tmp_path / "p" / "scenario.toml").read_text(encoding="utf-8")


def test_names_and_codes_are_no_texts() -> None:
    assert guess_column("name", [f"P\u00e4rson {row}" for row in range(50)], ("",)).role is ColumnRole.DROP
    assert guess_column("code", [f"{row} a b c d e" for row in range(50)], ("",)).role is ColumnRole.DROP
    assert guess_column("survey", ["I do agree with this"] * 25 + ["I do not agree with this"] * 25, ("",)).role is (
        ColumnRole.CATEGORICAL
    )


def test_of_two_texts_the_longer_one_is_taken() -> None:
    short, long = (
        Guess(name, ColumnRole.TEXT, "free text", 0, words=words) for name, words in (("title", 5), ("body", 40))
    )
    assert [guess.role for guess in settled([short, long])] == [ColumnRole.DROP, ColumnRole.TEXT]
