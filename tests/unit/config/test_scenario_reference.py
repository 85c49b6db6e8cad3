"""The reference page says what the code says."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from fedinfer.config.reference import reference_markdown, sections_of_scenario

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "scenario.md"


def test_the_page_is_up_to_date() -> None:
    hint = "run: python scripts/scenario_reference.py"
    assert PAGE.read_text(encoding="utf-8") == reference_markdown(), hint


@pytest.mark.parametrize(("name", "model"), list(sections_of_scenario()))
def test_every_key_is_described(name: str, model: type[BaseModel]) -> None:
    page = reference_markdown()
    section = page.split(f"## [{name}]\n")[1].split("\n## ")[0]
    for key, field in model.model_fields.items():
        row = next(line for line in section.splitlines() if line.startswith(f"| `{key}` |"))
        assert field.description
        assert row.count(" | ") == 3
        assert "None" not in row or key == "missing_text"


def test_types_and_bounds_are_in_words() -> None:
    page = reference_markdown()
    assert "| `epsilon` | number > 0 | `1.0` |" in page
    assert "| `delta` | number > 0, < 1 | `1e-05` |" in page
    assert "| `hidden` | list of whole number >= 1 | `[32]` |" in page
    assert '| `tune` | `"all"` or `"head"` | `"all"` |' in page
    assert "| `group_size` | whole number >= 0, <= 10000 | `0` |" in page
