"""Which statistics of its rows a model's declaration asks a watch to count, beside the answers.

Rules:
* A table has columns, which a run names one by one; a tensor of hundreds of values has none to name. Of the largest
  tensor that rows bring mean and spread are declared, of one that is a single value the mean.
* State is the model's own affair and is never counted.
"""

from __future__ import annotations

from dataclasses import replace

from fedinfer.artifact.imported.adapt import schema_of
from fedinfer.artifact.imported.declaration import Declaration
from fedinfer.errors import ConfigError
from fedinfer.tensors import STATISTICS


def with_watch(found: Declaration) -> Declaration:
    """A declaration with the statistics that are counted unless its owner says otherwise.

    Args:
        found: whole, but for them.

    Raises:
        ConfigError: its parts do not fit together.
    """
    fed = {spec.feeds for spec in found.outputs}
    brought = [tensor for tensor in schema_of(found).inputs if tensor.name not in fed]
    if not brought:
        return found
    largest = max(brought, key=lambda tensor: tensor.size)
    words = STATISTICS[: 2 if largest.size > 1 else 1]
    inputs = (replace(spec, watch=words) if spec.name == largest.name else spec for spec in found.inputs)
    return replace(found, inputs=tuple(inputs))


def watched_of(found: Declaration) -> tuple[str, ...]:
    """The channels of these statistics, as `[drift] channels` names them: `mean:INPUT`, `spread:INPUT`, `ends:INPUT`.

    Args:
        found: of the model.

    Raises:
        ConfigError: statistics of an input whose values are columns, or of state.
    """
    fed = {spec.feeds for spec in found.outputs}
    tensors = {tensor.name for tensor in schema_of(found).inputs} - fed
    wrong = next((spec.name for spec in found.inputs if spec.watch and spec.name not in tensors), None)
    if wrong is not None:
        raise ConfigError(
            f"watch of input {wrong}: {'it is state' if wrong in fed else 'its values are columns'}",
            hint="leave watch out" if wrong in fed else "name columns in a run: drift.channels = ['input:COLUMN']",
        )
    return tuple(f"{word}:{spec.name}" for spec in found.inputs for word in spec.watch)
