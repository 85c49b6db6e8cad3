"""What people look at: sweep.html, and every plot as SVG and, with the extra `png`, as PNG."""

from __future__ import annotations

from pathlib import Path

from fedinfer.coordinator import plain
from fedinfer.errors import StoreError
from fedinfer.private_files import private_folder
from fedinfer.report import render_sweep, sweep_plots
from fedinfer.sweeps.folder import write_text
from fedinfer.types import Json

PAGE, PLOTS = "sweep.html", "plots"
ZOOM = 2
"""Pixels of a PNG per pixel of the drawing: sharp at 200 dots per inch over a column of 9 inches."""


def write_pictures(folder: Path, document: Json) -> list[Path]:
    """Write the page and the plots.

    Args:
        folder: of the sweep.
        document: from `Sweep.to_json`.

    Returns:
        The files; PNG only where resvg-py is installed.

    Raises:
        StoreError: the folder cannot be written.
    """
    shown = plain(document)
    files = [folder / PAGE]
    try:
        write_text(folder / PAGE, render_sweep(shown))
        private_folder(folder / PLOTS)
        for name, svg in sweep_plots(shown).items():
            write_text(folder / PLOTS / f"{name}.svg", svg)
            files.append(folder / PLOTS / f"{name}.svg")
            picture = png_of(svg)
            if picture is not None:
                (folder / PLOTS / f"{name}.png").write_bytes(picture)
                files.append(folder / PLOTS / f"{name}.png")
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}", hint="free space, or choose another --out") from error
    return files


def png_of(svg: str) -> bytes | None:
    """A drawing as PNG; None without the package resvg-py (extra `png`).

    Args:
        svg: the drawing, with its style inside.
    """
    try:
        import resvg_py
    except ImportError:
        return None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM))
