import numpy as np
import pytest

from fedinfer.config import ServerOptimizer
from fedinfer.errors import ConfigError
from fedinfer.training.server_optimizers import OptimizerSettings, OptimizerState, apply, init_optimizer

ADAPTIVE = (ServerOptimizer.FEDADAGRAD, ServerOptimizer.FEDYOGI, ServerOptimizer.FEDADAM)
UPDATES = np.array([[0.5, -1.0, 0.0], [0.25, 2.0, 0.0], [-0.5, 0.5, 1.0]], dtype=np.float32)


def settings(kind, **changes):
    values = {"learning_rate": 0.1, "momentum": 0.9, "beta_2": 0.99, "tau": 1e-3} | changes
    return OptimizerSettings(kind, **values)


def run(kind):
    """Three steps from zero."""
    chosen = settings(kind)
    state, weights = init_optimizer(chosen, 3), np.zeros(3, dtype=np.float32)
    for update in UPDATES:
        state, weights = apply(state, weights, update, chosen)
    return state, weights


def by_hand(kind):
    """Algorithm 2 of Reddi et al. 2021, written coordinate by coordinate in Python floats."""
    result = []
    for column in UPDATES.T.astype(float):
        m, v, x = 0.0, 1e-3**2, 0.0
        for delta in column.tolist():
            m = 0.9 * m + 0.1 * delta
            if kind is ServerOptimizer.FEDADAGRAD:
                v = v + delta**2
            elif kind is ServerOptimizer.FEDYOGI:
                sign = (v > delta**2) - (v < delta**2)
                v = v - 0.01 * delta**2 * sign
            else:
                v = 0.99 * v + 0.01 * delta**2
            x += 0.1 * m / (v**0.5 + 1e-3)
        result.append(x)
    return result


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_adaptive_rules_follow_algorithm_2(kind):
    np.testing.assert_allclose(run(kind)[1], by_hand(kind), rtol=2e-5)


def test_fedavg_adds_the_scaled_mean():
    state, weights = run(ServerOptimizer.FEDAVG)
    np.testing.assert_allclose(weights, 0.1 * UPDATES.sum(axis=0), rtol=1e-6)
    assert state.first.size == state.second.size == 0


def test_momentum_accumulates_velocity():
    velocity, expected = np.zeros(3), np.zeros(3)
    for update in UPDATES:
        velocity = 0.9 * velocity + update
        expected = expected + 0.1 * velocity
    np.testing.assert_allclose(run(ServerOptimizer.FEDAVGM)[1], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", list(ServerOptimizer))
def test_inputs_stay_as_they_are_and_types_are_float32(kind):
    chosen = settings(kind)
    state, weights, update = init_optimizer(chosen, 3), np.ones(3, dtype=np.float32), UPDATES[0].copy()
    before = [state.first.copy(), state.second.copy(), weights.copy()]
    after, moved = apply(state, weights, update, chosen)
    for old, new in zip(before, [state.first, state.second, weights], strict=True):
        np.testing.assert_array_equal(old, new)
    assert moved.dtype == after.first.dtype == after.second.dtype == np.float32


@pytest.mark.parametrize("kind", list(ServerOptimizer))
def test_state_goes_through_arrays_and_back(kind):
    state, weights = run(kind)
    arrays = state.arrays()
    restored = OptimizerState(str(kind), arrays["optimizer_first"], arrays["optimizer_second"])
    _, a = apply(state, weights, UPDATES[0], settings(kind))
    _, b = apply(restored, weights, UPDATES[0], settings(kind))
    np.testing.assert_array_equal(a, b)


def test_wrong_shapes_and_foreign_state_are_refused():
    chosen = settings(ServerOptimizer.FEDADAM)
    with pytest.raises(ConfigError, match=r"\(2,\)"):
        apply(init_optimizer(chosen, 3), np.zeros(3, np.float32), np.zeros(2, np.float32), chosen)
    foreign = init_optimizer(settings(ServerOptimizer.FEDAVG), 3)
    with pytest.raises(ConfigError, match="fedavg"):
        apply(foreign, np.zeros(3, np.float32), np.zeros(3, np.float32), chosen)


def test_every_rule_is_computed_by_hand():
    """A rule without a test of its own is named here."""
    assert set(ServerOptimizer) == {ServerOptimizer.FEDAVG, ServerOptimizer.FEDAVGM, *ADAPTIVE}
