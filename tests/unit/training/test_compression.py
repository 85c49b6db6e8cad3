"""Pruning and fine-tuning: exact shares, masks that stay, int8 as onnxruntime rounds it, public rows and no others."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.errors import ConfigError
from fedinfer.training import load_trainer
from fedinfer.training.compression import CompressionPlan, Rounded, compress, fake_int8, magnitude_masks
from fedinfer.training.trainer import Trainer
from tests.unit.training.factories import BY_KIND, rows


def trainer_for(kind):
    return load_trainer(ModelSection(kind=kind, hidden=(8,)), BY_KIND[kind], TrainingSection(), 1)


def plan(pruning=0.0, steps=0, rounded=Rounded.INPUTS):
    return CompressionPlan(pruning, steps, 16, rounded)


def generator():
    return np.random.default_rng(5)


def start_of(trainer):
    """Weights of which none is zero; a logistic model starts with zeros."""
    return trainer.initial() + np.random.default_rng(3).normal(0, 0.3, trainer.size).astype(np.float32)


def matrices(trainer, weights):
    named = trainer.module(weights, native=False).named_parameters()
    return {name: weight.detach().numpy() for name, weight in named if weight.dim() >= 2}


def kept_rows(kind):
    """Rows of the embedding table: padding of texts; the first row of each of the two columns of SHOP."""
    return {"bag": [0], "transformer": [0], "recommender": [0, 7]}.get(kind, [])


@pytest.mark.parametrize("kind", BY_KIND)
@pytest.mark.parametrize("steps", [0, 7])
def test_every_matrix_loses_exactly_the_share_and_its_smallest_weights(kind, steps):
    trainer, (x, _) = trainer_for(kind), rows(BY_KIND[kind], 40, 1)
    start = start_of(trainer)
    slimmed = trainer.compress(start, x, plan(0.6, steps), generator())
    before, after = matrices(trainer, start), matrices(trainer, slimmed)
    assert before
    for name, weight in after.items():
        kept = kept_rows(kind) if "table" in name else []
        free, old = np.delete(weight, kept, axis=0), np.delete(before[name], kept, axis=0)
        assert (free == 0).sum() == round(0.6 * free.size), name
        assert np.abs(old[free == 0]).max() <= np.abs(old[free != 0]).min(), name
        if kept:
            assert (weight[kept] != 0).all()


@pytest.mark.parametrize("kind", BY_KIND)
def test_pruning_alone_leaves_biases_norms_and_what_is_left_as_they_were(kind):
    trainer, (x, _) = trainer_for(kind), rows(BY_KIND[kind], 4, 1)
    start = start_of(trainer)
    slimmed = trainer.compress(start, x[:0], plan(0.5), generator())
    assert set(slimmed[slimmed != start]) <= {0.0}
    model, old = trainer.module(slimmed, native=False), trainer.module(start, native=False)
    for (name, after), (_, before) in zip(model.named_parameters(), old.named_parameters(), strict=True):
        assert after.dim() >= 2 or torch.equal(after, before), name


@pytest.mark.parametrize("kind", BY_KIND)
def test_fine_tuning_moves_the_answers_towards_those_of_the_unpruned_model(kind):
    trainer, (x, _) = trainer_for(kind), rows(BY_KIND[kind], 200, 1)
    start = start_of(trainer)
    teacher = trainer.predict(start, x)
    pruned = trainer.compress(start, x, plan(0.7), generator())
    tuned = trainer.compress(start, x, plan(0.7, 150), generator())
    distance = [float(np.abs(trainer.predict(weights, x) - teacher).mean()) for weights in (pruned, tuned)]
    assert distance[1] < distance[0]


def test_a_seed_decides_and_the_trainer_stays_as_it_was():
    trainer, (x, _) = trainer_for("mlp"), rows(BY_KIND["mlp"], 50, 1)
    start, state = start_of(trainer), torch.random.get_rng_state()
    first, again = (trainer.compress(start, x, plan(0.5, 9), generator()) for _ in range(2))
    other = trainer.compress(start, x, plan(0.5, 9), np.random.default_rng(6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(start, start_of(trainer))
    assert torch.equal(state, torch.random.get_rng_state())


def test_only_public_rows_can_be_given_and_without_them_fine_tuning_is_refused():
    assert list(inspect.signature(Trainer.compress).parameters) == ["self", "weights", "public_x", "plan", "rng"]
    assert list(inspect.signature(compress).parameters) == ["model", "x", "plan", "objective", "rng"]
    trainer, (x, _) = trainer_for("mlp"), rows(BY_KIND["mlp"], 4, 1)
    with pytest.raises(ConfigError, match="qat_steps = 3: there are no public rows") as refused:
        trainer.compress(start_of(trainer), x[:0], plan(0.0, 3), generator())
    assert "public_fraction" in str(refused.value.hint)


@given(seed=st.integers(0, 2**31), rows_=st.integers(1, 9), columns=st.integers(1, 9), table=st.booleans())
@settings(deadline=None)
def test_fake_int8_is_the_rounding_of_the_stored_weights(seed, rows_, columns, table):
    weight = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (rows_, columns)).astype(np.float32))
    weight[0, 0] = 0.0
    largest = weight.abs().max() if table else weight.abs().amax(dim=1, keepdim=True)
    scale = largest.clamp_min(1e-12) / 127
    found = fake_int8(weight, table)
    assert torch.allclose(found / scale, torch.round(found / scale), atol=1e-3)
    assert ((found - weight).abs() <= scale * 0.5001).all()
    assert found[0, 0] == 0.0


def test_the_gradient_passes_through_the_rounding():
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    fake_int8(weight, table=False).sum().backward()
    assert torch.equal(weight.grad, torch.ones(3, 5))


@given(share=st.floats(0, 0.99), kind=st.sampled_from(sorted(BY_KIND)))
@settings(deadline=None, max_examples=30)
def test_masks_hold_ones_and_the_asked_number_of_zeros(share, kind):
    model = trainer_for(kind).module(trainer_for(kind).initial(), native=False)
    for name, mask in magnitude_masks(model, share).items():
        free = mask.numel() - (len(kept_rows(kind)) * mask[0].numel() if "table" in name else 0)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert int((mask == 0).sum()) == round(share * free)
