import numpy as np
import pytest
import torch
from scipy import stats

from fedinfer.config import TrainingSection
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.training.engines import noise
from fedinfer.training.engines.noise import gaussian_noise, grid_unit
from fedinfer.training.engines.sampling import PrivateSteps, minibatches, poisson_rows, uniform

UNIT = 2.0**-32


def sources():
    return [np.random.default_rng(1), SimulatedEntropy(1), SystemEntropy()]


@pytest.mark.parametrize("source", [np.random.default_rng(3), SimulatedEntropy(3)], ids=["generator", "entropy"])
def test_gaussian_is_standard_normal(source):
    noise, first, second = gaussian_noise(source, UNIT), torch.empty(100_000), torch.empty(100_000)
    noise(first, 3.0)
    noise(second, 1.0)
    first, second = first.numpy(), second.numpy()
    assert stats.kstest(first / 3, "norm").pvalue > 1e-3
    assert stats.kstest(second, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@pytest.mark.parametrize("source", [np.random.default_rng(4), SimulatedEntropy(4)], ids=["generator", "entropy"])
def test_uniform_is_uniform(source):
    values = uniform(source, 100_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_equal_seeds_give_equal_draws_and_entropy_does_not_repeat():
    def drawn(source):
        into = torch.empty(9)
        gaussian_noise(source, UNIT)(into, 1.0)
        return into

    assert torch.equal(drawn(SimulatedEntropy(7)), drawn(SimulatedEntropy(7)))
    assert torch.equal(drawn(np.random.default_rng(7)), drawn(np.random.default_rng(7)))
    assert not torch.equal(drawn(SystemEntropy()), drawn(SystemEntropy()))


@pytest.mark.parametrize("source", sources(), ids=["generator", "simulated", "system"])
def test_no_deviation_no_noise(source):
    into = torch.ones(5)
    gaussian_noise(source, UNIT)(into, 0.0)
    assert into.tolist() == [0.0] * 5


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


def test_the_noise_of_a_real_device_lies_on_the_grid_of_the_sum_and_uses_all_of_it():
    """On a grid of its own a value tells, by its last bits, where the sum without it was (Mironov 2012)."""
    noise = torch.empty(1000, dtype=torch.float64)
    gaussian_noise(SystemEntropy(), UNIT)(noise, 3.0)
    units = noise / UNIT
    assert torch.equal(units, units.trunc())
    assert 0.4 < (units.abs() % 2).mean() < 0.6, "the last bit is a fair coin"
    fits = (noise == noise.float().double()).double().mean()  # 0.6 % have eight zeros or more at their end by chance
    assert fits < 0.04


def test_a_device_rounds_once_with_the_noise_in_the_sum(monkeypatch):
    """Sums of clipped gradients and noise are whole multiples of one unit: they are added without an error."""
    from fedinfer.training.engines import device_by_device

    kept = []

    class Work:
        parameters = [torch.nn.Parameter(torch.zeros(500))]

        def clipped_sum(self, x, y, rows, source):
            return torch.full((500,), 1.0 + 2.0**-32, dtype=torch.float64)

    monkeypatch.setattr(device_by_device, "_set_gradients", lambda parameters, total: kept.append(total))
    monkeypatch.setattr(device_by_device, "_pull", lambda *_: None)
    monkeypatch.setattr(device_by_device, "_optimizer", lambda *_: torch.optim.SGD(Work.parameters, lr=1.0))
    drawn = []

    def recorded(source, unit):
        assert unit == grid_unit(1.0) == 2.0**-32
        noise = gaussian_noise(source, unit)

        def draw(into, deviation):
            noise(into, deviation)
            drawn.append(into.clone())

        return draw

    monkeypatch.setattr(device_by_device, "gaussian_noise", recorded)
    steps = PrivateSteps(1, 0.5, 1.0, 2.0)
    device_by_device._descend_privately(
        Work(), torch.zeros(4, 1), torch.zeros(4), SystemEntropy(), TrainingSection(proximal=0.0), steps
    )
    assert drawn[0].dtype == torch.float64
    expected = (drawn[0] + (1.0 + 2.0**-32)).float() / 2.0
    assert torch.equal(kept[0], expected)


def test_fast_normal_numbers_have_the_normal_distribution_function():
    """By the characteristic function of the cells, without sampling (Gil-Pelaez 1951): within what is promised."""
    cells = noise._cells(1.0).astype(np.float64)
    grid = np.arange(1, 401) * 0.025
    transform = np.array([np.cos(t * cells).mean() for t in grid]) ** 4
    values = np.linspace(-5.0, 5.0, 41)
    waves = np.sin(np.outer(values, grid)) * transform / grid
    found = (
        0.5 + (waves.sum(1) * 0.025 + values * 0.0125) / np.pi
    )  # the trapezoid rule; at 0 the integrand is the value
    np.testing.assert_allclose(found, stats.norm.cdf(values), atol=2e-6)
    assert 4 * np.mean(cells**2) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4, 7, 1000])
def test_fast_normal_numbers_are_orthogonal_sums_of_cells(count):
    quarter = -(-count // 4)
    words = np.frombuffer(SimulatedEntropy(5).take(8 * quarter), "<u2").reshape(4, quarter)
    hadamard = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    expected = np.concatenate(hadamard @ noise._cells(3.0)[words].astype(np.float64))[:count]
    found = noise.standard_normal(SimulatedEntropy(5), count, 3.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
