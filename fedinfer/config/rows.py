"""[data]: where rows come from and what is public about them; [data.partition]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fedinfer.config.fields import (
    Count,
    Finite,
    NonNegative,
    OpenFraction,
    Positive,
    Probability,
    Section,
)
from fedinfer.errors import ConfigError
from fedinfer.reading import MISSING_TEXT, SAME_TEXT, ReadingRules
from fedinfer.schema import CANARY, MAX_WORDS


class PartitionSection(Section):
    """[data.partition]: how rows are distributed over simulated devices; only without `data.device`."""

    devices: Count = Field(default=10, description="Number of devices.")
    scheme: Literal["iid", "dirichlet", "shards"] = Field(
        default="iid",
        description="`iid`: at random. `dirichlet`: each device has its own mix of classes (Hsu et al. 2019). "
        "`shards`: rows sorted by class, two pieces per device (McMahan et al. 2017).",
    )
    alpha: Positive = Field(
        default=0.5, description="Concentration of `dirichlet`; smaller means more different devices."
    )


class SyntheticSection(Section):
    """[data.synthetic]: rows that are drawn, device by device, when they are needed; `source = "synthetic"`."""

    task: Literal["classification", "regression"] = Field(
        default="classification", description="What the label is: one of `classes`, or a number in [-1, 1]."
    )
    features: Annotated[int, Field(ge=1, le=10_000)] = Field(default=20, description="Numeric columns of a row.")
    classes: Annotated[int, Field(ge=2, le=1_000)] = Field(default=4, description="Classes (`classification`).")
    rows: Annotated[int, Field(ge=2, le=100_000)] = Field(default=30, description="Median of the rows of a device.")
    rows_spread: Annotated[float, Field(ge=0, le=3)] = Field(
        default=0.5, description="Standard deviation of the logarithm of the rows of a device; 0: all hold `rows`."
    )
    input_shift: Annotated[float, Field(ge=0, le=3)] = Field(
        default=0.3,
        description="How far the middle of a device's inputs lies from that of all (their own spread is 1).",
    )
    model_shift: Annotated[float, Field(ge=0, le=3)] = Field(
        default=0.1, description="How much the rule from inputs to label differs between devices (the common one is 1)."
    )
    noise: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05,
        description="`classification`: part of the labels that are drawn at random. `regression`: standard deviation "
        "of what is added to the label.",
    )
    drift_days: NonNegative = Field(
        default=0.0,
        description="Virtual days in which the common rule turns into another one (`fedinfer fleet`); 0: it stays. "
        "`fedinfer run` has no clock: use `[drift.inject]`.",
    )


class DataSection(Section):
    """[data]: where rows come from and what is public about them."""

    source: Literal["csv", "builtin", "synthetic", "arrays"] = Field(
        default="builtin",
        description="`csv`: the file `path` (CSV, .gz, ARFF; Parquet and Arrow with pyarrow; .xlsx with pandas and "
        "openpyxl). `builtin`: the table `name`. `synthetic`: drawn from the seed, see [data.synthetic]. "
        "`arrays`: `x.npy` (float32, rows by columns) and `y.npy` in the folder `path`, memory-mapped.",
    )
    name: str = Field(
        default="",
        description="Built-in data: `heart`, `credit`, `churn`, `deliveries`, `digits`, `watch`, `reviews` or "
        "`ratings`. Only with `builtin`.",
    )
    path: str = Field(default="", description="Table file, relative to the TOML that names it. Only with `csv`.")
    delimiter: str = Field(
        default="", max_length=1, description="Character between cells; empty: guessed from the first lines."
    )
    decimal: str = Field(
        default=".", min_length=1, max_length=1, description='Decimal mark of numbers: `"."` or `","`.'
    )
    thousands: str = Field(
        default="",
        max_length=1,
        description="Mark between groups of digits; empty: none. A blank stands for every kind of blank.",
    )
    marks: dict[str, str] = Field(
        default={},
        description='`marks.COL = ","`: decimal mark of that column, with its thousands mark behind it (`",."`), where '
        "they differ from `decimal` and `thousands`.",
    )
    units: dict[str, str] = Field(
        default={},
        description='`units.COL = "%"`: text before or behind the numbers of that column; it is taken off. `"()"`, or '
        'in front of it as in `"()$"`: numbers below zero stand in parentheses. `"<>"`, or in front of these: `<0.6` '
        "and `> 300`, beyond what could be measured, are read as the limit.",
    )
    quote: str = Field(
        default='"', max_length=1, description="Character around cells that hold delimiters; empty: quotes are letters."
    )
    encoding: str = Field(
        default="",
        max_length=40,
        description="Encoding of a CSV; empty: UTF-8, or what its first bytes say, else a guess with a warning.",
    )
    header: bool = Field(
        default=True, description="False: the first row is data; the columns are `column_1`, `column_2`, ..."
    )
    label: str = Field(default="", description="Column to predict.")
    label_above: Finite | None = Field(
        default=None,
        description="Two classes of a numeric label: the second when greater than this; `labels` names them.",
    )
    labels: tuple[str, ...] = Field(default=(), description="Public class names in order; empty: found in the data.")
    label_range: tuple[Finite, Finite] | None = Field(
        default=None,
        description="`[low, high]`: the label is a number, predicted as one (regression). The range is public, in the "
        "label's unit; values outside count as its nearest end.",
    )
    label_unit: str = Field(
        default="", max_length=32, description="Unit of a numeric label, for people. Only with `label_range`."
    )
    unlabelled: Literal["refuse", "drop"] = Field(
        default="refuse", description="What happens with rows that have no label."
    )
    device: str = Field(
        default="", description="Column that names the holder of a row; empty: rows are distributed by `partition`."
    )
    time: str = Field(
        default="",
        description="Column that says when a row happened (dates, times or numbers; no input): each device holds out "
        "its latest rows, and inference meets them in that order. A device's own table must be in that order. In a "
        "simulation whose unit is not `example`, rounds after a window train on the newest rows that a device has met, "
        "as many as at first.",
    )
    drop: tuple[str, ...] = Field(default=(), description="Columns that are not used (identifiers, dates, free text).")
    categorical: tuple[str, ...] = Field(default=(), description="Columns with categories; all others must be numbers.")
    canary_levels: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0,
        description="So many categories that no row has are added to the first column of `categories`. Their weights "
        "hold the noise of training and nothing else, so `fedinfer audit RUN` can measure it in a run of real devices; "
        "40 show half of the noise.",
    )
    categories: dict[str, tuple[str, ...]] = Field(
        default={}, description="`categories.COL = [..]`: public list of categories; others count as missing."
    )
    ranges: dict[str, tuple[Finite, Finite]] = Field(
        default={},
        description="`ranges.COL = [low, high]`: public range of a numeric column; values outside are clamped.",
    )
    breaks: dict[str, tuple[Finite, ...]] = Field(
        default={},
        description="`breaks.COL = [1000, 5000, 20000]`: public values inside the range of a column of many small "
        "values and few large ones; from each to the next is one step of the model's scale. Without: even steps over "
        "the range.",
    )
    text: str = Field(
        default="",
        description="Column of free text; it is the only input, for kinds `bag` and `transformer`. Only with `csv`.",
    )
    vocabulary: str = Field(
        default="",
        description="Public list of words, one per line, UTF-8, relative to the TOML; never made from the texts of "
        "devices. Empty: 1,000 English words that come with fedinfer. Only with `text`.",
    )
    text_length: Annotated[int, Field(ge=1, le=MAX_WORDS)] = Field(
        default=64, description="Words that are read of a text, from its beginning."
    )
    ranges_confirmed: bool = Field(
        default=True, description="False: ranges and categories were read off the data. A deployment refuses to start."
    )
    array_range: tuple[Finite, Finite] | None = Field(
        default=None, description="`[low, high]`: public range of every column of `x.npy`. Only with `arrays`."
    )
    missing_text: tuple[str, ...] = Field(
        default=MISSING_TEXT, description="Cells that mean `missing` in every column."
    )
    missing_values: dict[str, tuple[Finite, ...]] = Field(
        default={}, description="`missing_values.COL = [..]`: numbers that mean `missing` in that column."
    )
    times: dict[str, str] = Field(
        default={},
        description='`times.COL = "days since 2024-01-01"`: dates become numbers, their range in the same unit; '
        "seconds, minutes, hours or days; ` as %d.%m.%Y` behind it for dates that are not ISO 8601.",
    )
    spellings: Literal["same", "exact"] = Field(
        default="same",
        description="`same`: `1` and `1.0` are one category or label, and so are the texts of `same_text` in any case; "
        "`exact`: only what is listed.",
    )
    same_text: tuple[tuple[str, ...], ...] = Field(
        default=SAME_TEXT, description='Texts that are the same category or label: `[["yes", "y"], ["no", "n"]]`.'
    )
    test_fraction: OpenFraction = Field(
        default=0.3, description="Part of each device's rows that is held out, for the metric and for its stream."
    )
    public_fraction: Probability = Field(
        default=0.0,
        description="Part of all rows that the server may hold (pre-training, calibration); taken out first.",
    )
    partition: PartitionSection = Field(default=PartitionSection(), description="See [data.partition].")
    synthetic: SyntheticSection = Field(default=SyntheticSection(), description="See [data.synthetic].")

    @field_validator("ranges")
    @classmethod
    def _ranges_not_empty(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for column, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f"range of column {column!r} is empty: low {low} must be below high {high}")
        return ranges

    @field_validator("label_range")
    @classmethod
    def _label_range_not_empty(cls, found: tuple[float, float] | None) -> tuple[float, float] | None:
        if found is not None and not found[0] < found[1]:
            raise ValueError(f"range of the label is empty: low {found[0]} must be below high {found[1]}")
        return found

    @field_validator("categories")
    @classmethod
    def _categories_unique(
        cls, categories: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        for column, names in categories.items():
            if not names or len(set(names)) != len(names):
                raise ValueError(f"categories of column {column!r} must be a list of one or more different names")
        return _with_canary_levels(categories, info.data.get("canary_levels", 0))

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels and (len(labels) < 2 or len(set(labels)) != len(labels)):
            raise ValueError("labels must be two or more different names")
        return labels

    @model_validator(mode="after")
    def _source_is_complete(self) -> DataSection:
        if self.source == "csv" and not (self.path and self.label):
            raise ValueError(f"source = 'csv' needs path (is {self.path!r}) and label (is {self.label!r})")
        both = set(self.ranges) & {*self.categories, *self.categorical}
        if both:
            raise ValueError(f"column {min(both)!r} has a range and categories: a number or a category, not both")
        without = set(self.breaks) - set(self.ranges)
        if without:
            raise ValueError(f"column {min(without)!r} has breaks and no range: breaks lie inside a public range")
        if self.label_above is not None and len(self.labels) not in (0, 2):
            raise ValueError(f"label_above makes two classes: labels must name both or none, has {len(self.labels)}")
        if self.canary_levels and not self.categories:
            raise ValueError("canary_levels are added to the first column of `categories`, and there is none")
        self._check_synthetic()
        self._check_arrays()
        self._check_reading()
        if self.label and self.label in (self.device, *self.drop):
            raise ValueError(f"label {self.label!r} cannot be the device column or a dropped column")
        self._check_number()
        if self.time and (self.source != "csv" or self.time in (self.label, self.device)):
            raise ValueError(f"time = {self.time!r} must be a column of a csv that is neither label nor device")
        self._check_text()
        return self

    def _check_synthetic(self) -> None:
        if self.source != "synthetic":
            if self.synthetic != SyntheticSection():
                raise ValueError(f"[data.synthetic] is for source = 'synthetic', it is {self.source!r}")
            return
        described = {"name", "path", "label", "device", "time", "text", "ranges", "categories"}
        given = sorted(key for key in described if getattr(self, key))
        if given:
            raise ValueError(f"source = 'synthetic' describes its own table: leave {', '.join(given)} out")
        if self.partition.scheme != "iid":
            raise ValueError(
                f"source = 'synthetic' with partition scheme {self.partition.scheme!r}: each device draws its own "
                "rows; input_shift and model_shift of [data.synthetic] make them differ"
            )

    def _check_arrays(self) -> None:
        if self.source != "arrays":
            if self.array_range is not None:
                raise ValueError(f"array_range is for source = 'arrays', it is {self.source!r}")
            return
        if not self.path or self.array_range is None or not (self.labels or self.label_range):
            raise ValueError("source = 'arrays' needs path, array_range, and labels (classes) or label_range (numbers)")
        if not self.array_range[0] < self.array_range[1]:
            raise ValueError(f"array_range {list(self.array_range)} is empty: low must be below high")
        given = sorted(key for key in ("name", "label", "device", "time", "text", "ranges") if getattr(self, key))
        if given:
            raise ValueError(f"source = 'arrays' has columns x0, x1, ... and the label y: leave {', '.join(given)} out")

    def _check_number(self) -> None:
        if self.label_unit and self.label_range is None:
            raise ValueError(f"label_unit = {self.label_unit!r} is for a numeric label: give its label_range")
        if self.label_range is not None and (self.labels or self.label_above is not None):
            other = "labels" if self.labels else "label_above"
            raise ValueError(f"label_range predicts a number, {other} makes classes of it: leave one of them out")

    def reading(self) -> ReadingRules:
        """The reading rules that the keys say; offsets follow from the ranges and are not in them.

        Raises:
            ConfigError: keys that contradict each other.
        """
        return ReadingRules(
            delimiter=self.delimiter,
            decimal=self.decimal,
            thousands=self.thousands,
            marks=tuple(self.marks.items()),
            units=tuple(self.units.items()),
            encoding=self.encoding,
            quote=self.quote,
            header=self.header,
            missing_text=self.missing_text,
            missing_values=tuple(self.missing_values.items()),
            times=tuple(self.times.items()),
            same_text=self.same_text,
            spellings=self.spellings,
        )

    def _check_reading(self) -> None:
        try:
            self.reading()
        except ConfigError as error:
            raise ValueError(f"{error}{f' ({error.hint})' if error.hint else ''}") from error
        both = set(self.times) & {*self.categories, *self.categorical}
        if both:
            raise ValueError(f"column {min(both)!r} has a time rule and categories: a number or a category, not both")

    def _check_text(self) -> None:
        if not self.text:
            if self.vocabulary:
                raise ValueError(f"vocabulary = {self.vocabulary!r} is for a column of free text: name it with text")
            return
        if self.source != "csv":
            raise ValueError(f"text = {self.text!r} needs source = 'csv': built-in data brings its own columns")
        others = {*self.ranges, *self.categories, *self.categorical, *self.missing_values, *self.times} - {*self.drop}
        if others:
            raise ValueError(
                f"text = {self.text!r} and column {min(others)!r}: a text is the only input of its model; put other "
                "columns into drop"
            )
        if self.text in (self.label, self.device, *self.drop):
            raise ValueError(f"text = {self.text!r} cannot be the label, the device column or a dropped column")
        if self.vocabulary == self.path:
            raise ValueError("vocabulary names the table itself: words of its texts are private, use a public list")


def _with_canary_levels(categories: dict[str, tuple[str, ...]], count: int) -> dict[str, tuple[str, ...]]:
    """The same however often a section is written and read: levels that are there are not added again."""
    if not count or not categories:
        return categories
    first, *_ = categories
    wanted = (f"{CANARY}{number}" for number in range(1, count + 1))
    added = (*categories[first], *(name for name in wanted if name not in categories[first]))
    return {**categories, first: added}
