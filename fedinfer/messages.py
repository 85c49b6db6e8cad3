"""What coordinator and device say to each other: one frozen dataclass per request and reply.

Every request is two byte strings: `common`, equal for the whole cohort and encoded once, and `own`, for one device.
Encoding, version and size checks are those of fedinfer.wire. The stages of secure aggregation carry the messages of
fedinfer.secagg inside; this module knows only that they are bytes.

Every field of variable length declares its limit, every message its own; `fedinfer.exchanges` says who answers whom. A
text that people read (`Shown`) is made printable and cut on both sides, all else beyond its limit is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, TypeAlias

from fedinfer.types import AggregationMode, DeviceId, FloatVector, Trust, Unit
from fedinfer.wire import MAX_BYTES, Most, Name, Shown

PROTOCOL_VERSION = 3
KIB, MIB = 1 << 10, 1 << 20
MOST_DEVICES = 100_000
"""Devices of one run."""
MOST_ERROR, MOST_REASON = 64, 1000
"""Characters of an error's name and of a reason that one side keeps of what the other says."""
DeviceName: TypeAlias = Annotated[DeviceId, Name()]
DeviceNames: TypeAlias = Annotated[tuple[DeviceName, ...], Most(MOST_DEVICES)]
RunName: TypeAlias = Annotated[str, Most(256)]
Reason: TypeAlias = Annotated[str, Shown(MOST_REASON)]
Bytes32: TypeAlias = Annotated[bytes, Most(32)]
Signature: TypeAlias = Annotated[bytes, Most(64)]
MOST_CERTIFICATE_BYTES, MOST_LIST_BYTES = 512, 4 * MIB
"""Largest encoded certificate and revocation list; 4 MiB are room for a hundred thousand revoked keys."""
CertificateBytes: TypeAlias = Annotated[bytes, Most(MOST_CERTIFICATE_BYTES)]
Files: TypeAlias = Annotated[dict[Annotated[str, Most(512)], Annotated[bytes, Most(MAX_BYTES)]], Most(256)]


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

    MOST_BYTES: ClassVar[int] = KIB
    run_id: RunName
    nonce: Bytes32


@dataclass(frozen=True, slots=True)
class EnrollReply:
    """A device introduces itself.

    Args:
        device: its name, as in its certificate.
        public_key: Ed25519 identity, 32 bytes.
        certificate: fedinfer.secagg.enrolment.Certificate, encoded.
        proof: that it has the key: its signature over fedinfer.secagg.enrolment.Possession, the facts being the
            certificate; 64 bytes.
    """

    MOST_BYTES: ClassVar[int] = KIB
    device: DeviceName
    public_key: Bytes32
    certificate: CertificateBytes
    proof: Signature


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """The task and everybody's certificates.

    Args:
        run_id: the run.
        nonce: 32 fresh bytes that the proof must answer.
        scenario: JSON of the flat scenario.
        schema: JSON of the schema.
        devices, public_keys, certificates: the population, in the same order.
        revocations: the authority's newest list of revoked keys, signed.
        trusted_root: TUF root metadata the device pins when it has none yet.
    """

    MOST_BYTES: ClassVar[int] = 128 * MIB
    run_id: RunName
    nonce: Bytes32
    scenario: Annotated[str, Most(MIB)]
    schema: Annotated[str, Most(64 * MIB)]
    devices: DeviceNames
    public_keys: Annotated[tuple[Bytes32, ...], Most(MOST_DEVICES)]
    certificates: Annotated[tuple[CertificateBytes, ...], Most(MOST_DEVICES)]
    revocations: Annotated[bytes, Most(MOST_LIST_BYTES)]
    trusted_root: Annotated[bytes, Most(MIB)]


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

    MOST_BYTES: ClassVar[int] = KIB
    facts: JoinFacts
    proof: Signature


@dataclass(frozen=True, slots=True)
class Split:
    """How all devices that are asked in a round were grouped at random, each group with a private sum of its own.

    Args:
        groups: how many; 1: the cohort is everybody.
        seed: public, 32 bytes, drawn by the server for this round; empty for one group.
        everyone: sorted ids of all groups together; empty for one group.
    """

    groups: int
    seed: Bytes32
    everyone: DeviceNames


ONE_GROUP = Split(1, b"", ())


@dataclass(frozen=True, slots=True)
class ScheduledRound:
    """Where a sum stands among all training rounds of a run whose noise is correlated (trust central).

    Args:
        coefficients: first column of the strategy matrix: 1, then falling, not negative.
        rounds: of the whole run, those of every allowed trigger included.
        limit: most rounds that one device takes part in.
        separation: least difference between the indices of two rounds that one device takes part in.
        index: of this round, 0..rounds - 1.
    """

    coefficients: Annotated[tuple[float, ...], Most(MIB)]
    rounds: int
    limit: int
    separation: int
    index: int


INDEPENDENT = ScheduledRound((1.0,), 1, 1, 1, 0)
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
        scheduled: which row of correlated noise the server adds; one row of its own for independent noise.
    """

    MOST_BYTES: ClassVar[int] = 32 * MIB
    run_id: RunName
    round_id: RunName
    purpose: Purpose
    mode: AggregationMode
    unit: Unit
    trust: Trust
    cohort: DeviceNames
    degree: int
    threshold: int
    min_survivors: int
    bits: int
    dimension: int
    mechanism: Annotated[bytes, Most(4 * KIB)]
    noise_multiplier: float
    sampling_rate: float
    local_steps: int
    rotation_seed: Bytes32
    work_hash: Bytes32
    split: Split = ONE_GROUP
    scheduled: ScheduledRound = INDEPENDENT


@dataclass(frozen=True, slots=True)
class FitWork:
    """Train from these weights and send a clipped update (unit device) or a clipped gradient sum (unit example).

    Args:
        weights: float32 (d,), the tuned parameters.
        window: inference window after which this round runs; public, it depends on no data.
        clipping_norm: of this round, where it is adaptive; else the device clips to that of its run, whatever is here.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    weights: Annotated[FloatVector, Most(MAX_BYTES)]
    window: int
    clipping_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class ReportWork:
    """Report the histograms of one finished inference window.

    Args:
        window: its number, from 1.
    """

    MOST_BYTES: ClassVar[int] = KIB
    window: int


@dataclass(frozen=True, slots=True)
class GateWork:
    """Canary evaluation: compare a freshly installed model on the device's own rows with the one before it.

    Args:
        version: the model to evaluate; a device that runs another one abstains.
        window: inference window whose rows are used.
    """

    MOST_BYTES: ClassVar[int] = KIB
    version: int
    window: int


@dataclass(frozen=True, slots=True)
class MaskedSumWork:
    """Third stage of a private sum: the work, and what secure aggregation says to all.

    Args:
        work: encoded `FitWork`, `ReportWork` or `GateWork`; its hash is that of the plan.
        secagg: encoded fedinfer.secagg.messages.MaskedRequest.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    work: Annotated[bytes, Most(MAX_BYTES)]
    secagg: Annotated[bytes, Most(64 * KIB)]


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """The one stage of a private sum without masks: mode `ideal` (simulation) and mode `off` (unsafe).

    Args:
        plan: what the server promises.
        work: encoded `FitWork`, `ReportWork` or `GateWork`; its hash is that of the plan.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    plan: SumPlan
    work: Annotated[bytes, Most(MAX_BYTES)]


@dataclass(frozen=True, slots=True)
class PlainReply:
    """A vector in plaintext.

    Args:
        packed: from fedinfer.secagg.packing, with bits and dimension of the plan.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    packed: Annotated[bytes, Most(MAX_BYTES)]


@dataclass(frozen=True, slots=True)
class PushRequest:
    """TUF metadata and target files that bring a device to the newest allowed version.

    Args:
        version: that the device will run.
        files: path below the repository to bytes.
        patch_from: SHA-256 of the model file that a patch among the files starts from; empty: the whole model is there.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    version: int
    files: Files
    patch_from: Annotated[str, Most(64)] = ""


@dataclass(frozen=True, slots=True)
class PushReply:
    """What the device did with a push.

    Args:
        installed: it runs the model.
        version: that is active now.
        reason: why it refused; empty when it did not.
        whole: it could not use the patch and asks for the whole model.
    """

    MOST_BYTES: ClassVar[int] = 16 * KIB
    installed: bool
    version: int
    reason: Reason
    whole: bool = False


@dataclass(frozen=True, slots=True)
class WithdrawRequest:
    """A hint that a version turned out bad. What counts is the list that the repository signed.

    Args:
        version: that is meant.
        files: TUF metadata, path below the repository to bytes; the list of targets among them names what is withdrawn.
    """

    MOST_BYTES: ClassVar[int] = 64 * MIB
    version: int
    files: Files


@dataclass(frozen=True, slots=True)
class WithdrawReply:
    """What serves after a withdrawal.

    Args:
        withdrawn: the signed list names the version, so it neither serves nor is it installed again.
        version: that serves now; 0: none.
        reason: why it was not withdrawn; empty otherwise.
    """

    MOST_BYTES: ClassVar[int] = 16 * KIB
    withdrawn: bool
    version: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Infer on the device's own rows until this window is full.

    Args:
        window: its number, from 1.
    """

    MOST_BYTES: ClassVar[int] = KIB
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

    MOST_BYTES: ClassVar[int] = 9 * MIB
    ready: bool
    version: int
    simulated_rows: int
    simulated_correct: int
    simulated_latencies_us: Annotated[tuple[float, ...], Most(MIB)]


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """Which model do you run?"""

    MOST_BYTES: ClassVar[int] = KIB
    nonce: int


@dataclass(frozen=True, slots=True)
class HealthReply:
    """State of the device.

    Args:
        version: of the model that is active; 0: none.
        slot: in which it lies; empty: none.
        refused: how often the device's ledger refused to spend, in this process.
    """

    MOST_BYTES: ClassVar[int] = KIB
    version: int
    slot: Annotated[str, Shown(8)]
    refused: int
