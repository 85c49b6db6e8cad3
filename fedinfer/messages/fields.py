"""Kinds of messages and of their fields, and how large each may be."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

from fedinfer.types import DeviceId
from fedinfer.wire import MAX_BYTES, Most, Name, Shown

PROTOCOL_VERSION = 5
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
    THRESHOLD = "threshold"
