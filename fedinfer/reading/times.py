"""Dates and times as numbers: units since a public date, so that float32 holds them.

The rule of a column is written as in the climate and forecast conventions: `days since 2024-01-01`, with
` as %d.%m.%Y` behind it where cells are not ISO 8601. A time without an offset counts as UTC.

Source: CF Conventions 1.11, section 4.4, time coordinate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from fedinfer.errors import ConfigError

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86_400.0}
_RULE = re.compile(r"(seconds|minutes|hours|days) since (\S+(?: \d\S*)?)(?: as (.+))?")
_DIRECTIVES = re.compile(r"%[YymdHMSfz]|[^%A-Za-z0-9]|T")
DATE = r"\d{4}-\d{1,2}-\d{1,2}"
_ISO = re.compile(
    rf"({DATE})(?:[T ](\d{{1,2}}:\d{{2}}(?::\d{{2}}(?:[.,]\d{{1,9}})?)?) ?(Z|z|[+-]\d{{2}}:?(?:\d{{2}})?)?)?", re.ASCII
)


@lru_cache(maxsize=1024)
def time_reader(rule: str) -> Callable[[str], float]:
    """A function from stripped text to units since the date of the rule; ValueError for any other text.

    Args:
        rule: "UNIT since DATE" or "UNIT since DATE as FORMAT"; units: seconds, minutes, hours, days.

    Raises:
        ConfigError: the rule cannot be read.

    Examples:
        >>> time_reader("days since 2024-01-01")("2024-01-02T12:00Z")
        1.5
    """
    unit, origin, layout = _parts(rule)

    def read(text: str) -> float:
        moment = _laid_out(text, layout) if layout else _iso(text)
        return (moment - origin).total_seconds() / unit

    return read


def written(value: float, rule: str) -> str:
    """The inverse of `time_reader`, to the microsecond.

    Args:
        value: units since the date of the rule.
        rule: as in `time_reader`.

    Raises:
        ConfigError: the rule cannot be read.
        OverflowError: before the year 1 or after 9999.
    """
    unit, origin, layout = _parts(rule)
    moment = origin + timedelta(seconds=value * unit)
    return moment.strftime(layout) if layout else moment.replace(tzinfo=None).isoformat(sep=" ")


def _parts(rule: str) -> tuple[float, datetime, str]:
    """Seconds of the unit, the date, and the layout of cells; an empty one is ISO 8601."""
    found = _RULE.fullmatch(rule)
    if not found or (found[3] and _DIRECTIVES.sub("", found[3])):
        raise ConfigError(f"time rule {rule[:60]!r} cannot be read", hint="days since 2024-01-01 as %d.%m.%Y %H:%M")
    layout = found[3] or ""
    try:
        origin = _iso(found[2])
        if layout:  # a layout that names a part twice is found by reading a date that it wrote
            _laid_out(origin.strftime(layout), layout)
    except (ValueError, re.error) as error:
        raise ConfigError(f"time rule {rule[:60]!r} cannot be read: no date, or a layout of none: {error}") from error
    return SECONDS[found[1]], origin, layout


def time_of(value: date) -> str:
    """A date or time of another library as ISO text.

    Args:
        value: of one cell.
    """
    return value.isoformat()


def _iso(text: str) -> datetime:
    """ISO 8601 as files have it; single digits and nine decimals are taken too."""
    found = _ISO.fullmatch(text)
    if found is None:
        raise ValueError(text)
    day = "-".join(part.zfill(2) for part in found[1].split("-"))
    clock = (found[2] or "00:00").replace(",", ".").rjust(5, "0")
    head, _, fraction = clock.partition(".")
    head = head if head.index(":") == 2 else f"0{head}"
    zone = {"": "+00:00", "Z": "+00:00"}.get((found[3] or "").upper(), found[3])
    moment = datetime.fromisoformat(f"{day}T{head}{'.' + fraction[:6].ljust(6, '0') if fraction else ''}{zone}")
    return moment.astimezone(UTC)


def _laid_out(text: str, layout: str) -> datetime:
    if not text.isascii():
        raise ValueError(text)
    moment = datetime.strptime(text, layout)  # noqa: DTZ007 - a time without an offset counts as UTC
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
