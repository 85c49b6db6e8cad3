"""Code blocks of a Markdown page: what is marked to be run, the files that it names, and the commands that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "clients/README.md", ROOT / "server/README.md"])
_FENCE = re.compile(
    r"(?:<!-- run(?:: exit (?P<code>\d+))? -->\n)?"
    r"^```(?P<kind>\w+)?(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Args:
        kind: language after the fence.
        body: text inside.
        title: file name, when the block is a file.
        run: marked with `<!-- run -->`.
        exit_code: of each command, from `<!-- run: exit 2 -->`.
    """

    kind: str
    body: str
    title: str
    run: bool
    exit_code: int


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page in order."""
    for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
        run = found.group(0).startswith("<!-- run")
        parts = (found["kind"] or "", found["body"], found["title"] or "", run, int(found["code"] or 0))
        yield Block(*parts)


def commands(body: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of a console block (lines that start with "$ ") with the output lines under each."""
    command, output = "", []
    for line in body.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:], []
        elif command.endswith("\\"):
            command = command[:-1] + line.strip()
        elif line.strip():
            output.append(line)
    if command:
        yield command, output


def mentioned_commands(page: Path) -> Iterator[str]:
    """Every `fedinfer ...` that a page shows, in console blocks and in running text."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.kind in ("console", "bash", "sh"):
            yield from (command for command, _ in commands(block.body) if command.startswith("fedinfer "))
    plain = _FENCE.sub("", text)
    yield from (" ".join(found.split()) for found in re.findall(r"`(fedinfer [^`]+)`", plain))
