"""Reads a large table into float32, by pyarrow and one cell at a time, and prints seconds and MB.

    python benchmarks/reading.py [ROWS] [COLUMNS]

Each way runs in a process of its own, so that its peak of memory is its own. MB is 10^6 bytes of the largest resident
set, the interpreter and its packages included.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fedinfer.reading import ReadingRules, read_file
from fedinfer.schema import Categorical, Numeric, Schema

ROWS, COLUMNS = 1_000_000, 50
CATEGORIES = ("north", "south", "east", "west")
_BLOCK = 20_000


def write_table(path: Path, rows: int, columns: int) -> None:
    """A CSV of floats, whole numbers, categories and missing cells in turn.

    Args:
        path: of the new file.
        rows: of cells.
        columns: of the table.
    """
    rng = np.random.default_rng(1)
    with path.open("w") as file:
        file.write(",".join(f"c{place}" for place in range(columns)) + "\n")
        for start in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - start)
            cells = [_column(place, count, rng) for place in range(columns)]
            file.write("\n".join(map(",".join, zip(*cells, strict=True))) + "\n")


def schema_of(columns: int) -> Schema:
    """The schema of `write_table`.

    Args:
        columns: of the table.
    """
    kinds = [
        Categorical(f"c{place}", CATEGORIES) if place % 4 == 2 else Numeric(f"c{place}", -1e4, 1e6)
        for place in range(columns)
    ]
    return Schema(tuple(kinds), "y", ("0", "1"))


def read(path: Path, columns: int, packed: bool) -> None:
    """Read the table and print what it took.

    Args:
        path: of the table.
        columns: of the table.
        packed: whether pyarrow may be used.
    """
    from fedinfer.data.columns import read_inputs
    from fedinfer.reading import files

    if not packed:
        files.LARGE_BYTES = 1 << 62
    before, start = _peak_mb(), time.perf_counter()
    table = read_file(path, ReadingRules())
    x = read_inputs(table, schema_of(columns))
    seconds = time.perf_counter() - start
    way = "pyarrow" if packed else "one by one"
    print(f"{way:10s} {len(x):9,d} x {columns}  {seconds:6.1f} s  peak {_peak_mb():5.0f} MB ({before:.0f} before)")


def main(rows: int, columns: int) -> None:
    """Write the table, then read it in two processes.

    Args:
        rows: of the table; one cell at a time only a tenth of them.
        columns: of the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        for packed, count in ((True, rows), (False, max(rows // 10, 1))):
            path = Path(folder) / "table.csv"
            write_table(path, count, columns)
            print(f"{path.stat().st_size / 1e6:.0f} MB of CSV", flush=True)
            subprocess.run(
                [sys.executable, __file__, "--read", str(path), str(columns), "packed" if packed else "plain"],
                check=True,
            )


def _column(place: int, count: int, rng: np.random.Generator) -> list[str]:
    kind = place % 4
    if kind == 0:
        return [f"{value:.4f}" for value in rng.normal(100, 30, count).tolist()]
    if kind == 1:
        return [str(value) for value in rng.integers(0, 100_000, count).tolist()]
    if kind == 2:
        return [CATEGORIES[value] for value in rng.integers(0, len(CATEGORIES), count).tolist()]
    absent = rng.random(count) < 0.1
    values = rng.normal(0, 1, count).tolist()
    return ["NA" if missing else f"{value:.6g}" for missing, value in zip(absent.tolist(), values, strict=True)]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "packed")
    else:
        sizes = [int(value) for value in sys.argv[1:3]]
        main(*sizes, *(ROWS, COLUMNS)[len(sizes) :])
