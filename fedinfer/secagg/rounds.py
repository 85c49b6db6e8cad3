"""What the server holds between two stages of a session, and how it reads answers.

`AwaitKeys -> AwaitShares -> AwaitMasked -> AwaitSurvivors -> AwaitUnmask -> Done | Aborted`. Devices are cohort
positions inside, names at the border. `blamed` names every device whose answer was refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from fedinfer.errors import BadShare, ProtocolAbort, TooFewSurvivors
from fedinfer.secagg.graph import IntArray
from fedinfer.secagg.keys import KEY_BYTES, Stage, unseal
from fedinfer.secagg.messages import answer_limit, open_body
from fedinfer.secagg.parameters import Session
from fedinfer.types import DeviceId, RingVector

Blamed: TypeAlias = tuple[tuple[DeviceId, str], ...]
B = TypeVar("B")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Ground:
    """What is fixed once the keys are in.

    Args:
        session: the promise.
        sid: its id.
        key_list: hash of the key list.
        publics: published keys by member.
        near: neighbours of every member, ascending.
    """

    session: Session
    sid: bytes
    key_list: bytes
    publics: Mapping[int, bytes]
    near: Mapping[int, IntArray]

    def name(self, position: int) -> DeviceId:
        """Name of a cohort position."""
        return self.session.cohort[position]

    def names(self, positions: Iterable[int]) -> tuple[DeviceId, ...]:
        """Names of cohort positions, in the same order."""
        return tuple(self.session.cohort[j] for j in positions)

    def mask_key(self, position: int) -> bytes:
        """X25519 mask key that a member published."""
        return self.publics[position][:KEY_BYTES]

    def signing_key(self, position: int) -> bytes:
        """Ed25519 signing key that a member published."""
        return self.publics[position][2 * KEY_BYTES : 3 * KEY_BYTES]

    def commitment(self, position: int) -> bytes:
        """Commitment to a member's self-mask seed."""
        return self.publics[position][3 * KEY_BYTES :]

    def holders(self, position: int) -> list[int]:
        """Who holds shares of a member's secrets, ascending."""
        near: list[int] = self.near[position].tolist()
        return sorted([*near, position]) if self.session.is_complete else near


@dataclass(frozen=True, slots=True)
class AwaitKeys:
    """The session is proposed; `roster` holds the enrolled identities."""

    session: Session
    roster: Mapping[DeviceId, bytes]
    blamed: Blamed = ()


@dataclass(frozen=True, slots=True)
class AwaitShares:
    """The key list is out."""

    ground: Ground
    blamed: Blamed


@dataclass(frozen=True, slots=True)
class AwaitMasked:
    """Boxes are delivered. `shared`: who shared keys; `digests`: signed share digests by dealer."""

    ground: Ground
    blamed: Blamed
    shared: tuple[int, ...]
    digests: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Summed:
    """The masked sum and who is in it.

    Args:
        survivors: whose masked vectors are in `total`, ascending.
        dropped: who shared keys but is not in it, ascending.
        total: sum of masked vectors mod 2^32, uint32, shape (dimension,).
        digests: signed share digests by dealer.
        request: encoded survivor sets, as every survivor signs them.
    """

    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    total: RingVector
    digests: Mapping[int, bytes]
    request: bytes


@dataclass(frozen=True, slots=True)
class AwaitSurvivors:
    """The survivor sets are out."""

    ground: Ground
    blamed: Blamed
    summed: Summed


@dataclass(frozen=True, slots=True)
class AwaitUnmask:
    """Signatures are collected; `asked` have enough of them to answer."""

    ground: Ground
    blamed: Blamed
    summed: Summed
    asked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The exact sum of the survivors' vectors: uint32, shape (dimension,), values below 2^bits."""

    total: RingVector
    survivors: tuple[DeviceId, ...]
    blamed: Blamed


@dataclass(frozen=True, slots=True)
class Aborted:
    """No sum. `reason` has the numbers; `survivors` are the devices that were still there."""

    reason: str
    stage: Stage
    survivors: tuple[DeviceId, ...]
    blamed: Blamed
    dealers: tuple[DeviceId, ...] = ()

    def error(self) -> ProtocolAbort:
        """As an error: `BadShare` when bad shares caused it (`dealers` names whose), else `TooFewSurvivors`."""
        kind = BadShare if self.dealers else TooFewSurvivors
        return kind(f"{self.stage}: {self.reason}")


ServerState: TypeAlias = AwaitKeys | AwaitShares | AwaitMasked | AwaitSurvivors | AwaitUnmask | Done | Aborted


def read_answers(
    ground: Ground,
    stage: Stage,
    kind: type[B],
    replies: Mapping[DeviceId, bytes],
    asked: Iterable[int],
    parse: Callable[[int, B], V],
) -> tuple[dict[int, V], Blamed]:
    """Verify, decode and parse the answers of those who were asked; nobody else's is looked at.

    Args:
        ground: the session.
        stage: which answers.
        kind: their body.
        replies: encoded answers by name; a missing one is a dropout.
        asked: who may answer.
        parse: checks a body further and makes a value of it; raises `ProtocolAbort`.

    Returns:
        Values by position, and the devices whose answers were refused.
    """
    values: dict[int, V] = {}
    blamed: list[tuple[DeviceId, str]] = []
    limit = answer_limit(ground.session, stage)
    for j in asked:
        name = ground.name(j)
        if name not in replies:
            continue
        try:
            signed = unseal(ground.signing_key(j), stage, name, ground.key_list, replies[name], limit)
            values[j] = parse(j, open_body(kind, signed.body, limit, ground.sid))
        except ProtocolAbort as error:
            blamed.append((name, str(error)))
    return values, tuple(blamed)


def shortage(ground: Ground, dealers: Iterable[int], available: Callable[[int, int], bool]) -> str:
    """Why the secrets of `dealers` cannot be rebuilt from the available holders; empty when they can.

    Args:
        ground: the session.
        dealers: whose secrets are needed.
        available: tells whether (dealer, holder) can still give a share.
    """
    needed = ground.session.threshold
    for j in dealers:
        holders = ground.holders(j)
        left = sum(available(j, i) for i in holders)
        if left < needed:
            return (
                f"{left} of the {len(holders)} share holders of {ground.name(j)} can still answer, {needed} are needed"
            )
    return ""
