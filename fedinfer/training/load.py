"""A trainer, or the sentence that says which extra is missing; torch is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedinfer.config import Accelerator, ModelSection, TrainingSection
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.schema import Schema

if TYPE_CHECKING:
    from fedinfer.training.trainer import Trainer

_THREADS = 1
"""Small models are slower with more."""


def load_trainer(
    model: ModelSection,
    schema: Schema,
    training: TrainingSection,
    seed: int,
    accelerator: Accelerator = Accelerator.CPU,
) -> Trainer:
    """Build a trainer; see `fedinfer.training.trainer`.

    Args:
        model: kind and sizes, or a factory.
        schema: what a row looks like.
        training: local work and what is tuned.
        seed: seed of the start weights.
        accelerator: where cohorts train in batched steps.

    Raises:
        MissingExtra: torch is not installed.
        ConfigError: the model cannot be built for this schema, or torch sees no GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("training needs the package torch", hint="pip install 'fedinfer[train]'") from error
    from fedinfer.training.engines.seeding import threads
    from fedinfer.training.models.build import build_model
    from fedinfer.training.models.parts import try_forward
    from fedinfer.training.trainer import Trainer

    if accelerator is Accelerator.CUDA and not torch.cuda.is_available():
        raise ConfigError(
            f"[simulation] accelerator = 'cuda': torch {torch.__version__} sees no GPU",
            hint="install a build of torch for CUDA and a driver, or leave accelerator at 'cpu'",
        )
    built = build_model(model, schema, seed)
    with threads(_THREADS):
        try_forward(built, schema)
        return Trainer(built, schema, training, _THREADS, torch.device(str(accelerator)))
