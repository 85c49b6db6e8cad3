"""Joining a run: who a device is, and what it promises and is told before the first round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedinfer.messages.fields import (
    KIB,
    MIB,
    MOST_DEVICES,
    MOST_LIST_BYTES,
    Bytes32,
    CertificateBytes,
    DeviceName,
    DeviceNames,
    RunName,
    Signature,
)
from fedinfer.wire import Most

MOST_DESCRIPTIONS = 8
"""How many descriptions of its table a device tries in its life. Whether a description fits the rows is one bit about
them that no noise covers, so a server may not go on asking."""


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
