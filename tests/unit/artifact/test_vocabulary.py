"""A model of words takes texts: found in the graph, looked up in the model's own list, and refused with numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedinfer.artifact import ModelTask, Wishes, import_model
from fedinfer.artifact.export.graph import finish, run
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.model_toml import from_toml, to_toml
from fedinfer.artifact.imported.outside import parse
from fedinfer.artifact.imported.vocabulary import Vocabulary, looked_up, text_column
from fedinfer.cli.importing import labels_of, vocabulary_of
from fedinfer.errors import ConfigError
from fedinfer.manifest import PROBABILITIES
from fedinfer.schema import Text
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.text import column_of
from tests.unit.artifact import foreign_models as foreign

WORDS = Vocabulary(("[PAD]", "[UNK]", "good", "Bad", "bad", ""), padding=0, unknown=1)
TABLE = foreign.weights(6, 3)


def classifier(opset: int = 13) -> bytes:
    """Four token numbers, int64, to logits: the mean of their vectors."""
    return foreign.model_bytes(
        [
            ("Gather", ["table", "tokens"], ["e"]), ("Transpose", ["e"], ["t"], {"perm": [0, 2, 1]}),
            ("GlobalAveragePool", ["t"], ["m"]), ("Flatten", ["m"], ["y"]),
        ],
        [("tokens", foreign.INT, ["n", 4])], [("y", foreign.F, ["n", 3])], {"table": TABLE}, opset,
    )  # fmt: skip


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("opset", [13, 20])
def test_texts_are_answered_as_their_tokens_are(opset: int) -> None:
    data = classifier(opset)
    wishes = Wishes(task=ModelTask.CLASSIFICATION, labels=("a", "b", "c"), vocabularies={"tokens": WORDS})
    found = import_model(data, read_facts(parse(data)), "m", "label", wishes, {}, SystemClock(), simulation_rng("m"))
    assert found.schema.text == Text("tokens", 4, ("good", "bad"))
    assert found.parity < 1e-5
    texts = ["Good, BAD thing", "", "bad bad bad bad good"]
    said = run(finish(found.core, found.head(1)), column_of(texts), PROBABILITIES)
    numbers = np.array([[2, 4, 1, 0], [0, 0, 0, 0], [4, 4, 4, 4]])
    np.testing.assert_allclose(said, softmax(TABLE[numbers].mean(axis=1)), atol=1e-5)
    assert from_toml(to_toml(found.declaration), "model.toml") == found.declaration


def test_words_that_no_text_holds_keep_their_place() -> None:
    assert WORDS.found == ("good", "bad")
    assert looked_up(WORDS, np.array([[0, 1, 2, 3]], np.float32)).tolist() == [[0, 1, 2, 4]]


def test_what_is_no_vocabulary_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="0 of which a text can hold"):
        Vocabulary(("[PAD]",))
    with pytest.raises(ConfigError, match="padding -1 and unknown 1"):
        replace(WORDS, padding=-1)
    with pytest.raises(ConfigError, match="takes no list of tokens"):
        text_column("x", (2, 2), WORDS)
    with pytest.raises(ConfigError, match="lists a word twice"):
        text_column("x", (2,), Vocabulary(("good", "good")))
    with pytest.raises(ConfigError, match="cannot be read"):
        vocabulary_of(str(tmp_path / "absent.txt"))


def test_a_vocabulary_is_a_file_with_a_word_per_line(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(WORDS.words[:5]) + "\n")
    assert vocabulary_of(f"{tmp_path / 'words.txt'}:7:9") == Vocabulary(WORDS.words[:5], 7, 9)
    with pytest.raises(ValueError, match=r"^$"):
        vocabulary_of("words.txt:1")
    assert labels_of(",".join(["name"] * 3000))[:2] == ("name", "name")  # no name of a file is so long
