"""Pictures of reports for README and docs, drawn by chromium.

Usage: python scripts/report_pictures.py [NAME ...]. Without a name all are drawn: what each shows is run first, in a
temporary folder, by the commands of its page. Takes some minutes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "pictures"
FEDINFER = (sys.executable, "-c", "from fedinfer.cli.main import main; main()")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
MARGIN, COLOURS = 24, 128
DARK = "--blink-settings=preferredColorScheme=0"
SECTION = re.compile(r"<section([^>]*)><h2>([^<]*)")
ALONE = "<style>header,footer{display:none}main>section{border:0;margin:0}</style>"


class Picture(NamedTuple):
    """One picture: name, size in px at most, heading of the only section that is shown (empty: all), further flags."""

    name: str
    width: int
    height: int
    section: str = ""
    flags: tuple[str, ...] = ()


class Story(NamedTuple):
    """What is run, and the pictures of the page that comes out.

    Args:
        commands: of fedinfer, in order.
        page: that they write.
        pictures: of it.
        made_by: page of docs whose first Python block makes the table; empty: none is needed.
    """

    commands: tuple[tuple[str, ...], ...]
    page: str
    pictures: tuple[Picture, ...]
    made_by: str = ""


STORIES = {
    "judging": Story(
        (("run", "heart", "--set", 'report.groups=["sex","age"]', "--out", "run", "--quiet"),),
        "run/report.html",
        (
            Picture("report-top.png", 980, 700),
            Picture("report-worth.png", 980, 1190, "What the model is worth"),
            Picture("report-dark.png", 980, 800, "The loop over time", (DARK,)),
        ),
    ),
    "healthcare": Story(
        (("run", "heart", "--out", "hospitals", "--quiet"),),
        "hospitals/report.html",
        (
            Picture("hospitals-statement.png", 980, 550, "Privacy statement"),
            Picture("hospitals-rounds.png", 980, 1400, "Rounds"),
        ),
    ),
    "finance": Story(
        (
            ("init", "loans", "--csv", "loans.csv", "--label", "defaulted", "--device", "branch"),
            ("run", "loans/scenario.toml", "--out", "loans-run", "--quiet"),
        ),
        "loans-run/report.html",
        (Picture("loans-learned.png", 980, 1400, "What the model has learned"),),
        made_by="tutorials/finance.md",
    ),
    "edge-fleet": Story(
        (("run", "digits", "--out", "fleet", "--quiet", "--set", "secure_aggregation.mode=ideal"),),
        "fleet/report.html",
        (Picture("fleet-loop.png", 980, 1400, "The loop over time"), Picture("fleet-models.png", 980, 1400, "Models")),
    ),
    "research": Story(
        (
            ("sweep", "heart", "--epsilon", "1,2,4,8", "--unit", "example", "--trust", "local,distributed,central",
             "--seeds", "3", "--out", "sweep", "--quiet"),
        ),
        "sweep/sweep.html",
        (Picture("sweep-utility.png", 980, 1400, "Utility against epsilon"),),
    ),
}  # fmt: skip


def main() -> int:
    """Draw the pictures of the stories that are named, or of all."""
    wanted = sys.argv[1:] or list(STORIES)
    if unknown := [name for name in wanted if name not in STORIES]:
        raise SystemExit(f"{', '.join(unknown)}: no such story; there are {', '.join(STORIES)}")
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            _tell(STORIES[name], Path(folder))
    return 0


def _tell(story: Story, folder: Path) -> None:
    if story.made_by:
        block = first_block((DOCS / story.made_by).read_text(encoding="utf-8"))
        subprocess.run([sys.executable, "-c", block], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    for command in story.commands:
        subprocess.run([*FEDINFER, *command], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    text = (folder / story.page).read_text(encoding="utf-8")
    for picture in story.pictures:
        page = folder / "picture.html"
        page.write_text(only(text, picture.section), encoding="utf-8")
        _shoot(page, picture)


def first_block(page: str) -> str:
    """The first Python block of a page of docs.

    Args:
        page: Markdown.
    """
    found = re.search(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)
    if found is None:
        raise SystemExit("the page has no Python block")
    return found[1]


def only(page: str, heading: str) -> str:
    """A report with one section alone.

    Args:
        page: HTML of the report.
        heading: of the section; empty: all stay.
    """
    if not heading:
        return page
    if heading not in [found[2] for found in SECTION.finditer(page)]:
        raise SystemExit(f"the report has no section {heading!r}")
    hidden = SECTION.sub(lambda found: found[0] if found[2] == heading else found[0].replace(
        "<section", '<section style="display:none"', 1), page)  # fmt: skip
    return hidden.replace("</head>", f"{ALONE}</head>")


def _shoot(page: Path, picture: Picture) -> None:
    command = [
        "chromium", *FLAGS, *picture.flags, f"--user-data-dir={page.parent / 'profile'}",
        f"--window-size={picture.width},{picture.height}", f"--screenshot={FOLDER / picture.name}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    _cut(FOLDER / picture.name)


def _cut(path: Path) -> None:
    """Take the empty rows at the lower end off, and write the picture with few colours: it is a third as large."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    drawn = np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2)))
    whole = Image.fromarray(pixels[: min(int(drawn[-1]) + MARGIN, len(pixels))])
    whole.quantize(colors=COLOURS, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
