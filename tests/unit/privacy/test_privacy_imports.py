"""A device without the training extra can encode, account and keep its ledger."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
for name in ("scipy", "dp_accounting", "torch", "mpmath"):
    sys.modules[name] = None  # an import of it fails from here on
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "dp_accounting" else real(name, *rest)
from fedinfer.privacy.accounting import audit, calibration, ledger
from fedinfer.privacy.mechanism import clipping, design, encoding, matrix_mechanism, noise
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled, Repeated
from fedinfer.types import Relation
event = Repeated(PoissonSampled(0.01, GaussianEvent(1.0)), 1000)
spent = account([event], 1e-5, Relation.ADD_REMOVE)
print(spent.accountant, round(spent.epsilon, 2))
"""


def test_without_scipy_and_dp_accounting_the_renyi_bound_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    accountant, epsilon = done.stdout.split()
    assert accountant == "rdp"
    assert 1.83 < float(epsilon) < 2.2  # PLD would give 1.83: less is never claimed
