"""What a session promises, and how many holders and shares it needs.

Rules:
* Up to 20 devices: complete graph, threshold floor(2n / 3) + 1 of n shares (Bonawitz et al. 2017, active server), or as
  many more as the corrupt devices demand. The same while every device would choose half of the others or more.
* More: the fewest holders per device with which `bounds` stays below 2^-40, and the most shares that dropouts allow.
* A sum is opened only with a quorum of signatures, more than half of all honest and all corrupt devices together, so
  that honest devices never open two different sums.
* The session id is a hash of ALL fields; keys, shares, masks and signatures are bound to it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour
from fedinfer.printable import LONGEST_NAME, is_device_name
from fedinfer.secagg import derivations
from fedinfer.secagg.bounds import largest_threshold, log2_failure, may_suffice
from fedinfer.secagg.hypergeometric import SECURITY_BITS, corrupt_among, share_of
from fedinfer.types import DeviceId

COMPLETE_UP_TO = 20
MAX_COHORT = 10_000
MAX_BITS = 32
MAX_DIMENSION = 1 << 27
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """Shape of the graph.

    Args:
        degree: holders that each device draws, or n - 1 for the complete graph.
        threshold: shares that rebuild a secret.
    """

    degree: int
    threshold: int


@lru_cache(maxsize=256)
def choose_graph(n: int, dropout_rate: float, corruption_rate: float, least: int = 0) -> GraphParameters:
    """Fewest holders, and their threshold, that are safe and finish.

    Args:
        n: devices of the cohort, >= 2.
        dropout_rate: share that may drop out, in [0, 1).
        corruption_rate: share that may collude with the server, in [0, 1).
        least: fewest survivors that will be promised; 0: all but the dropouts.

    Raises:
        ConfigError: no graph meets the bounds; the message has the numbers.
    """
    if not (2 <= n <= MAX_COHORT and 0 <= dropout_rate < 1 and 0 <= corruption_rate < 1):
        raise ConfigError(f"no graph for n={n}, dropout rate {dropout_rate}, corruption rate {corruption_rate}")
    dropped, corrupt = share_of(n, dropout_rate), corrupt_among(n, corruption_rate)
    promised = least or n - dropped
    if n > COMPLETE_UP_TO and 2 * quorum_of(n, promised) > n + corrupt:
        # From half of the others on, the complete graph costs little more and needs no probabilistic argument.
        for degree in range(2, (n - 1) // 2):
            threshold = largest_threshold(n, degree, dropped)
            if threshold >= 2 and _is_safe(n, degree, threshold, corrupt, promised):
                return GraphParameters(degree, threshold)
    return _complete(n, dropped, corrupt)


@dataclass(frozen=True, slots=True)
class Session:
    """What the server promises before it asks.

    Args:
        run_id: which run.
        round_id: which private sum of that run.
        purpose: "train", "drift", "gate" or the like.
        model_hash: SHA-256 of the model that the vector was computed from.
        cohort: who is asked, sorted, unique, 2..10,000 names of 1..64 printable ASCII characters.
        degree: holders that each device draws; len(cohort) - 1 for up to 20 devices.
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
        if not 1 <= self.degree < n or (n <= COMPLETE_UP_TO and not self.is_complete):
            raise BadMessage(f"degree {self.degree} for {n} devices: {n - 1} up to {COMPLETE_UP_TO} devices, else less")
        if not 2 <= self.threshold <= self.degree + self.is_complete:
            raise BadMessage(f"threshold {self.threshold} for degree {self.degree}")
        if not 2 <= self.min_survivors <= n:
            raise BadMessage(f"min_survivors {self.min_survivors} for {n} devices")
        if not (1 <= self.bits <= MAX_BITS and 1 <= self.dimension <= MAX_DIMENSION):
            raise BadMessage(f"{self.bits} bits, dimension {self.dimension}")

    @property
    def is_complete(self) -> bool:
        """Everybody holds shares of everybody; then a device also holds one of its own self-mask secret."""
        return self.degree == len(self.cohort) - 1

    @property
    def sid(self) -> bytes:
        """Session id: hash of the encoded session, 32 bytes."""
        return _session_id(self)

    @property
    def least(self) -> int:
        """Devices without which no sum is released: min_survivors, and enough to hold `threshold` shares."""
        return max(self.min_survivors, self.threshold)

    @property
    def quorum(self) -> int:
        """Signatures over the survivor sets without which no device opens anything."""
        return self.threshold if self.is_complete else quorum_of(len(self.cohort), self.least)

    @property
    def holders_bytes(self) -> int:
        """Bytes of one device's choice of holders."""
        return 0 if self.is_complete else -(-len(self.cohort) // 8)


@lru_cache(maxsize=256)
def _session_id(session: Session) -> bytes:
    return derivations.session_id(wire.encode(session))


def quorum_of(n: int, least: int) -> int:
    """Quorum where devices draw their holders: two thirds of all, or the fewest survivors if they are less.

    Args:
        n: devices of the cohort.
        least: fewest survivors that are promised, 2..n.

    Returns:
        Signatures over the survivor sets, at most `least`: else a session with the fewest survivors could not finish.
    """
    return min(least, 2 * n // 3 + 1)


def check_session(session: Session, min_survivors: int, dropout_rate: float, corruption_rate: float) -> None:
    """A device's own floor under what a server may propose; call it before `answer_keys`.

    Args:
        session: the proposal.
        min_survivors: fewest devices in a sum that this device joins.
        dropout_rate: share that may drop out while the graph still keeps this device's vector secret, in [0, 1).
        corruption_rate: share of devices that may collude with the server, in [0, 1).

    Raises:
        Misbehaviour: the proposal protects less than that; the message says which floor bound.
    """
    n, corrupt = len(session.cohort), corrupt_among(len(session.cohort), corruption_rate)
    bound = f"the owner's corruption_rate {corruption_rate:g} bound: {corrupt} of {n} devices may be corrupt"
    if session.min_survivors < min_survivors:
        raise Misbehaviour(
            f"sum over {session.min_survivors} devices proposed, the owner's min_survivors {min_survivors} bound"
        )
    if corrupt and session.least - corrupt < 2:
        raise Misbehaviour(
            f"{bound}, and a sum over {session.least} may then hold one honest vector alone",
            hint="ask more devices, or lower secure_aggregation.dropout_rate",
        )
    if 2 * session.quorum <= n + corrupt:
        raise Misbehaviour(
            f"{bound}; a quorum of {session.quorum} (threshold {session.threshold}, {session.least} survivors) "
            "can then sign two different survivor sets",
            hint="lower secure_aggregation.dropout_rate: more survivors are then promised",
        )
    # Fewer survivors are less safe, so the owner's assumption counts where it leaves fewer than the server promises.
    least = min(session.least, n - share_of(n, dropout_rate))
    if not session.is_complete and not _is_safe(n, session.degree, session.threshold, corrupt, least):
        raise Misbehaviour(
            f"{bound}; degree {session.degree} and threshold {session.threshold} do not protect one vector among "
            f"{least} survivors but for a chance of 2^-{SECURITY_BITS}",
            hint="set the scenario's corruption_rate and dropout_rate at least to the owner's",
        )


@lru_cache(maxsize=256)
def _is_safe(n: int, degree: int, threshold: int, corrupt: int, least: int) -> bool:
    """Whether drawn holders stay below the bound for this `least` and, as it does not rise, for every larger one."""
    if least <= corrupt or threshold > degree:
        return False
    return (
        may_suffice(n, degree, threshold, corrupt, least, SECURITY_BITS)
        and log2_failure(n, degree, threshold, corrupt, least) <= -SECURITY_BITS
    )


def _complete(n: int, dropped: int, corrupt: int) -> GraphParameters:
    # The quorum is the threshold here: above (n + corrupt) / 2 no two survivor sets can both be signed by it.
    threshold = max(2 * n // 3, (n + corrupt) // 2) + 1
    if n - dropped < threshold:
        raise ConfigError(
            f"no safe graph for {n} devices with {dropped} dropouts and {corrupt} corrupt: "
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
