"""Do to a real deployment on this machine what a field does to it, and show what was lost and what was spent twice.

Usage: python -m scripts.faults [STORY ...] [--write]. A site with four devices is made in a temporary folder and taken
down at the end; half an hour for all stories. The exit code is 1 when a row lost something or spent twice. --write puts
the rows, with the date, into the table in docs/testing.md; rows of stories that were not run stay as they are.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import types
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench import machine, replace_section

if TYPE_CHECKING:
    from tests.e2e.fault_row import Row, Story
    from tests.e2e.field import Field, Spent

PAGE, SECTION = Path("docs/testing.md"), "faults"
HEADER = "| # | fault | observed | lost | spent twice | s | date |\n|---|---|---|---|---|---:|---|"
STORIES = {
    "coordinator": "server_faults.coordinator_killed",
    "superlink": "server_faults.superlink_killed",
    "away": "server_faults.superlink_away",
    "stopped": "server_faults.superlink_stopped",
    "everything": "server_faults.everything_killed",
    "agents": "device_faults.agents_killed",
    "two": "server_faults.two_runs",
    "keys": "server_faults.lost_keys",
    "clocks": "device_faults.clocks",
    "installs": "device_faults.installs",
    "server-disk": "server_faults.disk_full",
    "device-disk": "device_faults.disk_full",
    "strangers": "device_faults.strangers",
    "start": "device_faults.away_at_the_start",
}
"""Functions below tests/e2e."""


def main(arguments: Sequence[str]) -> int:
    """Run the stories that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("story", nargs="*", help="; ".join(STORIES))
    parser.add_argument("--write", action="store_true", help=f"into {PAGE}")
    parser.add_argument("--keep", type=Path, help="make the site in this folder, which stays")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.story) - set(STORIES):
        parser.error(f"no story {sorted(unknown)}")
    with tempfile.TemporaryDirectory(prefix="fedinfer-faults-") as name:
        rows = run(asked.keep or Path(name) / "site", asked.story or list(STORIES))
    if asked.write:
        write([line(row) for row in rows])
    return int(any(row.lost or row.twice for row in rows))


def run(folder: Path, stories: Sequence[str]) -> list[Row]:
    """Rows of the stories; each is printed when it is over."""
    _find_tests()
    from tests.e2e.field import in_the_field, spent_in

    rows: list[Row] = []
    print(HEADER, flush=True)
    with in_the_field(folder) as made:
        whole = spent_in(made, made.one_run()["run_id"])
        for story in stories:
            made.online()
            for row in _rows(story, made, whole):
                rows.append(row)
                print(line(row), flush=True)
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    lost, twice = ("; ".join(each) or "nothing" for each in (row.lost, row.twice))
    day = datetime.now(UTC).date().isoformat()
    cells = (row.number, row.fault, row.observed, lost, twice, f"{row.seconds:.0f}", day)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write(lines: Sequence[str]) -> None:
    """Put lines into the table of the page; a line takes the place of the one with its number."""
    page = PAGE.read_text()
    section = page.partition(f"<!-- begin {SECTION} -->")[2].partition(f"<!-- end {SECTION} -->")[0]
    kept = [text for text in section.splitlines() if text.startswith("| ") and not text.startswith("| #")]
    merged = {number_of(text): text for text in (*kept, *lines)}
    head = f"Command: `python -m scripts.faults --write`, on {machine()}."
    table = "\n".join([head, "", HEADER, *(merged[number] for number in sorted(merged, key=place_of))])
    PAGE.write_text(replace_section(page, SECTION, table))


def number_of(text: str) -> str:
    """The first cell of a line."""
    return text.split("|")[1].strip()


def place_of(number: str) -> int:
    """Where a row stands: by its first number, rows without one at the end."""
    first = number.split(",")[0]
    return int(first) if first.isdigit() else 99


def _rows(story: str, made: Field, whole: Spent) -> list[Row]:
    """The rows of a story; one that does not come to its end is a row too."""
    from tests.e2e.fault_row import Row

    try:
        return _story(story)(made, whole)
    except AssertionError as error:
        return [Row(story, story, "did not come to its end", (str(error)[:500],), (), 0.0)]


def _story(name: str) -> Story:
    module, _, function = STORIES[name].partition(".")
    story: Story = getattr(importlib.import_module(f"tests.e2e.{module}"), function)
    return story


def _find_tests() -> None:
    """A package called `tests` that some distribution installs would win over the folder, which has no __init__.py."""
    tests = types.ModuleType("tests")
    vars(tests)["__path__"] = [str(Path(__file__).parents[1] / "tests")]
    sys.modules["tests"] = tests


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
