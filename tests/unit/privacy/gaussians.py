"""Epsilon and noise of plain Gaussian releases: short forms for tests."""

from fedinfer.privacy.accounting.accountant import Spent, account
from fedinfer.privacy.accounting.calibration import calibrate, gaussian_events
from fedinfer.types import Relation

BRACKET = (1e-2, 1e5)


def gaussian_epsilon(z: float, delta: float, rounds: int, rate: float, relation: Relation) -> Spent:
    """What `rounds` releases, each of a Poisson sample at `rate`, cost."""
    return account(gaussian_events(z, rounds, rate), delta, relation)


def gaussian_noise_multiplier(epsilon: float, delta: float, rounds: int, rate: float, relation: Relation) -> float:
    """The least noise multiplier whose releases cost at most `epsilon`."""
    return calibrate(lambda z: gaussian_events(z, rounds, rate), epsilon, delta, relation, BRACKET)
