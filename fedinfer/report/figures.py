"""Numbers as they stand in JSON, read with care and written for people."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedinfer.privacy import at_least, at_most, exactly
from fedinfer.types import Json

ABSENT = "\u2013"
_EXPONENT = re.compile(r"e[+]?(-?)0*")


def number(value: object) -> float | None:
    """A float from a JSON value; "inf" is a number, NaN and everything else is absent.

    Args:
        value: of a JSON document that may be damaged.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(result) else result


def finite(value: object) -> float | None:
    """Like `number`, without infinities and what is as good as infinite: what a plot can show.

    Args:
        value: of a JSON document that may be damaged.
    """
    result = number(value)
    return result if result is not None and abs(result) < 1e100 else None


def count(value: object) -> int | None:
    """A count: a number, or the length of a list.

    Args:
        value: of a JSON document that may be damaged.
    """
    if isinstance(value, list | dict):
        return len(value)
    result = finite(value)
    return None if result is None else int(result)


def section(data: Mapping[str, Any], key: str) -> Json:
    """The object under `key`; empty when it is missing or no object.

    Args:
        data: a JSON object.
        key: of the inner object.
    """
    value = data.get(key)
    return dict(value) if isinstance(value, dict) else {}


def rows(data: Mapping[str, Any], key: str) -> Sequence[Json]:
    """The objects in the list under `key`; other items are left out.

    Args:
        data: a JSON object.
        key: of the list.
    """
    value = data.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def names(data: Mapping[str, Any], key: str) -> list[str]:
    """The texts in the list under `key`; empty when it is no list.

    Args:
        data: a JSON object.
        key: of the list.
    """
    value = data.get(key)
    return [words(item) for item in value] if isinstance(value, list) else []


def matrix(data: Mapping[str, Any], key: str, size: int) -> list[list[int]]:
    """A square matrix of counts under `key`; empty when it is anything else.

    Args:
        data: a JSON object.
        key: of the matrix.
        size: rows and columns that it has to have.
    """
    value = data.get(key)
    lines = value if isinstance(value, list) else []
    found = [[_whole(item) for item in line] for line in lines if isinstance(line, list)]
    square = len(found) == len(lines) == size and all(len(line) == size for line in found)
    return (
        [[item or 0 for item in line] for line in found] if square and all(None not in line for line in found) else []
    )


def _whole(value: object) -> int | None:
    result = finite(value)
    return None if result is None or result < 0 else int(result)


def words(value: object, fallback: str = ABSENT) -> str:
    """Text as it is, numbers as written in JSON, a dash for what is missing.

    Args:
        value: of a JSON document that may be damaged.
        fallback: what stands for a missing value.
    """
    if value is None or value == "":
        return fallback
    return str(value)


def decimal(value: object, digits: int = 3) -> str:
    """A number with `digits` decimals, the sign for infinity, or a dash.

    Args:
        value: of a JSON document that may be damaged.
        digits: decimals, >= 0.
    """
    result = number(value)
    if result is None:
        return ABSENT
    return f"{result:.{digits}f}" if math.isfinite(result) else _infinite(result)


def significant(value: object, digits: int = 3) -> str:
    """A number with `digits` significant digits, as short as possible.

    Args:
        value: of a JSON document that may be damaged.
        digits: significant ones, >= 1.
    """
    result = number(value)
    if result is None:
        return ABSENT
    return _EXPONENT.sub(r"e\1", f"{result:.{digits}g}") if math.isfinite(result) else _infinite(result)


def exact_figure(value: object) -> str:
    """A figure that somebody chose, a budget for instance, with all of its digits.

    Args:
        value: of a JSON document that may be damaged.
    """
    result = number(value)
    return significant(value) if result is None or not math.isfinite(result) else _EXPONENT.sub(r"e\1", exactly(result))


def bound(value: object) -> str:
    """An upper bound with three significant digits, rounded up: it may not look smaller than it is.

    Args:
        value: of a JSON document that may be damaged.
    """
    result = number(value)
    if result is None or not math.isfinite(result) or result <= 0:
        return significant(value)
    return _EXPONENT.sub(r"e\1", at_most(result))


def lower_bound(value: object) -> str:
    """A lower bound with three significant digits, rounded down: it may not look larger than it is.

    Args:
        value: of a JSON document that may be damaged.
    """
    result = number(value)
    if result is None or not math.isfinite(result) or result == 0:
        return significant(value)
    return _EXPONENT.sub(r"e\1", at_least(result))


def percent(value: object) -> str:
    """A share of one as a percentage with one decimal.

    Args:
        value: share, usually in [0, 1].
    """
    result = finite(value)
    return ABSENT if result is None else f"{100 * result:.1f}\u202f%"


def whole(value: object) -> str:
    """A count with narrow spaces between thousands.

    Args:
        value: of a JSON document that may be damaged.
    """
    result = count(value)
    return ABSENT if result is None else f"{result:,}".replace(",", "\u202f")


def data_size(value: object) -> str:
    """Bytes in the largest fitting unit (powers of 1024).

    Args:
        value: number of bytes.
    """
    size = finite(value)
    if size is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f}\u202f{unit}" if unit == "B" else f"{size:.1f}\u202f{unit}"
        size /= 1024
    return f"{size:.1f}\u202fGiB"


def microseconds(value: object) -> str:
    """A duration in microseconds, in milliseconds or seconds where that reads better.

    Args:
        value: microseconds.
    """
    size = finite(value)
    if size is None:
        return ABSENT
    for unit in ("\u00b5s", "ms"):
        if abs(size) < 1000:
            return f"{size:.3g}\u202f{unit}"
        size /= 1000
    return f"{size:.3g}\u202fs"


def seconds(value: object) -> str:
    """A duration in seconds or minutes.

    Args:
        value: seconds.
    """
    size = finite(value)
    if size is None:
        return ABSENT
    if size < 120:
        return f"{size:.1f}\u202fs"
    return f"{size / 60:.1f}\u202fmin"


def _infinite(value: float) -> str:
    return "\u221e" if value > 0 else "\u2212\u221e"
