"""Pictures of a report for README and docs, drawn by chromium. Usage: python scripts/report_pictures.py RUN_FOLDER"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs/pictures"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"


@dataclass(frozen=True)
class Picture:
    """One picture: name, size in px, style that hides the rest of the page, and further flags."""

    name: str
    width: int
    height: int
    style: str
    flags: tuple[str, ...] = ()


def only(section: int) -> str:
    """Style that leaves one section of the page.

    Args:
        section: its number, from 1.
    """
    return f"header,footer,main>section:not(:nth-of-type({section})){{display:none}}main>section{{border:0;margin:0}}"


PICTURES = (
    Picture("report-top.png", 980, 700, ""),
    Picture("report-worth.png", 980, 1190, only(2)),
    Picture("report-dark.png", 980, 800, only(3), (DARK,)),
)


def main() -> int:
    """Draw all pictures of the report in the run folder that is named."""
    page = Path(sys.argv[1]) / "report.html"
    text = page.read_text(encoding="utf-8")
    for picture in PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "page.html"
            copy.write_text(text.replace("</head>", f"<style>{picture.style}</style></head>"), encoding="utf-8")
            _shoot(copy, picture)
    return 0


def _shoot(page: Path, picture: Picture) -> None:
    command = [
        "chromium", *FLAGS, *picture.flags, f"--user-data-dir={page.parent / 'profile'}",
        f"--window-size={picture.width},{picture.height}", f"--screenshot={FOLDER / picture.name}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
