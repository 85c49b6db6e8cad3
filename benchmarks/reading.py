"""Reads a large CSV into float32 beside pandas, and prints seconds and MB.

    python benchmarks/reading.py [ROWS] [COLUMNS]

The table has floats, whole numbers, categories and missing cells in turn. `packed` reads it as fedinfer does with
pyarrow, `one_by_one` as it does without (a tenth of the rows), `pandas` with read_csv of pandas and categories by its
own codes. Each way runs in a process of its own, so that its peak of memory is its own. MB is 10^6 bytes of the largest
resident set, the interpreter and its packages included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

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


def read(path: Path, columns: int, way: str) -> dict[str, float]:
    """Read the table once.

    Args:
        path: of the table.
        columns: of the table.
        way: packed, one_by_one or pandas.

    Returns:
        Seconds, and the peak of memory of this process in MB.
    """
    start = time.perf_counter()
    x = by_pandas(path, columns) if way == "pandas" else by_fedinfer(path, columns, packed=way == "packed")
    return {"rows": len(x), "seconds": round(time.perf_counter() - start, 2), "peak_mb": round(_peak_mb())}


def by_fedinfer(path: Path, columns: int, *, packed: bool) -> np.ndarray:
    """The table as training reads it, float32.

    Args:
        path: of the table.
        columns: of the table.
        packed: whether pyarrow may be used.
    """
    from fedinfer.data.columns import read_inputs
    from fedinfer.reading import ReadingRules, files, read_file

    if not packed:
        files.LARGE_BYTES = 1 << 62
    return read_inputs(read_file(path, ReadingRules()), schema_of(columns))


def by_pandas(path: Path, columns: int) -> np.ndarray:
    """The table by pandas, float32; categories by the order in which they come.

    Args:
        path: of the table.
        columns: of the table.
    """
    import pandas as pd

    frame = pd.read_csv(path)
    x = np.empty((len(frame), columns), np.float32)
    for place, name in enumerate(frame.columns):
        cells = frame[name]
        x[:, place] = cells if pd.api.types.is_numeric_dtype(cells) else pd.factorize(cells)[0]
    return x


def main(rows: int, columns: int) -> None:
    """Write the table, then read it in three processes.

    Args:
        rows: of the table; one cell at a time only a tenth of them.
        columns: of the table.
    """
    ways = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, count in (("packed", rows), ("pandas", rows), ("one_by_one", max(rows // 10, 1))):
            path = Path(folder) / f"{count}.csv"
            if not path.exists():
                write_table(path, count, columns)
            command = [sys.executable, __file__, "--read", str(path), str(columns), way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            ways[way] = json.loads(done.stdout)
            print(way, ways[way], flush=True)
        size = (Path(folder) / f"{rows}.csv").stat().st_size
    print(json.dumps({"columns": columns, "csv_mb": round(size / 1e6), "ways": ways}))


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
        print(json.dumps(read(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
    else:
        sizes = [int(value) for value in sys.argv[1:3]]
        main(*sizes, *(ROWS, COLUMNS)[len(sizes) :])
