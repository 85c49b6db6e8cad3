"""A drawing that a program holds in its hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, shown by a notebook as it is.

    Args:
        svg: the picture, with its own size and no script.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: Path | str) -> Path:
        """Write the picture as an SVG file and return its path.

        Args:
            path: of the file; an old one is replaced.
        """
        target = Path(path)
        target.write_text(self.svg, encoding="utf-8")
        return target
