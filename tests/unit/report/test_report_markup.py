from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.report.markup import Markup, join, tag, text


def test_plain_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>&\"'", Markup("<i>x</i>")) == "<p>&lt;b&gt;&amp;&quot;&#x27;<i>x</i></p>"
    assert join("<", Markup("<br/>")) == "&lt;<br/>"


def test_attributes_are_escaped_renamed_and_left_out_when_none() -> None:
    made = tag("a", class_="x", aria_label='"><script>', viewBox="0 0 1 1", title=None, stroke_width=1.5)
    assert made == '<a class="x" aria-label="&quot;&gt;&lt;script&gt;" viewBox="0 0 1 1" stroke-width="1.5"></a>'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_never_becomes_an_attribute(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        tag("circle", cx=value)


@given(st.text(), st.text())
def test_any_text_survives_a_parser_unchanged_but_for_control_characters(content: str, attribute: str) -> None:
    parsed = ElementTree.fromstring(tag("p", content, title=attribute))
    kept = str.maketrans({"\r": "\n"})
    assert len(parsed) == 0
    assert _printable(parsed.text or "") == _printable(content).translate(kept).replace("\n\n", "\n") or "\r" in content
    assert parsed.keys() == ["title"]


def _printable(value: str) -> str:
    return (
        text(value)
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", '"')
        .replace("&#x27;", "'")
    )
