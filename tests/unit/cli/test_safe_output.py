"""What comes from files and devices is shown on a terminal, never obeyed by it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from fedinfer.cli.output import SafeConsole, printable
from fedinfer.errors import ConfigError
from fedinfer.printable import STEERING
from fedinfer.schema import Schema

EVIL = ("\x1b[2J", "\x9b2J", "\u202egnp", "\x1b]0;title\x07", "a\ud800b", "\x00")


def shown(what):
    file = io.StringIO()
    SafeConsole(file=file, width=100).print(what, markup=False, highlight=False)
    return file.getvalue()


def table(text):
    made = Table(text, title=text)
    made.add_row(text)
    return made


@pytest.mark.parametrize("make", [str, Text, table])
@pytest.mark.parametrize("evil", EVIL)
def test_no_control_character_gets_through(make, evil):
    assert not STEERING.search(shown(make(f"a{evil}b")).replace("\n", ""))


def test_styles_of_our_own_stay():
    file = io.StringIO()
    SafeConsole(file=file, force_terminal=True, color_system="standard").print(Text("x\x1by", style="red"))
    assert "\x1b[31mx\\x1by\x1b[0m" in file.getvalue()


@given(st.text())
def test_printable_text_has_nothing_to_obey_and_other_text_stays(text):
    assert not STEERING.search(printable(text))
    assert printable(text) == text or STEERING.search(text)


@pytest.mark.parametrize(("key", "value"), [("label", "\x1b"), ("labels", ["a", "b\x07"])])
def test_a_schema_has_no_name_with_control_characters(key, value):
    document = Schema((), "y", ("a", "b"), (1, 2, 2)).to_json()
    with pytest.raises(ConfigError, match="control character"):
        Schema.from_json({**document, key: value})
