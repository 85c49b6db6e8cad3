"""Each claim of docs/privacy-accounting.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_named_on_the_page_exists() -> None:
    page = (ROOT / "docs" / "privacy-accounting.md").read_text()
    named = re.findall(r"`(test_privacy_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / "unit" / "privacy" / file).read_text(), f"{file}::{test}"
