"""Private sums: what a device checks before it takes part, and what it is asked to contribute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedinfer.messages.fields import KIB, MIB, Bytes32, DeviceNames, Purpose, RunName
from fedinfer.types import AggregationMode, FloatVector, Trust, Unit
from fedinfer.wire import MAX_BYTES, Most


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
        promise: text of a fedinfer.privacy Promise: all that the run will ever ask for, the same in all its plans.
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
    promise: Annotated[bytes, Most(256 * KIB)] = b""


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
class ThresholdWork:
    """Count held-out rows by class and by what these weights say of them, so that a decision threshold can be chosen.

    Args:
        weights: float32 (d,), the tuned parameters.
        edges: float32, log odds between the bins.
        window: inference window after which this is asked; public, it depends on no data.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    weights: Annotated[FloatVector, Most(MAX_BYTES)]
    edges: Annotated[FloatVector, Most(KIB)]
    window: int


@dataclass(frozen=True, slots=True)
class MaskedSumWork:
    """Third stage of a private sum: the work, and what secure aggregation says to all.

    Args:
        work: encoded `FitWork`, `ReportWork`, `GateWork` or `ThresholdWork`; its hash is that of the plan.
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
        work: encoded `FitWork`, `ReportWork`, `GateWork` or `ThresholdWork`; its hash is that of the plan.
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
