"""Privacy: events, accounting, calibration, integer mechanisms, ledgers, audits.

The names below are what the other packages and a notebook need; each is explained where it is defined.
"""

from fedinfer.privacy.accounting.accountant import Spent, account
from fedinfer.privacy.accounting.calibration import calibrate
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
)
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.privacy.charges import charge, mechanism_of, relation_of, server_charge
from fedinfer.privacy.mechanism.clipping import clip_rows, clipping_of
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding
from fedinfer.privacy.mechanism.noise import NoiseStream, SecureStream, SimulatedStream
from fedinfer.privacy.noise_model import Central, Distributed, Local, Noiseless, NoiseModel, Summands, Work, noise_model
from fedinfer.privacy.rounding import at_least, at_most

__all__ = [
    "LEDGER_MIGRATIONS",
    "Budget",
    "Central",
    "DiscreteGaussianEvent",
    "Distributed",
    "Event",
    "GaussianEvent",
    "IntegerMechanism",
    "Ledger",
    "Local",
    "NoiseKind",
    "NoiseModel",
    "NoiseStream",
    "Noiseless",
    "NonPrivate",
    "PoissonSampled",
    "Repeated",
    "Rounding",
    "SecureStream",
    "SimulatedStream",
    "SkellamEvent",
    "Spent",
    "Summands",
    "Work",
    "account",
    "at_least",
    "at_most",
    "calibrate",
    "charge",
    "clip_rows",
    "clipping_of",
    "mechanism_of",
    "noise_model",
    "relation_of",
    "server_charge",
]
