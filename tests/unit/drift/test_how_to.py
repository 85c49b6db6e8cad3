"""The page docs/how-to/drift.md does what it says."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "how-to" / "drift.md"


def test_the_example_runs_and_finds_the_drift(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 2
    names = {}
    exec("\n".join(blocks), names)
    assert names["report"].shape == (16,)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("[]") for line in lines[:6])
    assert "confidence" in lines[6]
    assert "confidence" in lines[7]
