"""Every message of a session: one frozen dataclass per question and per answer, encoded with `fedinfer.wire`.

Rules:
* A question has a part common to the cohort and a part of its own; a `StageRequest` carries both, encoded.
* Every answer is a `Signed` body: by the identity key at the keys stage, later by the signing key published there.
* Sets of devices are bitmaps over the session's cohort; fixed-size items are concatenated in ascending order.
* Every message names the session; from the shares stage on the signature also covers the key list, and from the masked
  stage on the sharers. They are checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from fedinfer import wire
from fedinfer.errors import BadMessage
from fedinfer.secagg import derivations
from fedinfer.secagg.derivations import TAG_BYTES
from fedinfer.secagg.keys import DIGEST_BYTES, KEY_BYTES, SIGNATURE_BYTES, Stage
from fedinfer.secagg.packing import packed_size
from fedinfer.secagg.parameters import Session
from fedinfer.secagg.shamir import SHARE_BYTES

PUBLIC_BYTES = 3 * KEY_BYTES + DIGEST_BYTES
"""Published by a device: mask key, box key (X25519), signing key (Ed25519), commitment to the self-mask seed."""
BOX_BYTES = 2 * SHARE_BYTES + 16
"""One encrypted pair of shares: of the self-mask seed and of the mask key, and the AES-GCM tag."""
DIGEST_PAIR_BYTES = 2 * TAG_BYTES
"""Digests of the two shares of one holder."""
_OVERHEAD_BYTES = 512
"""Names, lengths, hashes and signatures around the variable parts of any message."""


@dataclass(frozen=True, slots=True)
class StageRequest:
    """One question to one device.

    Args:
        stage: which of the five.
        common: encoded, equal for the whole cohort.
        own: encoded, for this device only; empty where a stage has no such part.
    """

    stage: Stage
    common: bytes
    own: bytes = b""


@dataclass(frozen=True, slots=True)
class KeysRequest:
    """Keys, common.

    Args:
        session: that is proposed.
    """

    session: Session


@dataclass(frozen=True, slots=True)
class KeysBody:
    """Keys, answer.

    Args:
        sid: session id.
        public: mask key, box key, signing key, commitment (128 bytes).
        holders: bitmap of the devices that shall hold the sender's shares; empty for a complete graph.
    """

    sid: bytes
    public: bytes
    holders: bytes


@dataclass(frozen=True, slots=True)
class KeyList:
    """Shares, common: all signed key messages. Its hash is bound into everything that follows.

    Args:
        sid: session id.
        members: bitmap of the devices whose keys follow.
        publics: PUBLIC_BYTES per member, as in `KeysBody`, ascending.
        holders: one bitmap per member, ascending; empty in a complete graph.
        signatures: of the members' identity keys, 64 bytes each, ascending.
    """

    sid: bytes
    members: bytes
    publics: bytes
    holders: bytes
    signatures: bytes


@dataclass(frozen=True, slots=True)
class SharesBody:
    """Shares, answer.

    Args:
        sid: session id.
        boxes: BOX_BYTES per other holder of the sender's shares, ascending.
        digests: DIGEST_PAIR_BYTES per holder, itself included in a complete graph, ascending.
    """

    sid: bytes
    boxes: bytes
    digests: bytes


@dataclass(frozen=True, slots=True)
class MaskedRequest:
    """Masked vector, common: with whom to mask.

    Args:
        sid: session id.
        key_list: hash of the key list.
        sharers: bitmap of the devices whose shares arrived; with exactly these a device masks.
    """

    sid: bytes
    key_list: bytes
    sharers: bytes


@dataclass(frozen=True, slots=True)
class Inbox:
    """Masked vector, own.

    Args:
        boxes: BOX_BYTES from each sharer that chose this device as a holder, ascending.
    """

    boxes: bytes


@dataclass(frozen=True, slots=True)
class MaskedBody:
    """Masked vector, answer.

    Args:
        sid: session id.
        vector: packed ring vector.
        unopened: bitmap of the dealers whose boxes did not open.
        tags: acknowledgement of the sharers for each other holder of the sender among them (16 bytes), ascending.
    """

    sid: bytes
    vector: bytes
    unopened: bytes
    tags: bytes


@dataclass(frozen=True, slots=True)
class SurvivorSets:
    """Survivors, common: who is in the sum, and which sharer is not.

    The answer at the survivors stage is a signature over exactly these bytes.

    Args:
        sid: session id.
        key_list: hash of the key list.
        survivors: bitmap of the devices whose masked vectors are in the sum.
        dropped: bitmap of the other sharers.
    """

    sid: bytes
    key_list: bytes
    survivors: bytes
    dropped: bytes


@dataclass(frozen=True, slots=True)
class UnmaskRequest:
    """Unmask, common: the proof that a quorum saw the same survivor sets.

    Args:
        sid: session id.
        sets: encoded `SurvivorSets`, byte by byte as they were signed.
        signers: bitmap of the devices whose signatures follow.
        signatures: 64 bytes each, ascending.
    """

    sid: bytes
    sets: bytes
    signers: bytes
    signatures: bytes


@dataclass(frozen=True, slots=True)
class Acknowledgements:
    """Unmask, own.

    Args:
        tags: 16 bytes for this device from each survivor that it holds shares of, ascending.
    """

    tags: bytes


@dataclass(frozen=True, slots=True)
class UnmaskBody:
    """Unmask, answer.

    Args:
        sid: session id.
        dealers: bitmap of the devices of which a share follows.
        shares: one per dealer: of the self-mask secret of a survivor, of the mask key of a dropped device.
        withheld: bitmap of the survivors whose acknowledgement does not fit.
    """

    sid: bytes
    dealers: bytes
    shares: bytes
    withheld: bytes


T = TypeVar("T")


def open_body(kind: type[T], data: bytes, limit_bytes: int, sid: bytes) -> T:
    """Decode a message and check that it belongs to a session.

    Args:
        kind: dataclass that is expected, with a field `sid`.
        data: the message as it came.
        limit_bytes: longest message that is read.
        sid: session id that it must name.

    Raises:
        BadMessage: undecodable, too long, or of another session.
    """
    body = wire.decode(kind, data, limit_bytes=limit_bytes)
    found = getattr(body, "sid", None)
    if found != sid:
        raise BadMessage(f"{kind.__name__} of another session ({bytes(found or b'').hex()[:16]}, not {sid.hex()[:16]})")
    return body


def key_list_hash(key_list: KeyList) -> bytes:
    """Hash of a key list as it is sent.

    Args:
        key_list: of any session.

    Returns:
        32 bytes.
    """
    return derivations.key_list_hash(key_list.sid, wire.encode(key_list))


def answer_limit(session: Session, stage: Stage) -> int:
    """Largest answer that a server reads at a stage.

    Args:
        session: the promise; cohort, degree, bits and dimension set the size.
        stage: which answer.

    Returns:
        Bytes.
    """
    n, holders = len(session.cohort), session.degree + 1
    variable = {
        Stage.KEYS: PUBLIC_BYTES + n,
        Stage.SHARES: holders * (BOX_BYTES + DIGEST_PAIR_BYTES),
        Stage.MASKED: packed_size(session.bits, session.dimension) + n + holders * TAG_BYTES,
        Stage.SURVIVORS: n,
        Stage.UNMASK: n * SHARE_BYTES + n,
    }
    return variable[stage] + _OVERHEAD_BYTES


def request_limit(session: Session) -> int:
    """Largest part of a request that a device reads, at any stage.

    Args:
        session: the promise.

    Returns:
        Bytes.
    """
    n = len(session.cohort)
    each = PUBLIC_BYTES + SIGNATURE_BYTES + BOX_BYTES + 80 + session.holders_bytes
    return n * each + 4 * _OVERHEAD_BYTES


def read_session(common: bytes) -> Session:
    """Read the session in the common part of a keys request.

    Args:
        common: encoded `KeysRequest`, at most 1 MiB.

    Raises:
        BadMessage: undecodable or outside the bounds of `Session`.
    """
    return wire.decode(KeysRequest, common, limit_bytes=1 << 20).session


def split(data: bytes, size: int, count: int, what: str) -> list[bytes]:
    """Cut bytes into items of one size.

    Args:
        data: the items, one after the other.
        size: bytes of one item, >= 1.
        count: expected items.
        what: name of the items, for the message.

    Raises:
        BadMessage: the length is not exactly count * size.
    """
    if len(data) != size * count:
        raise BadMessage(f"{what}: {len(data)} bytes, expected {count} x {size}")
    return [data[at : at + size] for at in range(0, len(data), size)]
