import subprocess
import sys

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer

from fedinfer.config import ModelSection, TrainingSection, Tune
from fedinfer.errors import ConfigError, DataError, MissingExtra
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.training import GradientEngine, PrivateSteps, load_trainer
from tests.unit.training.factories import BATCHED, BY_KIND, PER_EXAMPLE, TABLE, generators, rows, torch_loss

HERE = "tests.unit.training.factories"
TRAINING = TrainingSection(batch_size=8, local_epochs=2)


def trainer_for(kind, training=TRAINING, **changes):
    return load_trainer(ModelSection(kind=kind, **{"hidden": (6,)} | changes), BY_KIND[kind], training, 1)


def custom(name, training=TRAINING):
    return load_trainer(ModelSection(factory=f"{HERE}:{name}"), TABLE, training, 1)


def devices(schema, *counts):
    return [rows(schema, count, seed) for seed, count in enumerate(counts)]


@pytest.mark.parametrize("kind", BY_KIND)
@pytest.mark.parametrize("tune", list(Tune))
def test_every_kind_trains_in_every_way(kind, tune):
    trainer = trainer_for(kind, TRAINING.model_copy(update={"tune": tune}))
    data, weights = devices(BY_KIND[kind], 12, 0, 3), trainer.initial()
    results = [
        trainer.updates(weights, data, generators(3)),
        trainer.gradient_sums(weights, data, 0.7, 0.5, generators(3), BATCHED),
        trainer.private_updates(weights, data, PrivateSteps(2, 0.5, 1.0, 1.0), generators(3), BATCHED),
    ]
    for result in results:
        assert result.shape == (3, trainer.dimension)
        assert result.dtype == (np.float64 if result is results[1] else np.float32)
        assert bool(np.isfinite(result).all())
        assert result[0].any()
    assert not results[0][1].any()
    assert not results[1][1].any()
    np.testing.assert_array_equal(weights, trainer.initial())


@pytest.mark.parametrize("kind", BY_KIND)
def test_same_sources_give_the_same_bits(kind):
    trainer = trainer_for(kind)
    data, weights = devices(BY_KIND[kind], 9, 5), trainer.initial()
    for run in (
        lambda: trainer.updates(weights, data, generators(2)),
        lambda: trainer.gradient_sums(weights, data, 0.6, 1.0, generators(2), BATCHED),
        lambda: trainer.private_updates(weights, data, PrivateSteps(2, 0.6, 1.0, 0.7), generators(2), BATCHED),
    ):
        np.testing.assert_array_equal(run(), run())


def test_engine_is_named():
    for kind in ("logistic", "mlp", "cnn", "tcn"):
        assert [trainer_for(kind).engine(wanted) for wanted in GradientEngine] == list(GradientEngine)
    assert custom("residual").engine(BATCHED) is GradientEngine.OPACUS
    assert custom("residual").engine(PER_EXAMPLE) is PER_EXAMPLE, "a layer that is not known changes no promise"


@pytest.mark.parametrize("name", ["residual", "with_dropout"])
def test_user_modules_train_without_touching_the_global_generator(name):
    trainer = custom(name)
    before = torch.get_rng_state()
    first = trainer.updates(trainer.initial(), devices(TABLE, 20), generators(1))
    torch.rand(5)
    second = trainer.updates(trainer.initial(), devices(TABLE, 20), generators(1))
    np.testing.assert_array_equal(first, second)
    assert trainer.engine(BATCHED) is GradientEngine.OPACUS
    trainer.gradient_sums(trainer.initial(), devices(TABLE, 4), 1.0, 1.0, generators(1), BATCHED)
    torch.set_rng_state(before)


def test_tuned_part_goes_back_into_the_whole():
    trainer = trainer_for("mlp", TRAINING.model_copy(update={"tune": Tune.HEAD}))
    weights = trainer.initial()
    moved = trainer.replace(weights, trainer.tuned(weights) + 1)
    np.testing.assert_array_equal(moved[: -trainer.dimension], weights[: -trainer.dimension])
    np.testing.assert_array_equal(moved[-trainer.dimension :], weights[-trainer.dimension :] + 1)
    everything = trainer_for("mlp")
    assert everything.dimension == everything.size
    np.testing.assert_array_equal(everything.replace(weights, weights * 2), weights * 2)


def test_head_of_a_user_module_leaves_the_body_alone():
    trainer = custom("residual", TRAINING.model_copy(update={"tune": Tune.HEAD}))
    assert trainer.dimension == 2 * 8 + 2
    data, weights = devices(TABLE, 15), trainer.initial()
    before = trainer.predict(weights, data[0][0])
    update = trainer.updates(weights, data, generators(1))[0]
    sums = trainer.gradient_sums(weights, data, 1.0, 0.1, generators(1), BATCHED)
    assert sums.shape == (1, trainer.dimension)
    np.testing.assert_array_equal(before, trainer.predict(weights, data[0][0]))
    assert not np.allclose(
        before, trainer.predict(trainer.replace(weights, trainer.tuned(weights) + update), data[0][0])
    )


@pytest.mark.parametrize("kind", ["logistic", "mlp", "transformer"])
def test_one_example_never_moves_a_sum_by_more_than_the_norm(kind):
    trainer = trainer_for(kind)
    x, y = rows(BY_KIND[kind], 12, 0)
    weights = trainer.initial() + 3 * np.random.default_rng(0).normal(size=trainer.size).astype(np.float32)
    whole = trainer.gradient_sums(weights, [(x, y)], 1.0, 0.25, generators(1), BATCHED)[0]
    for left_out in range(12):
        keep = np.arange(12) != left_out
        rest = trainer.gradient_sums(weights, [(x[keep], y[keep])], 1.0, 0.25, generators(1), BATCHED)[0]
        assert np.linalg.norm(whole - rest) <= 0.25 * (1 + 1e-4)


ENGINES = pytest.mark.parametrize(
    "make", [lambda: trainer_for("mlp"), lambda: custom("residual")], ids=["cohort", "local"]
)


@ENGINES
@pytest.mark.parametrize("huge", [1e19, 1e30, 3e38])
def test_hostile_weights_cannot_break_the_bound(make, huge):
    trainer = make()
    weights = trainer.initial()
    weights[:20] = huge
    data = devices(TABLE, 10, 4)
    sums = trainer.gradient_sums(weights, data, 1.0, 0.5, generators(2), BATCHED)
    moved = trainer.private_updates(weights, data, PrivateSteps(2, 1.0, 0.5, 1.0), generators(2), BATCHED)
    plain = trainer.updates(weights, data, generators(2))
    for result in (sums, moved, plain):
        assert bool(np.isfinite(result).all())
    assert np.linalg.norm(sums[0]) <= 5.0 * (1 + 1e-4)
    assert np.linalg.norm(sums[1]) <= 2.0 * (1 + 1e-4)


@ENGINES
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(make, poison):
    trainer = make()
    weights = trainer.initial()
    weights[[0, 3]] = poison
    with pytest.raises(ConfigError, match=f"2 of {trainer.size} weights are not finite"):
        trainer.gradient_sums(weights, devices(TABLE, 10), 1.0, 0.5, generators(1), BATCHED)


def opacus_reference(trainer, schema, weights, x, y, private, learning_rate):
    """DP-SGD by Opacus' own step on all rows, as its documentation has it; no noise."""
    model = trainer.module(weights, native=False)
    prepared = model.prepare(torch.from_numpy(x)).requires_grad_(True)
    net = GradSampleModule(model.core.train())
    optimizer = DPOptimizer(
        torch.optim.SGD(net.parameters(), lr=learning_rate),
        noise_multiplier=0.0,
        max_grad_norm=private.clipping_norm,
        expected_batch_size=len(y),
    )
    for _ in range(private.steps):
        optimizer.zero_grad()
        torch_loss(schema, net(prepared), y).backward()
        optimizer.step()
    final = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).numpy()
    return final - weights


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", BY_KIND)
def test_private_updates_equal_opacus_as_documented(kind):
    trainer = trainer_for(kind)
    (x, y), private = rows(BY_KIND[kind], 14, 3), PrivateSteps(4, 1.0, 0.3, 0.0)
    weights = trainer.initial()
    ours = trainer.private_updates(weights, [(x, y)], private, generators(1), BATCHED)[0]
    theirs = opacus_reference(trainer, BY_KIND[kind], weights, x, y, private, TRAINING.learning_rate)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1e-3, np.abs(theirs).max()))


@pytest.mark.parametrize("make", [lambda t: trainer_for("logistic", t), lambda t: custom("residual", t)])
def test_noise_has_the_stated_deviation(make):
    trainer = make(TrainingSection(learning_rate=1.0))
    data, steps = [devices(TABLE, 10)[0]] * 300, PrivateSteps(1, 1.0, 0.5, 4.0)
    noisy = trainer.private_updates(trainer.initial(), data, steps, generators(300), BATCHED)
    quiet = trainer.private_updates(trainer.initial(), data[:1], PrivateSteps(1, 1.0, 0.5, 0.0), generators(1), BATCHED)
    noise = (noisy - quiet) * 10  # learning rate 1, divided by 10 rows
    assert noise.mean() == pytest.approx(0, abs=4 * 2 / noise.size**0.5)
    assert noise.std() == pytest.approx(2.0, rel=0.05)


def test_noise_is_added_even_when_the_sample_is_empty():
    trainer = trainer_for("logistic")
    noisy = trainer.private_updates(
        trainer.initial(), devices(TABLE, 0), PrivateSteps(1, 0.5, 1.0, 1.0), generators(1), BATCHED
    )
    assert noisy.any()


@ENGINES
def test_a_real_device_draws_from_entropy(make):
    trainer, data = make(), devices(TABLE, 10)
    private = PrivateSteps(2, 0.5, 1.0, 1.0)
    weights = trainer.initial()
    first = trainer.private_updates(weights, data, private, [SystemEntropy()], PER_EXAMPLE)
    second = trainer.private_updates(weights, data, private, [SystemEntropy()], PER_EXAMPLE)
    assert not np.array_equal(first, second)
    seeded = [trainer.private_updates(weights, data, private, [SimulatedEntropy(1)], BATCHED) for _ in range(2)]
    np.testing.assert_array_equal(*seeded)


def test_proximal_term_keeps_updates_small():
    data = devices(TABLE, 30)
    free = trainer_for("mlp").updates(trainer_for("mlp").initial(), data, generators(1))
    pulled_trainer = trainer_for("mlp", TRAINING.model_copy(update={"proximal": 5.0}))
    pulled = pulled_trainer.updates(pulled_trainer.initial(), data, generators(1))
    assert np.linalg.norm(pulled) < 0.7 * np.linalg.norm(free)


def separable(count, seed):
    rng = np.random.default_rng(seed)
    x = np.stack([rng.uniform(0, 100, count), rng.uniform(-1, 1, count), rng.integers(0, 3, count)], 1)
    return x.astype(np.float32), (x[:, 0] > 50).astype(np.int64)


def test_pretraining_learns_and_is_reproducible():
    trainer = trainer_for("mlp")
    x, y = separable(200, 0)
    weights = trainer.pretrain(trainer.initial(), x, y, np.random.default_rng(1))
    again = trainer.pretrain(trainer.initial(), x, y, np.random.default_rng(1))
    np.testing.assert_array_equal(weights, again)
    figures = trainer.evaluate(weights, *separable(300, 1))
    assert figures["accuracy"] > 0.95
    assert figures["auc"] > 0.98


def test_pretraining_without_rows_changes_nothing():
    trainer = trainer_for("mlp")
    nothing = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    weights = trainer.pretrain(trainer.initial(), *nothing, np.random.default_rng(1))
    np.testing.assert_array_equal(weights, trainer.initial())


def test_federated_rounds_learn():
    trainer = trainer_for("logistic")
    weights, data = trainer.initial(), [separable(30, seed) for seed in range(8)]
    for round_number in range(12):
        weights = weights + trainer.updates(weights, data, generators(8, round_number)).mean(axis=0)
    assert trainer.evaluate(weights, *separable(300, 99))["accuracy"] > 0.9


@pytest.mark.parametrize("kind", BY_KIND)
def test_module_for_export_predicts_the_same(kind):
    trainer = trainer_for(kind)
    weights = trainer.initial() + np.float32(0.05)
    x, _ = rows(BY_KIND[kind], 7, 5)
    with torch.no_grad():
        outputs = trainer.module(weights)(torch.from_numpy(x))
    if kind == "linear":
        low, high = BY_KIND[kind].label_range
        expected = low + (outputs.numpy().clip(-1, 1) + 1) * (high - low) / 2
        np.testing.assert_allclose(trainer.predict(weights, x), expected, rtol=1e-5)
        return
    probabilities = torch.softmax(outputs, dim=1).numpy()
    np.testing.assert_allclose(probabilities, trainer.predict(weights, x), atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_empty_samples_give_zeros():
    trainer = trainer_for("mlp")
    sums = trainer.gradient_sums(trainer.initial(), devices(TABLE, 0, 2), 1e-9, 1.0, generators(2), BATCHED)
    assert sums.shape == (2, trainer.dimension)
    assert not sums.any()


def test_no_rows_predict_nothing():
    assert trainer_for("mlp").predict(trainer_for("mlp").initial(), np.zeros((0, 3), np.float32)).shape == (0, 2)
    assert trainer_for("mlp").updates(trainer_for("mlp").initial(), [], []).shape[0] == 0


def test_data_that_does_not_fit_is_named():
    trainer = trainer_for("mlp")
    weights, (x, y) = trainer.initial(), rows(TABLE, 4, 0)
    with pytest.raises(DataError, match=r"\(4, 2\)"):
        trainer.predict(weights, x[:, :2])
    with pytest.raises(DataError, match="3 labels"):
        trainer.evaluate(weights, x, y[:3])
    with pytest.raises(DataError, match="classes 0 to 1"):
        trainer.updates(weights, [(x, y + 1)], generators(1))
    with pytest.raises(ConfigError, match="parameters"):
        trainer.predict(weights[:-1], x)


@pytest.mark.parametrize(("rate", "norm"), [(0.0, 1.0), (1.5, 1.0), (0.5, 0.0), (0.5, float("inf")), (0.5, -1.0)])
def test_impossible_private_settings_are_refused(rate, norm):
    trainer = trainer_for("logistic")
    with pytest.raises(ConfigError):
        trainer.gradient_sums(trainer.initial(), devices(TABLE, 3), rate, norm, generators(1), BATCHED)
    with pytest.raises(ConfigError):
        trainer.private_updates(
            trainer.initial(), devices(TABLE, 3), PrivateSteps(1, rate, norm, 1.0), generators(1), BATCHED
        )


@pytest.mark.parametrize(("name", "rule"), [("wrong_outputs", "logits"), ("wrong_inputs", "does not fit the data")])
def test_factory_of_another_shape_is_a_config_error(name, rule):
    with pytest.raises(ConfigError, match=rule):
        custom(name)


def test_a_module_that_cannot_be_private_trains_plainly_only():
    trainer, data = custom("with_buffer"), devices(TABLE, 6)
    assert trainer.updates(trainer.initial(), data, generators(1)).any()
    with pytest.raises(ConfigError, match="owns buffers"):
        trainer.gradient_sums(trainer.initial(), data, 1.0, 1.0, generators(1), BATCHED)


@pytest.mark.parametrize("name", ["lstm", "attention"])
def test_layers_that_opacus_does_not_know_train_row_by_row(name):
    """Opacus finds no gradients, or wrong ones, of torch's recurrent and attention layers."""
    trainer, data = custom(name), devices(TABLE, 6, 3)
    assert trainer.engine(BATCHED) is GradientEngine.PER_EXAMPLE
    start = trainer.initial()
    sums, alone = (trainer.gradient_sums(start, data, 1.0, 0.5, generators(2), e) for e in (BATCHED, PER_EXAMPLE))
    assert np.abs(sums).max(axis=1).min() > 0
    assert np.array_equal(sums, alone)
    moved = trainer.private_updates(start, data, PrivateSteps(2, 0.5, 0.5, 1.0), generators(2), BATCHED)
    assert np.isfinite(moved).all()


@pytest.mark.parametrize("name", ["with_unused", "with_frozen"])
def test_frozen_and_unused_parameters_are_not_trained(name):
    """Their coordinates would carry noise and nothing else, and Opacus finds no gradient of them."""
    trainer, data = custom(name), devices(TABLE, 6)
    start = trainer.initial()
    assert 0 < trainer.dimension < trainer.size
    sums, alone = (trainer.gradient_sums(start, data, 1.0, 0.5, generators(1), e) for e in (BATCHED, PER_EXAMPLE))
    assert sums.shape == (1, trainer.dimension)
    assert np.abs(sums - alone).max() < 1e-5
    assert trainer.updates(start, data, generators(1)).any()
    moved = trainer.replace(start, trainer.tuned(start) + 1)
    assert (moved != start).sum() == trainer.dimension
    assert trainer.tuned(moved).tolist() == (trainer.tuned(start) + 1).tolist()


def test_a_frozen_parameter_stays_as_it_is_before_the_first_round_too():
    trainer, (x, y) = custom("with_frozen"), rows(TABLE, 20, 0)
    start = trainer.initial()
    learned = trainer.pretrain(start, x, y, np.random.default_rng(0))
    untouched = trainer.replace(start, trainer.tuned(learned))
    assert (learned != start).any()
    assert np.array_equal(learned, untouched)


def test_a_model_of_which_nothing_can_change_is_refused():
    with pytest.raises(ConfigError, match="no parameter that rounds could change"):
        custom("all_frozen")


def test_missing_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="the package torch") as caught:
        custom("residual")
    assert "fedinfer[train]" in caught.value.hint


def test_missing_opacus_is_named(monkeypatch):
    trainer = custom("residual")
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtra, match="the package opacus") as caught:
        trainer.gradient_sums(trainer.initial(), devices(TABLE, 3), 1.0, 1.0, generators(1), BATCHED)
    assert "fedinfer[train]" in caught.value.hint


@ENGINES
def test_torch_threads_are_left_as_they_were(make):
    trainer, before = make(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer.updates(trainer.initial(), devices(TABLE, 3), generators(1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_package_imports_without_torch():
    rooms = "fedinfer.training, fedinfer.training.server_optimizers, fedinfer.training.checkpoints"
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
