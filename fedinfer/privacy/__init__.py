"""Privacy: events, accounting, calibration, integer mechanisms, ledgers, audits.

The names below are what the other packages and a notebook need; each is explained where it is defined.
"""

from fedinfer.privacy.accounting.accountant import Spent, account, epsilon_as_of_2017, rdp_epsilon
from fedinfer.privacy.accounting.audit import AuditBound, AuditMethod, canary_device_bound, one_run_bound
from fedinfer.privacy.accounting.calibration import calibrate, gaussian_events
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    InPart,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    flatten,
)
from fedinfer.privacy.accounting.events import from_json as read_event
from fedinfer.privacy.accounting.filter import Promise, PromiseLine
from fedinfer.privacy.accounting.group import group_epsilon, with_missing_shares
from fedinfer.privacy.accounting.ledger import ANY_TASK, LEDGER_MIGRATIONS, Budget, Ledger, Protected, Refusal
from fedinfer.privacy.accounting.parallel import either
from fedinfer.privacy.accounting.selection import Repetitions, repetitions_of, selection_epsilon
from fedinfer.privacy.charges import (
    TRAINED,
    WATCHED,
    WindowRows,
    charge,
    encode_promise,
    mechanism_of,
    promise_in,
    protected_of,
    relation_of,
    server_charge,
    split_of,
    strategy_of,
    touching,
)
from fedinfer.privacy.mechanism.clipping import Clipping, FixedClipping, clip_rows, clipping_of
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.encoding import decode, encode, encode_sum
from fedinfer.privacy.mechanism.matrix_mechanism import (
    CorrelatedNoise,
    Factorization,
    Floats,
    Participation,
    factorize,
    next_noise,
    start_noise,
)
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, decoded_sensitivity, rounding_of
from fedinfer.privacy.mechanism.noise import NoiseStream, SecureStream, SimulatedStream, pieces
from fedinfer.privacy.noise_model import Central, Distributed, Local, Noiseless, NoiseModel, Summands, Work, noise_model
from fedinfer.privacy.rounding import at_least, at_most, exactly

__all__ = [
    "ANY_TASK",
    "LEDGER_MIGRATIONS",
    "TRAINED",
    "WATCHED",
    "AuditBound",
    "AuditMethod",
    "Budget",
    "Central",
    "Clipping",
    "CorrelatedNoise",
    "DiscreteGaussianEvent",
    "Distributed",
    "Event",
    "Factorization",
    "FixedClipping",
    "Floats",
    "GaussianEvent",
    "InPart",
    "IntegerMechanism",
    "Ledger",
    "Local",
    "NoiseKind",
    "NoiseModel",
    "NoiseStream",
    "Noiseless",
    "NonPrivate",
    "Participation",
    "PoissonSampled",
    "Promise",
    "PromiseLine",
    "Protected",
    "Refusal",
    "Repeated",
    "Repetitions",
    "Rounding",
    "SecureStream",
    "SimulatedStream",
    "SkellamEvent",
    "Spent",
    "Summands",
    "WindowRows",
    "Work",
    "account",
    "at_least",
    "at_most",
    "calibrate",
    "canary_device_bound",
    "charge",
    "clip_rows",
    "clipping_of",
    "decode",
    "decoded_sensitivity",
    "design",
    "either",
    "encode",
    "encode_promise",
    "encode_sum",
    "epsilon_as_of_2017",
    "exactly",
    "factorize",
    "flatten",
    "gaussian_events",
    "group_epsilon",
    "mechanism_of",
    "next_noise",
    "noise_model",
    "one_run_bound",
    "pieces",
    "promise_in",
    "protected_of",
    "rdp_epsilon",
    "read_event",
    "relation_of",
    "repetitions_of",
    "rounding_of",
    "selection_epsilon",
    "server_charge",
    "split_of",
    "start_noise",
    "strategy_of",
    "touching",
    "with_missing_shares",
]
