"""What coordinator and device say to each other: one frozen dataclass per request and reply.

Every request is two byte strings: `common`, equal for the whole cohort and encoded once, and `own`, for one device.
Encoding, version and size checks are those of fedinfer.wire. The stages of secure aggregation carry the messages of
fedinfer.secagg inside; this module knows only that they are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedinfer.types import AggregationMode, DeviceId, FloatVector, Trust, Unit

PROTOCOL_VERSION = 2


class Kind(StrEnum):
    """Message types as Flower sees them: "<category>.<action>"."""

    ENROLL = "query.enroll"
    JOIN = "query.join"
    KEYS = "query.secagg_keys"
    SHARES = "query.secagg_shares"
    MASKED = "train.masked_update"
    PLAIN = "train.plain_update"
    SURVIVORS = "query.secagg_survivors"
    UNMASK = "query.secagg_unmask"
    PUSH = "query.push"
    WITHDRAW = "query.withdraw"
    WINDOW = "query.window"
    HEALTH = "query.health"


class Purpose(StrEnum):
    """What a private sum is for."""

    TRAIN = "train"
    DRIFT = "drift"
    GATE = "gate"


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """Who are you? Asked once per start of a run.

    Args:
        run_id: the run.
        nonce: 32 fresh bytes that the proof must answer.
    """

    run_id: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class EnrollReply:
    """A device introduces itself.

    Args:
        device: its name, as in its certificate.
        public_key: Ed25519 identity, 32 bytes.
        certificate: the enrolment authority's signature over (device, public_key), 64 bytes.
        proof: that it has the key: its signature over fedinfer.secagg.enrolment.Possession, the facts being the
            certificate; 64 bytes.
    """

    device: DeviceId
    public_key: bytes
    certificate: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """The task and everybody's certificates.

    Args:
        run_id: the run.
        nonce: 32 fresh bytes that the proof must answer.
        scenario: JSON of the flat scenario.
        schema: JSON of the schema.
        devices, public_keys, certificates: the population, in the same order.
        trusted_root: TUF root metadata the device pins when it has none yet.
    """

    run_id: str
    nonce: bytes
    scenario: str
    schema: str
    devices: tuple[DeviceId, ...]
    public_keys: tuple[bytes, ...]
    certificates: tuple[bytes, ...]
    trusted_root: bytes


@dataclass(frozen=True, slots=True)
class JoinFacts:
    """What a device that is in says about itself.

    Args:
        verified: certificates it checked.
        rows: number of its training rows, declared public (docs/privacy-accounting.md); 0 when it never trains.
    """

    verified: int
    rows: int


@dataclass(frozen=True, slots=True)
class JoinReply:
    """The device is in.

    Args:
        facts: what it says about itself.
        proof: its signature over fedinfer.secagg.enrolment.Possession with these facts, 64 bytes.
    """

    facts: JoinFacts
    proof: bytes


@dataclass(frozen=True, slots=True)
class Split:
    """How everybody who is asked in a round was dealt to groups, each with a private sum of its own.

    Args:
        groups: how many; 1: the cohort is everybody.
        seed: public, 32 bytes, drawn by the server for this round; empty for one group.
        everyone: sorted ids of all groups together; empty for one group.
    """

    groups: int
    seed: bytes
    everyone: tuple[DeviceId, ...]


ONE_GROUP = Split(1, b"", ())


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a sum stands among all training rounds of a run whose noise is correlated (trust central).

    Args:
        coefficients: first column of the strategy matrix: 1, then falling, not negative.
        rounds: of the whole run, those of every allowed trigger included.
        limit: most rounds that one device takes part in.
        separation: least difference between the indices of two rounds that one device takes part in.
        index: of this round, 0..rounds - 1.
    """

    coefficients: tuple[float, ...]
    rounds: int
    limit: int
    separation: int
    index: int


INDEPENDENT = Turn((1.0,), 1, 1, 1, 0)
"""Noise of its own: a strategy of one round."""


@dataclass(frozen=True, slots=True)
class SumPlan:
    """What the server promises before it asks for anything; every device of the cohort gets the same bytes.

    Args:
        run_id, round_id: names; `round_id` is the ledger's reference, spent once.
        purpose: what the vector will be.
        mode: protocol, ideal or off.
        unit, trust: what is protected, and who adds noise.
        cohort: sorted device ids.
        degree, threshold, min_survivors: of secure aggregation.
        bits, dimension: of the ring vector.
        mechanism: encoded fedinfer.privacy IntegerMechanism; its bits and padded dimension are those above.
        noise_multiplier: of noise outside the ring (local and central trust); 0 when the noise is in the ring.
        sampling_rate: of examples inside a device, 1 when there is none.
        local_steps: noisy steps that one device makes in one round (local trust, unit example), else 1.
        rotation_seed: public, 32 bytes.
        work_hash: SHA-256 of the work that the masked stage will bring.
        split: where the cohort comes from when a round has several groups; devices check it.
        turn: which row of correlated noise the server adds; one row of its own for independent noise.
    """

    run_id: str
    round_id: str
    purpose: Purpose
    mode: AggregationMode
    unit: Unit
    trust: Trust
    cohort: tuple[DeviceId, ...]
    degree: int
    threshold: int
    min_survivors: int
    bits: int
    dimension: int
    mechanism: bytes
    noise_multiplier: float
    sampling_rate: float
    local_steps: int
    rotation_seed: bytes
    work_hash: bytes
    split: Split = ONE_GROUP
    turn: Turn = INDEPENDENT


@dataclass(frozen=True, slots=True)
class FitWork:
    """Train from these weights and send a clipped update (unit device) or a clipped gradient sum (unit example).

    Args:
        weights: float32 (d,), the tuned parameters.
        window: inference window after which this round runs; tells nothing about anybody.
        clipping_norm: of this round, where it is adaptive; else the device clips to that of its run, whatever is here.
    """

    weights: FloatVector
    window: int
    clipping_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class ReportWork:
    """Report the histograms of one finished inference window."""

    window: int


@dataclass(frozen=True, slots=True)
class GateWork:
    """Judge a freshly installed model on your own rows, beside the one before it.

    Args:
        version: the model to judge; a device that runs another one abstains.
        window: inference window whose rows are used.
    """

    version: int
    window: int


@dataclass(frozen=True, slots=True)
class MaskedSumWork:
    """Third stage of a private sum: the work, and what secure aggregation says to all."""

    work: bytes
    secagg: bytes


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """The one stage of a private sum without masks: mode `ideal` (simulation) and mode `off` (unsafe)."""

    plan: SumPlan
    work: bytes


@dataclass(frozen=True, slots=True)
class PlainReply:
    """A packed vector without masks."""

    packed: bytes


@dataclass(frozen=True, slots=True)
class PushRequest:
    """TUF metadata and target files that bring a device to the newest allowed version.

    Args:
        version: that the device will run.
        files: path below the repository to bytes.
        patch_from: SHA-256 of the model file that a patch among the files starts from; empty: the whole model is there.
    """

    version: int
    files: dict[str, bytes]
    patch_from: str = ""


@dataclass(frozen=True, slots=True)
class PushReply:
    """What the device did with a push.

    Args:
        installed: it runs the model.
        version: that is active now.
        reason: why it refused; empty when it did not.
        whole: it could not use the patch and asks for the whole model.
    """

    installed: bool
    version: int
    reason: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class WithdrawRequest:
    """A hint that a version turned out bad. What counts is the list that the repository signed.

    Args:
        version: that is meant.
        files: TUF metadata, path below the repository to bytes; the list of targets among them names what is withdrawn.
    """

    version: int
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class WithdrawReply:
    """What serves after a withdrawal.

    Args:
        withdrawn: the signed list names the version, so it neither serves nor is it installed again.
        version: that serves now; 0: none.
        reason: why it was not withdrawn; empty otherwise.
    """

    withdrawn: bool
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Infer on your own rows until this window is full."""

    window: int


@dataclass(frozen=True, slots=True)
class WindowReply:
    """A window is full. The simulated facts are empty on a real device: nobody may see them there.

    Args:
        ready: False when the device has no model yet.
        version: model version that served.
        simulated_rows, simulated_correct: rows and correct labels of this window.
        simulated_latencies_us: one latency per row.
    """

    ready: bool
    version: int
    simulated_rows: int
    simulated_correct: int
    simulated_latencies_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """Which model do you run?"""

    nonce: int


@dataclass(frozen=True, slots=True)
class HealthReply:
    """State of the device."""

    version: int
    slot: str
    refused: int
