"""HTML and SVG from values: plain text is always escaped, only `Markup` is passed through.

Scenario names, labels and column names come from users; nothing in this package concatenates them into markup by hand.
"""

from __future__ import annotations

import math
import re
from functools import cache
from html import escape
from typing import TypeAlias

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = str | Markup | None
Attribute: TypeAlias = str | float | None


def text(value: str) -> Markup:
    """Plain text, escaped; control characters, which no document may hold, become a replacement sign.

    Args:
        value: from anybody; Markup stays as it is.
    """
    if isinstance(value, Markup):
        return value
    return Markup(escape(_CONTROL.sub("\ufffd", value), quote=True))


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """One element.

    Args:
        name: element name.
        children: text (escaped), markup (as it is) or None (left out).
        attributes: `class_` becomes class, `stroke_width` becomes stroke-width; None leaves the attribute out.

    Raises:
        ValueError: when a number is not finite: a coordinate NaN would make a plot disappear without a word.
    """
    head = "".join(f' {_name(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    body = "".join(text(child) for child in children if child is not None)
    return Markup(f"<{name}{head}>{body}</{name}>")


def join(*parts: Child, separator: str = "") -> Markup:
    """Parts one after the other; text is escaped.

    Args:
        parts: Markup, or text that is escaped; None is left out.
        separator: Markup between the parts; it is not escaped.
    """
    return Markup(separator.join(text(part) for part in parts if part is not None))


@cache
def _name(key: str) -> str:
    return {"viewBox": key}.get(key, key.rstrip("_").replace("_", "-"))


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return text(value)
    if not math.isfinite(value):
        raise ValueError(f"attribute value {value} is not finite")
    return f"{value:.2f}".rstrip("0").rstrip(".")
