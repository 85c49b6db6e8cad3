"""Write docs/reference/scenario.md from the sections of a scenario. Usage: python scripts/scenario_reference.py"""

from pathlib import Path

from fedinfer.config.reference import reference_markdown

if __name__ == "__main__":
    Path("docs/reference/scenario.md").write_text(reference_markdown(), encoding="utf-8")
