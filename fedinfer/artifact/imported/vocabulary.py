"""The declared step from a text to the token numbers that a model of words takes.

The words of a text are found as in every model of texts (`fedinfer.text`), in the graph; each is looked up in the
model's own list. A list of parts of words (WordPiece, BPE) needs another tokenizer: its model takes token numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.schema import MAX_VOCABULARY, Text, is_word
from fedinfer.tensors import LARGEST_WHOLE, TensorSpec

OPSET = 20
"""The first operator set that splits texts."""
Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of a model, each at the place that is its number.

    Args:
        words: in the order of their numbers, from 0; what no text can hold (`[PAD]`) keeps its place.
        padding: number of no word, behind the last one.
        unknown: number of a word that is not listed.
    """

    words: tuple[str, ...]
    padding: int = 0
    unknown: int = 1

    def __post_init__(self) -> None:
        if not 0 <= min(self.padding, self.unknown) <= max(self.padding, self.unknown) <= LARGEST_WHOLE:
            raise ConfigError(f"padding {self.padding} and unknown {self.unknown}: numbers of tokens")
        if len(self.words) > MAX_VOCABULARY or not self.found:
            raise ConfigError(
                f"a vocabulary of {len(self.words)} words, {len(self.found)} of which a text can hold; "
                f"allowed are 1 to {MAX_VOCABULARY}",
                hint="words are in lower case, without spaces and marks",
            )

    @property
    def found(self) -> tuple[str, ...]:
        """The words that a text can hold."""
        return tuple(word for word in self.words if is_word(word))

    def numbers(self) -> Numbers:
        """The model's numbers of our tokens: no word, an unknown one, then each that a text can hold."""
        places = [place for place, word in enumerate(self.words) if is_word(word)]
        return np.array([self.padding, self.unknown, *places], np.float32)


def text_column(name: str, shape: tuple[int, ...], vocabulary: Vocabulary) -> Text:
    """The column of texts that rows bring.

    Args:
        name: of the input.
        shape: sizes of the input for one row.
        vocabulary: of the model.

    Raises:
        ConfigError: the input is no list of tokens.
    """
    if len(shape) != 1:
        raise ConfigError(f"input {name} of shape {list(shape)} takes no list of tokens")
    return Text(name, shape[0], vocabulary.found)


def token_tensor(name: str, shape: tuple[int, ...], vocabulary: Vocabulary) -> TensorSpec:
    """Our tokens of a text, as a row of the core has them.

    Args:
        name: of the input.
        shape: sizes of the input for one row.
        vocabulary: of the model.

    Raises:
        ConfigError: the input is no list of tokens.
    """
    return TensorSpec(name, "int64", shape, 0.0, float(text_column(name, shape, vocabulary).last))


def add_look_up(
    vocabulary: Vocabulary, values: str, node: Callable[..., str], constant: Callable[[npt.NDArray[Any]], str]
) -> str:
    """Graph parts from our tokens to the model's numbers, both float32 (batch, length).

    Args:
        vocabulary: of the model.
        values: name of the tokens.
        node: appends a node and gives the name of its output.
        constant: appends a constant and gives its name.
    """
    return node("Gather", [constant(vocabulary.numbers()), node("Cast", [values], to=7)], axis=0)


def looked_up(vocabulary: Vocabulary, rows: Numbers) -> Numbers:
    """The same in numpy.

    Args:
        vocabulary: of the model.
        rows: our tokens, float32 (n, length).
    """
    return vocabulary.numbers()[rows.astype(np.int64)]
