"""What a device counts of its rows and answers, for all channels of a report: real and simulated devices run this code.

Rules:
* Counted are the channels that the run's scenario names, and where one of them is `flags` also everything that the
  device's own test compares. What only that test needs never leaves the device.
* A model of another task has other columns: what does not fit it is not counted, and its answers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.device.prediction_window import Layout
from fedinfer.drift import Channel, Outputs, Source, chosen_channels, local_channels
from fedinfer.inference import Rows
from fedinfer.schema import Schema
from fedinfer.text import tokens
from fedinfer.types import FloatVector


@dataclass(frozen=True, slots=True)
class CountedChannels:
    """The channels that rows are counted into.

    Args:
        schema: of the model.
        channels: each once.
    """

    schema: Schema
    channels: tuple[Channel, ...]

    @property
    def layout(self) -> Layout:
        """Name and bins of each."""
        return layout_of(self.channels)

    @property
    def look_at_inputs(self) -> bool:
        """Whether rows are needed beside answers."""
        return any(channel.source is Source.INPUT for channel in self.channels)

    @property
    def look_at_labels(self) -> bool:
        """Whether labels are counted that come later."""
        return any(channel.source is Source.ERROR for channel in self.channels)


def counted_channels(schema: Schema, names: Sequence[str]) -> CountedChannels:
    """Channels that a device counts as it predicts.

    Args:
        schema: of the model.
        names: entries of `[drift] channels`; none: the answers.

    Raises:
        ConfigError: a name does not fit the schema.
    """
    report = chosen_channels(schema, names)
    own = local_channels(schema) if any(channel.source.of_windows for channel in report) else ()
    by_name = {channel.name: channel for channel in (*report, *own) if not channel.source.of_windows}
    return CountedChannels(schema, tuple(by_name.values()))


def layout_of(channels: Sequence[Channel]) -> Layout:
    """Name and bins of channels.

    Args:
        channels: in order.
    """
    return tuple((channel.name, channel.bins) for channel in channels)


def inputs_of(schema: Schema, rows: Rows) -> FloatVector:
    """Rows as channels look at them.

    Args:
        schema: of the model.
        rows: checked by its reader: float32 (n, width), or texts, (n, 1).

    Returns:
        float32 (n, width), NaN where a cell is missing or unseen; of texts their token numbers.
    """
    return tokens(rows[:, 0].tolist(), schema.text) if schema.text is not None else rows


def placed(schema: Schema, answers: FloatVector) -> FloatVector:
    """Where answers lie from 0 to 1, one number per row: the histogram that a fleet's report counts.

    Of a number its place in its range; of scores the place of the largest; of tensors which of their values is the
    largest, as a part of all: it moves when the inputs do, also for vectors whose values are always of one length
    (Rabanser, Guennemann, Lipton 2019, section 3, take the predicted class of a classifier for the same purpose). State
    is left out.

    Args:
        schema: of a model that answers numbers.
        answers: float32 (rows, outputs).

    Returns:
        (rows, 1); outside [0, 1] where a value is outside its range.
    """
    low, high = schema.ranges()
    parts = (answers - low) / (high - low)
    told = (
        np.repeat([not t.feeds for t in schema.answers], [t.size for t in schema.answers]) if schema.answers else [True]
    )
    parts = parts[:, told]
    if schema.kind == "tensors" and parts.shape[1] > 1:
        return np.asarray((parts.argmax(axis=1)[:, None] + 0.5) / parts.shape[1])
    return np.asarray(parts.max(axis=1, keepdims=True, initial=-np.inf))


def answered(schema: Schema, chosen: npt.NDArray[np.int64], raw: FloatVector) -> Outputs:
    """Answers as channels count them.

    Args:
        schema: of the model.
        chosen: class numbers, (n,); 0 for numbers.
        raw: what the graph answered, float32 (n, outputs).
    """
    return Outputs(chosen, raw if schema.label_range is None else placed(schema, raw))


def counted_truth(schema: Schema, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels as channels count them: class numbers, or where a value lies in its range.

    Args:
        schema: of the model.
        y: labels, (n,).
    """
    if schema.label_range is None:
        return y
    low, high = schema.label_range
    return np.asarray((y - low) / (high - low))
