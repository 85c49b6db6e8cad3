"""Training engines: `load_trainer` is the entry point. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.errors import MissingExtra
from fedinfer.schema import Schema
from fedinfer.training.engines.gradient_engine import GradientEngine
from fedinfer.training.engines.sampling import PrivateSteps, RandomSource

if TYPE_CHECKING:
    from fedinfer.training.trainer import Trainer

__all__ = ["GradientEngine", "PrivateSteps", "RandomSource", "load_trainer"]


def load_trainer(model: ModelSection, schema: Schema, training: TrainingSection, seed: int) -> Trainer:
    """Build a trainer; see `fedinfer.training.trainer`.

    Args:
        model: kind and sizes, or a factory.
        schema: what a row looks like.
        training: local work and what is tuned.
        seed: seed of the start weights.

    Raises:
        MissingExtra: torch is not installed.
        ConfigError: the model cannot be built for this schema.
    """
    try:
        import torch  # noqa: F401  # the check is the point
    except ImportError as error:
        raise MissingExtra("training needs the package torch", hint="pip install 'fedinfer[train]'") from error
    from fedinfer.training import trainer

    return trainer.load_trainer(model, schema, training, seed)
