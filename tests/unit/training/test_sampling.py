import numpy as np
import pytest
from scipy import stats

from fedinfer.config import TrainingSection
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.training.noise import gaussian_noise
from fedinfer.training.sampling import minibatches, poisson_rows, uniform


def sources():
    return [np.random.default_rng(1), SimulatedEntropy(1), SystemEntropy()]


@pytest.mark.parametrize("source", [np.random.default_rng(3), SimulatedEntropy(3)], ids=["generator", "entropy"])
def test_gaussian_is_standard_normal(source):
    noise = gaussian_noise(source)
    first, second = noise(100_000).numpy(), noise(100_000).numpy()
    assert first.dtype == np.float32
    assert stats.kstest(first, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@pytest.mark.parametrize("source", [np.random.default_rng(4), SimulatedEntropy(4)], ids=["generator", "entropy"])
def test_uniform_is_uniform(source):
    values = uniform(source, 100_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_equal_seeds_give_equal_draws_and_entropy_does_not_repeat():
    for make in (lambda: SimulatedEntropy(7), lambda: np.random.default_rng(7)):
        np.testing.assert_array_equal(gaussian_noise(make())(9), gaussian_noise(make())(9))
    system = SystemEntropy()
    assert not np.array_equal(gaussian_noise(system)(9), gaussian_noise(system)(9))


def test_poisson_sample_has_the_binomial_size():
    rng = np.random.default_rng(5)
    sizes = [len(poisson_rows(rng, 40, 0.3)) for _ in range(4000)]
    assert np.mean(sizes) == pytest.approx(12, abs=0.2)
    assert np.var(sizes) == pytest.approx(8.4, rel=0.1)


def test_rows_are_independent_in_a_poisson_sample():
    rng = np.random.default_rng(6)
    held = np.zeros((4000, 2))
    for trial in range(4000):
        held[trial] = np.isin([0, 1], poisson_rows(rng, 2, 0.5))
    assert abs(np.corrcoef(held.T)[0, 1]) < 0.06


@pytest.mark.parametrize("source", sources(), ids=["generator", "simulated", "system"])
def test_rate_one_takes_every_row(source):
    assert poisson_rows(source, 4, 1.0).tolist() == [0, 1, 2, 3]
    assert poisson_rows(source, 0, 0.5).tolist() == []


def test_epochs_visit_every_row_once_each():
    batches = minibatches(np.random.default_rng(0), 10, TrainingSection(local_epochs=3, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(np.concatenate(batches[3 * epoch : 3 * epoch + 3])) == list(range(10))


def test_steps_override_epochs_and_go_on_into_further_passes():
    training = TrainingSection(local_epochs=9, local_steps=5, batch_size=4)
    batches = minibatches(np.random.default_rng(0), 10, training)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4]


def test_no_rows_no_batches():
    assert minibatches(np.random.default_rng(0), 0, TrainingSection(local_steps=5)) == []
