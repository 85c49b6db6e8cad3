"""What a session promises, and how many neighbours and shares it needs.

Rules:
* Up to 20 devices: complete graph, threshold floor(2n / 3) + 1 of n shares (Bonawitz et al. 2017, active server).
* More: the ring of least degree that meets the bounds of `hypergeometric`; the complete graph where no ring does.
* The session id is a hash of ALL fields; keys, shares, masks and signatures are bound to it.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour
from fedinfer.printable import LONGEST_NAME, is_device_name
from fedinfer.secagg.hypergeometric import keeps_secrets_apart, ring_is_safe, search_ring, share_of
from fedinfer.types import DeviceId

COMPLETE_UP_TO = 20
MAX_COHORT = 10_000
MAX_BITS = 32
MAX_DIMENSION = 1 << 27
_HASH_BYTES = 32


class ServerModel(StrEnum):
    """How far the server is trusted to follow the protocol."""

    SEMI_HONEST = "semi_honest"
    SEMI_MALICIOUS = "semi_malicious"


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """Shape of the neighbour graph.

    Args:
        degree: neighbours of each device: even, or n - 1 for the complete graph.
        threshold: shares that rebuild a secret.
    """

    degree: int
    threshold: int


def choose_graph(n: int, dropout_rate: float, corruption_rate: float, server_model: str) -> GraphParameters:
    """Least degree, and its threshold, that are safe and finish.

    Args:
        n: devices of the cohort, >= 2.
        dropout_rate: share that may drop out, in [0, 1).
        corruption_rate: share that may collude with the server, in [0, 1).
        server_model: "semi_honest" or "semi_malicious".

    Raises:
        ConfigError: no graph meets the bounds; the message has the numbers.
    """
    model = _model(server_model)
    if not (2 <= n <= MAX_COHORT and 0 <= dropout_rate < 1 and 0 <= corruption_rate < 1):
        raise ConfigError(f"no graph for n={n}, dropout rate {dropout_rate}, corruption rate {corruption_rate}")
    if n > COMPLETE_UP_TO:
        ring = search_ring(n, dropout_rate, corruption_rate, raised=_may_split(model))
        if ring is not None:
            return GraphParameters(ring.degree, ring.threshold)
    return _complete(n, dropout_rate, corruption_rate, model)


@dataclass(frozen=True, slots=True)
class Session:
    """What the server promises before it asks.

    Args:
        run_id: which run.
        round_id: which private sum of that run.
        purpose: "train", "drift", "gate" or the like.
        model_hash: SHA-256 of the model that the vector was computed from.
        cohort: who is asked, sorted, unique, 2..10,000 names of 1..64 printable ASCII characters.
        degree: neighbours of each device, even or len(cohort) - 1.
        threshold: shares that rebuild a secret, 2..degree (degree + 1 for the complete graph).
        min_survivors: fewest devices in the sum, >= 2.
        bits: width of the ring, 1..32.
        dimension: length of the vector, 1..2^27.
        mechanism_hash: SHA-256 of the privacy mechanism's parameters.

    Raises:
        BadMessage: a field is outside its range.
    """

    run_id: str
    round_id: str
    purpose: str
    model_hash: bytes
    cohort: tuple[DeviceId, ...]
    degree: int
    threshold: int
    min_survivors: int
    bits: int
    dimension: int
    mechanism_hash: bytes

    def __post_init__(self) -> None:
        _check_cohort(self.cohort)
        n = len(self.cohort)
        if len(self.model_hash) != _HASH_BYTES or len(self.mechanism_hash) != _HASH_BYTES:
            raise BadMessage(f"hashes of {len(self.model_hash)} and {len(self.mechanism_hash)} bytes, expected 32")
        if not (1 <= self.degree < n and (self.degree % 2 == 0 or self.degree == n - 1)):
            raise BadMessage(f"degree {self.degree} for {n} devices: must be even, or {n - 1}")
        if not 2 <= self.threshold <= self.degree + self.is_complete:
            raise BadMessage(f"threshold {self.threshold} for degree {self.degree}")
        if not 2 <= self.min_survivors <= n:
            raise BadMessage(f"min_survivors {self.min_survivors} for {n} devices")
        if not (1 <= self.bits <= MAX_BITS and 1 <= self.dimension <= MAX_DIMENSION):
            raise BadMessage(f"{self.bits} bits, dimension {self.dimension}")

    @property
    def is_complete(self) -> bool:
        """All devices are neighbours; then a device also holds a share of its own self-mask seed."""
        return self.degree == len(self.cohort) - 1

    @property
    def sid(self) -> bytes:
        """Session id: SHA-256 of the encoded session, 32 bytes."""
        return hashlib.sha256(b"fedinfer/secagg/v1/session\0" + wire.encode(self)).digest()

    @property
    def least(self) -> int:
        """Devices without which no sum is released: min_survivors, and enough to hold `threshold` shares."""
        return max(self.min_survivors, self.threshold)


def check_session(session: Session, min_survivors: int, dropout_rate: float, corruption_rate: float) -> None:
    """A device's own floor under what a server may propose; call it before `answer_keys`.

    Args:
        session: the proposal.
        min_survivors: fewest devices in a sum that this device joins.
        dropout_rate: dropouts that the graph must stay connected under, in [0, 1).
        corruption_rate: share of devices that may collude with the server, in [0, 1).

    Raises:
        Misbehaviour: the proposal protects less than that.
    """
    n = len(session.cohort)
    if session.min_survivors < min_survivors:
        raise Misbehaviour(f"sum over {session.min_survivors} devices proposed, this device asks for {min_survivors}")
    if session.is_complete:
        safe = 2 * session.threshold > n + share_of(n, corruption_rate)
    else:
        safe = ring_is_safe(n, session.degree, session.threshold, dropout_rate, corruption_rate)
        corrupt = share_of(n, corruption_rate)
        if not keeps_secrets_apart(n, session.least, corrupt, session.degree, session.threshold):
            raise Misbehaviour(
                f"a sum over {session.least} of {n} devices is proposed: with all others left out of the key list, "
                f"{corrupt} corrupt devices could surround one with degree {session.degree} and threshold "
                f"{session.threshold}",
                hint="raise min_survivors: lower secure_aggregation.dropout_rate",
            )
    if not safe:
        raise Misbehaviour(
            f"degree {session.degree} and threshold {session.threshold} do not protect {n} devices of which "
            f"{corruption_rate:.0%} may be corrupt",
            hint="choose_graph(..., server_model='semi_malicious') gives safe values",
        )


def _model(name: str) -> ServerModel:
    try:
        return ServerModel(name)
    except ValueError as error:
        raise ConfigError(f"server model {name!r}", hint="semi_honest or semi_malicious") from error


def _may_split(model: ServerModel) -> bool:
    """True for a server that may tell different survivor sets to different devices."""
    match model:
        case ServerModel.SEMI_MALICIOUS:
            return True
        case ServerModel.SEMI_HONEST:
            return False
        case _:
            assert_never(model)


def _complete(n: int, dropout_rate: float, corruption_rate: float, model: ServerModel) -> GraphParameters:
    threshold = 2 * n // 3 + 1
    dropped, corrupt = share_of(n, dropout_rate), share_of(n, corruption_rate)
    needed = n + corrupt if _may_split(model) else 2 * corrupt
    if n - dropped < threshold or 2 * threshold <= needed:
        raise ConfigError(
            f"no safe graph for {n} devices with {dropped} dropouts and {corrupt} corrupt ({model}): "
            f"{n - dropped} devices stay, {threshold} shares are needed",
            hint="ask more devices, or assume fewer dropouts or corrupt devices",
        )
    return GraphParameters(n - 1, threshold)


def _check_cohort(cohort: tuple[DeviceId, ...]) -> None:
    if not 2 <= len(cohort) <= MAX_COHORT:
        raise BadMessage(f"cohort of {len(cohort)} devices, 2 to {MAX_COHORT} allowed")
    if any(left >= right for left, right in itertools.pairwise(cohort)):
        raise BadMessage("cohort is not sorted and unique")
    for name in cohort:
        if not is_device_name(name):
            raise BadMessage(f"device name {name[:LONGEST_NAME]!r}")
