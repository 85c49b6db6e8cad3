"""Which reader turns rows into what a graph takes, by the kind of rows that a schema describes."""

from __future__ import annotations

from typing import TypeAlias

from fedinfer.inference.predict.rows import RowReader
from fedinfer.inference.predict.tensor_rows import TensorReader
from fedinfer.inference.predict.texts import TextReader
from fedinfer.schema import Schema

Reader: TypeAlias = RowReader | TensorReader | TextReader


def reader_of(schema: Schema) -> Reader:
    """The reader for rows of a schema.

    Args:
        schema: of tables, images, tensors or one text.
    """
    if schema.text is not None:
        return TextReader(schema.text, schema.reading)
    return TensorReader(schema) if schema.inputs else RowReader(schema)
