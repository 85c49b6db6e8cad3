"""Text as token numbers: a fixed public rule, so that devices and server agree without a shared vocabulary file."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from fedinfer.data.table import Rows

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")


def tokens(texts: Sequence[str], length: int, last: int) -> Rows:
    """Token numbers of texts: lower case, ASCII words, each word hashed to 1..last; 0 is padding.

    Args:
        texts: n texts.
        length: words that are kept of a text, its first ones.
        last: largest token number; different words may share one.

    Returns:
        float32 (n, length).

    >>> tokens(["Not good!", ""], length=4, last=2000).tolist()
    [[294.0, 195.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    rows = np.zeros((len(texts), length), np.float32)
    for row, text in zip(rows, texts, strict=True):
        found = [zlib.crc32(word.encode()) % last + 1 for word in WORD.findall(text.lower())[:length]]
        row[: len(found)] = found
    return rows
