"""What a sweep writes: tables, page, plots."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedinfer.report import render_sweep, sweep_plots
from fedinfer.sweeps import write_pictures, write_tables
from fedinfer.sweeps.pictures import png_of
from fedinfer.sweeps.tables import csv_of, frame

EPSILONS = (0.5, 2.0, math.inf)


def setting(epsilon: float, trust: str, mean: float | None, **more: object) -> dict:
    figures = ("file_utility", "group_gap", "noise_multiplier", "bytes_up_per_device", "seconds", "energy_joules")
    ends = {"utility": mean, "utility_low": mean and mean - 0.02, "utility_high": mean and mean + 0.02}
    worst = {"worst_group": mean and mean - 0.1, "worst_group_low": mean, "worst_group_high": mean}
    return {
        "epsilon": epsilon, "unit": "example", "trust": trust, "runs": 3 if mean else 0, "asked": 3, **ends, **worst,
        **dict.fromkeys(figures, 1.5), "epsilon_spent": epsilon, "bytes_down_per_device": 10, "reasons": [], **more,
    }  # fmt: skip


def document(**more: object) -> dict:
    settings = [
        setting(epsilon, trust, 0.7 + place / 20)
        for place, epsilon in enumerate(EPSILONS)
        for trust in ("local", "distributed", "central")
    ]
    settings[0] |= setting(0.5, "local", None, reasons=["epsilon 0.5 is too <small>"])
    return {
        "scenario": "heart", "description": "four & more", "metric": "accuracy", "seeds": [1, 2, 3], "rows": "own",
        "columns": ["epsilon", "unit", "trust"], "core_watts": 10.0, "settings": settings,
        "advice": [{"unit": "example", "setting": None, "reason": "Because."}],
        "looking": {"private": True, "runs": 3, "unprotected": 0, "epsilon": {"example": 3.0}, "delta": {"example": 1}},
        **more,
    }  # fmt: skip


def test_every_plot_is_a_drawing_of_its_own() -> None:
    plots = sweep_plots(document())
    assert sorted(plots) == ["utility-1", "worst-group-1"]
    for svg in plots.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"local", "distributed", "central", "no privacy", "0.5", "2"} <= set(texts)
        assert "var(" not in svg  # programs that draw SVG files do not know it


def test_lines_differ_in_dash_and_marker_not_in_colour_alone() -> None:
    root = ElementTree.fromstring(sweep_plots(document())["utility-1"])
    lines = [p for p in root.iter("{http://www.w3.org/2000/svg}path") if p.get("stroke-width") == "2"]
    assert len({p.get("stroke-dasharray") for p in lines}) == 3
    assert len({p.get("stroke") for p in lines}) == 3


def test_the_page_says_what_is_recommended_trusted_refused_and_paid() -> None:
    page = render_sweep(document())
    for words in (
        "Because.",
        "What is trusted",
        "enough honest devices",
        "costs privacy",
        "epsilon 3",
        "four &amp; more",
    ):
        assert words in page
    assert "epsilon 0.5 is too &lt;small&gt;" in page
    assert "src=" not in page
    assert "<script" not in page


def test_a_sweep_in_which_nothing_ran_has_a_page() -> None:
    nothing = [setting(1.0, "local", None, reasons=["no"])]
    page = render_sweep(document(settings=nothing, advice=[]))
    assert "none is recommended" in page
    assert "Utility against epsilon" not in page


ROWS = [
    {"epsilon": 0.5, "unit": "example", "seed": 1, "model.hidden": "[3]", "utility": 0.5},
    {"epsilon": math.inf, "unit": "example", "seed": 1, "model.hidden": 7, "utility": None},
]
COLUMNS = ["epsilon", "unit", "seed", "model.hidden", "utility"]


def test_csv_has_every_column_and_infinity() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_of(ROWS, COLUMNS))))
    assert [line["epsilon"] for line in lines] == ["0.5", "inf"]
    assert lines[1]["utility"] == ""


def test_parquet_and_data_frame_hold_the_same(tmp_path: Path) -> None:
    pandas, pytest_parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    files = write_tables(tmp_path, ROWS, COLUMNS)
    assert [path.name for path in files] == ["results.csv", "results.parquet"]
    table = pytest_parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert table[1]["epsilon"] == math.inf
    assert [row["model.hidden"] for row in table] == ["[3]", "7"]
    found = frame(ROWS, COLUMNS)
    assert isinstance(found, pandas.DataFrame)
    assert list(found.columns) == COLUMNS
    assert np.isnan(found["utility"].iloc[1])


def test_pictures_are_written(tmp_path: Path) -> None:
    files = [path.relative_to(tmp_path).as_posix() for path in write_pictures(tmp_path, document())]
    assert {"sweep.html", "plots/utility-1.svg", "plots/worst-group-1.svg"} <= set(files)


def test_png_where_its_package_is_installed() -> None:
    pytest.importorskip("resvg_py")
    svg = sweep_plots(document())["utility-1"]
    picture = png_of(svg)
    assert picture is not None
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20], "big") == 1800  # two pixels per pixel of the drawing
