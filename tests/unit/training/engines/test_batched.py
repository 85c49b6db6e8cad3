"""The size of a chunk is a matter of speed: results do not depend on it."""

import numpy as np
import pytest

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.training import PrivateSteps, load_trainer
from fedinfer.training.engines import batched as cohort
from tests.unit.training.factories import BATCHED, BY_KIND, generators, rows

COUNTS = (7, 0, 31, 1, 0, 12, 5)


def run(kind):
    training = TrainingSection(batch_size=4, local_epochs=2, momentum=0.3)
    trainer = load_trainer(ModelSection(kind=kind, hidden=(6,)), BY_KIND[kind], training, 1)
    data, weights, count = [rows(BY_KIND[kind], n, n) for n in COUNTS], trainer.initial(), len(COUNTS)
    return [
        trainer.updates(weights, data, generators(count)),
        trainer.gradient_sums(weights, data, 0.8, 0.4, generators(count), BATCHED),
        trainer.private_updates(weights, data, PrivateSteps(3, 0.6, 0.4, 1.0), generators(count), BATCHED),
    ]


@pytest.mark.parametrize("kind", ["logistic", "mlp", "cnn", "tcn"])
@pytest.mark.parametrize("numbers", [1, 3000])
def test_results_do_not_depend_on_the_chunk_size(monkeypatch, kind, numbers):
    whole = run(kind)
    monkeypatch.setattr(cohort, "_CHUNK_NUMBERS", numbers)
    for expected, chunked in zip(whole, run(kind), strict=True):
        np.testing.assert_allclose(chunked, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_a_device_alone_gets_what_it_gets_in_company(kind):
    training = TrainingSection(batch_size=4)
    trainer = load_trainer(ModelSection(kind=kind, hidden=(6,)), BY_KIND[kind], training, 1)
    data, weights = [rows(BY_KIND[kind], n, n) for n in COUNTS], trainer.initial()
    together = trainer.updates(weights, data, generators(len(COUNTS)))
    for device, source in enumerate(generators(len(COUNTS))):
        alone = trainer.updates(weights, data[device : device + 1], [source])[0]
        np.testing.assert_allclose(alone, together[device], atol=1e-5 * max(np.abs(alone).max(), 1e-3))
