"""The public words of a text column.

There is no way to make the list from the table: words that somebody uses would then be in the published model, whatever
noise covers its weights.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fedinfer.config import DataSection, Scenario
from fedinfer.errors import DataError
from fedinfer.schema import MAX_VOCABULARY, WORD_RULE, Text, is_word


def english_words() -> tuple[str, ...]:
    """1000 English words: 500 that are frequent, 32 contractions, 468 that judge."""
    path = Path(str(resources.files("fedinfer"))) / "data" / "tables" / "english_words.txt"
    return tuple(path.read_text(encoding="utf-8").split())


def vocabulary_of(scenario: Scenario) -> tuple[str, ...]:
    """The words that a scenario names; none when its table has no text column.

    Args:
        scenario: with `data.text` and `data.vocabulary`; without the latter the English words of fedinfer.

    Raises:
        DataError: the file cannot be used; names file, line and rule.
    """
    data = scenario.data
    if not data.text:
        return ()
    return read_words(scenario.base / data.vocabulary) if data.vocabulary else english_words()


def text_column(data: DataSection, words: tuple[str, ...]) -> Text:
    """The text column that a scenario describes.

    Args:
        data: names the column, and how many words are read.
        words: vocabulary, in order: a word's place is its number.
    """
    return Text(data.text, data.text_length, words, data.ranges_confirmed)


def read_words(path: Path) -> tuple[str, ...]:
    """A file with one word per line in UTF-8, with or without a byte order mark; empty lines are skipped.

    Args:
        path: the file.

    Raises:
        DataError: cannot be read, holds no word or too many, a word twice, or a word that no text can hold.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8", hint="save the word list as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint="see [data] vocabulary") from error
    places: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        word = line.strip()
        if word and not is_word(word):
            raise DataError(f"{path}: line {number}: {word[:60]!r} can never be found in a text", hint=WORD_RULE)
        if word in places:
            raise DataError(f"{path}: line {number}: {word!r} is in line {places[word]} already", hint="remove one")
        if word:
            places[word] = number
    if not 1 <= len(places) <= MAX_VOCABULARY:
        raise DataError(f"{path}: {len(places)} words, allowed are 1 to {MAX_VOCABULARY}")
    return tuple(places)
