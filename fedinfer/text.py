"""Texts as token numbers: one public rule that training follows here and a published graph follows by itself.

The rule:
1. A to Z become a to z. No other character changes: no locale, no Unicode folding, no composition of accents.
2. Line ends (U+000A) and tabs count as spaces. What follows the 64th line end, or then the 64th tab, is not read;
   of a column of more than 64 words the next power of two takes the place of 64 (see `most_parts`).
3. The text is cut at spaces (U+0020; several in a row count as one). Its first `length` pieces are kept.
4. One `(` and then one `"` at the beginning of a piece are skipped. Its word is what then stands before the first mark
   (`fedinfer.schema.MARKS`; a carriage return is one).
5. An empty word is 0, a word of the vocabulary its place + 2, any other word 1; 0 also fills the rest of the row.

It is made of what ONNX can do with strings (StringNormalizer, StringSplit, LabelEncoder): ONNX has neither regular
expressions that find something nor Unicode tables. `fedinfer.artifact.export.tokenizer` writes it into graphs; a
device runs this module's `tokens` for nothing but the words that drift channels count.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.schema import BREAKS, MARKS, OPENERS, Schema, Text

MOST_CHARACTERS = 100_000
"""Of one text that a device predicts; a longer one is refused before the graph copies it."""
UNKNOWN, NOTHING = "~", "."
"""Texts that stand for token 1 and token 0: no vocabulary may list the first, the second is a mark."""
AWKWARD = (
    "", " ", "   ", ".", "\n", "a\tb\nc\r\n", "\0", "a\0 b\0", " lead and trail ", "!?.,;:", "...so...what",
    '"quoted" (so)', "\u00c4rger \u0130\u0131 \u00df \u03a3\u03a3", "e\u0301 \u00e9 E\u0301 \u00c9",
    "\u00a0no\u2003break\u3000", "\ufeffbom", "\U0001f600 \u200d\U0001f525", "~ ~~", "word " * 500, "x" * 5000,
    "a.b " * 300, "' '' don't n't", "one\ntwo\n\nthree\tfour\r\nfive", "\n" * 64 + "late", "\t" * 63 + "a\tlate",
    "a\n" * 200, "(a (\"b \"(c ((d \"\"e (.f \"(\" a(b a\"b ( \" (\" (\n\"", "\n" * 70 + "\t" * 70 + "never",
)  # fmt: skip
"""Texts on which tokenizers often differ; the gates try them on every file."""
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_FEWEST_PARTS = 64
_WORD = re.compile(f"{''.join(f'{re.escape(mark)}?' for mark in OPENERS)}([^{re.escape(MARKS)}]*)")


def most_parts(length: int) -> int:
    """Lines, and then parts between tabs, that are read of a text: a power of two, at least 64 and at least `length`.

    The bound keeps small what a graph makes of a text of 100,000 line ends.

    Args:
        length: words that are kept of a text, in [1, 4096].
    """
    return max(_FEWEST_PARTS, 1 << (length - 1).bit_length())


def pieces(text: str, length: int) -> list[str]:
    """The first pieces of a text between spaces, line ends and tabs, as they are written.

    Args:
        text: of any length.
        length: most pieces that are returned, in [1, 4096].
    """
    most = most_parts(length)
    for mark in BREAKS:
        text = " ".join(text.split(mark, most)[:most])
    return [piece for piece in text.split(" ") if piece][:length]


def words(text: str, length: int) -> list[str]:
    """The words of the first pieces of a text, lower case; some may be empty.

    >>> words('Not GOOD!  "Well" made,fine (said)', 8)
    ['not', 'good', 'well', 'made', 'said']

    Args:
        text: of any length.
        length: most words that are returned, in [1, 4096].
    """
    return [_WORD.match(piece.translate(_LOWER))[1] for piece in pieces(text, length)]  # type: ignore[index]  # matches ""


def tokens(texts: Sequence[str], column: Text) -> npt.NDArray[np.float32]:
    """Token numbers of texts, for training and calibration.

    >>> tokens(["Not good!", ""], Text("review", 3, ("good", "bad"))).tolist()
    [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]

    Args:
        texts: n texts.
        column: length and vocabulary.

    Returns:
        float32 (n, column.length), whole numbers in [0, column.last]; see the rule of this module.
    """
    numbers = {"": 0.0} | {word: float(place) for place, word in enumerate(column.vocabulary, 2)}
    rows = np.zeros((len(texts), column.length), np.float32)
    for row, text in zip(rows, texts, strict=True):
        found = [numbers.get(word, 1.0) for word in words(text, column.length)]
        row[: len(found)] = found
    return rows


def texts_of(rows: npt.NDArray[np.float32], column: Text) -> list[str]:
    """For each row of token numbers the plainest text that has them: words with a space between.

    The inverse of `tokens`: it shows nothing of a text but its words of the public vocabulary.

    >>> texts_of(np.array([[1, 2, 0]], np.float32), Text("review", 3, ("good", "bad")))
    ['~ good']

    Args:
        rows: float32 (n, column.length), whole numbers in [0, column.last].
        column: length and vocabulary.
    """
    names = (NOTHING, UNKNOWN, *column.vocabulary)
    return [" ".join(names[int(number)] for number in row[: _used(row)]) for row in rows]


def raw_rows(schema: Schema, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Rows as a published graph takes them.

    Args:
        schema: describes the rows.
        x: float32 (n, width).

    Returns:
        For a text schema its plainest texts, object (n, 1); else `x` in one piece of memory.
    """
    if schema.text is None:
        return np.ascontiguousarray(x, np.float32)
    return column_of(texts_of(x, schema.text))


def column_of(texts: Sequence[str]) -> npt.NDArray[np.object_]:
    """Texts as onnxruntime takes them. Fixed-width numpy strings would lose a last NUL.

    Args:
        texts: n texts.

    Returns:
        object (n, 1).
    """
    column = np.empty((len(texts), 1), object)
    column[:, 0] = texts
    return column


def _used(row: npt.NDArray[np.float32]) -> int:
    """Length of a row without the zeros at its end."""
    present = np.flatnonzero(row)
    return int(present[-1]) + 1 if present.size else 0
