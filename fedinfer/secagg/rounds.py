"""What the server holds between two stages of a session, and how it reads answers.

`AwaitKeys -> AwaitShares -> AwaitMasked -> AwaitSurvivors -> AwaitUnmask -> Done | Aborted`. Devices are cohort
positions inside, names at the border. `blamed` names every device whose answer was refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from fedinfer.errors import BadShare, ProtocolAbort, TooFewSurvivors
from fedinfer.secagg.derivations import Scope
from fedinfer.secagg.graph import Relations
from fedinfer.secagg.key_list import Public
from fedinfer.secagg.keys import Stage, unseal
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
        publics: what each member published.
        graph: who holds shares of whom among the members.
    """

    session: Session
    sid: bytes
    key_list: bytes
    publics: Mapping[int, Public]
    graph: Relations

    @property
    def scope(self) -> Scope:
        """What derived values are bound to."""
        return Scope(self.sid, self.key_list, self.session.cohort)

    def name(self, position: int) -> DeviceId:
        """Name of a device.

        Args:
            position: in the cohort, from 0.
        """
        return self.session.cohort[position]

    def names(self, positions: Iterable[int]) -> tuple[DeviceId, ...]:
        """Names of devices, in the same order.

        Args:
            positions: in the cohort, from 0.
        """
        return tuple(self.session.cohort[j] for j in positions)

    def holders(self, position: int) -> list[int]:
        """Who holds shares of a member's secrets, ascending; in a complete graph the member itself, too.

        Args:
            position: of the member in the cohort.
        """
        others: list[int] = self.graph.holders(position).tolist()
        return sorted([*others, position]) if self.session.is_complete else others

    def dealers(self, position: int) -> list[int]:
        """Other members whose shares a member holds, ascending.

        Args:
            position: of the member in the cohort.
        """
        others: list[int] = self.graph.dealers(position).tolist()
        return others

    def partners(self, position: int) -> list[int]:
        """Members that share a mask with a member, ascending.

        Args:
            position: of the member in the cohort.
        """
        others: list[int] = self.graph.partners(position).tolist()
        return others


@dataclass(frozen=True, slots=True)
class AwaitKeys:
    """The session is proposed.

    Args:
        session: the promise.
        roster: enrolled Ed25519 public keys, 32 bytes, by device.
        blamed: devices whose answers were refused so far, with the reasons.
    """

    session: Session
    roster: Mapping[DeviceId, bytes]
    blamed: Blamed = ()


@dataclass(frozen=True, slots=True)
class AwaitShares:
    """The key list is out.

    Args:
        ground: what is fixed once the keys are in.
        blamed: devices whose answers were refused so far, with the reasons.
        asked: members that have enough holders among the members, ascending.
    """

    ground: Ground
    blamed: Blamed
    asked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sharers:
    """Whose shares arrived: with exactly these everybody masks.

    Args:
        members: ascending.
        bitmap: the same, as devices see it.
        digest: hash of session, key list and bitmap: context of every later signature.
    """

    members: tuple[int, ...]
    bitmap: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class AwaitMasked:
    """Boxes are delivered.

    Args:
        ground: what is fixed once the keys are in.
        blamed: devices whose answers were refused so far, with the reasons.
        sharers: with whom everybody masks.
        digests: signed share digests by dealer.
    """

    ground: Ground
    blamed: Blamed
    sharers: Sharers
    digests: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Summed:
    """The masked sum and who is in it.

    Args:
        sharers: with whom everybody masked.
        survivors: whose masked vectors are in `total`, ascending.
        dropped: who shared keys but is not in it, ascending.
        total: sum of masked vectors mod 2^32, uint32, shape (dimension,).
        digests: signed share digests by dealer.
        tags: acknowledgements by survivor and holder.
        request: encoded survivor sets, as every survivor signs them.
    """

    sharers: Sharers
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    total: RingVector
    digests: Mapping[int, bytes]
    tags: Mapping[int, Mapping[int, bytes]]
    request: bytes


@dataclass(frozen=True, slots=True)
class AwaitSurvivors:
    """The survivor sets are out.

    Args:
        ground: what is fixed once the keys are in.
        blamed: devices whose answers were refused so far, with the reasons.
        summed: the masked sum.
    """

    ground: Ground
    blamed: Blamed
    summed: Summed


@dataclass(frozen=True, slots=True)
class AwaitUnmask:
    """A quorum of signatures is collected.

    Args:
        ground: what is fixed once the keys are in.
        blamed: devices whose answers were refused so far, with the reasons.
        summed: the masked sum.
        asked: survivors that signed, ascending; only these are asked for shares.
    """

    ground: Ground
    blamed: Blamed
    summed: Summed
    asked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The exact sum of the survivors' vectors.

    Args:
        total: uint32, shape (dimension,), values below 2^bits.
        survivors: whose vectors are in it.
        blamed: devices whose answers were refused, with the reasons.
    """

    total: RingVector
    survivors: tuple[DeviceId, ...]
    blamed: Blamed


@dataclass(frozen=True, slots=True)
class Aborted:
    """No sum.

    Args:
        reason: why, with numbers.
        stage: at which answers it became certain.
        survivors: devices that were still there.
        blamed: devices whose answers were refused, with the reasons.
        dealers: devices whose own shares do not fit what they published; empty when too few devices are the cause.
    """

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
    context: bytes,
    kind: type[B],
    replies: Mapping[DeviceId, bytes],
    asked: Iterable[int],
    parse: Callable[[int, B], V],
) -> tuple[dict[int, V], Blamed]:
    """Verify, decode and parse the answers of the devices that were asked; all others are ignored.

    Args:
        ground: the session.
        stage: which answers.
        context: what their signatures cover besides: hash of the key list, later of the sharers.
        kind: dataclass of their body.
        replies: encoded answers by name; a missing one is a dropout.
        asked: cohort positions of the devices that may answer.
        parse: gets position and body, checks the body further and makes a value of it; raises `ProtocolAbort`.

    Returns:
        Values by position, and the devices whose answers were refused, with the reasons.
    """
    values: dict[int, V] = {}
    blamed: list[tuple[DeviceId, str]] = []
    limit = answer_limit(ground.session, stage)
    for j in asked:
        name = ground.name(j)
        if name not in replies:
            continue
        try:
            signed = unseal(ground.publics[j].signing_key, stage, name, context, replies[name], limit)
            values[j] = parse(j, open_body(kind, signed.body, limit, ground.sid))
        except ProtocolAbort as error:
            blamed.append((name, str(error)))
    return values, tuple(blamed)


def shortage(ground: Ground, dealers: Iterable[int], available: Callable[[int, int], bool]) -> str:
    """Say why the secrets of `dealers` cannot be rebuilt from the available holders; empty when they can.

    Args:
        ground: the session.
        dealers: cohort positions of the devices whose secrets are needed.
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
