"""Orders that travel: signed by an operator, for one rollout of one server, carried out once. Pure.

Rules:
* An operator is a name and an Ed25519 key that the server lists. A request of anybody else is refused.
* A request names the server, the rollout and the wave that its operator saw. For another server it is refused;
  `approve` and `resume` are refused when the rollout is in another wave by now. An order that stops something never
  is: it counts in whichever wave the rollout stands.
* A start names the newest rollout that its operator saw. It is refused when another one came since, and while one is
  open: that one ends, or is aborted, first.
* What was carried out, or waits, is refused when it comes again; so is what was signed more than an hour ago, or by a
  clock that is ahead.
* Four eyes: `approve`, `resume` and a start, which let a model go on, may need several operators, each with a request
  of their own within a day. A request that waits counts as long as the server lists its operator with the key that
  signed it, and one key counts once, under however many names. One operator is always enough to stop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar, TypeAlias

from fedinfer.errors import BadMessage, ConfigError
from fedinfer.rollout.controller import Command, Order, RolloutState
from fedinfer.rollout.summary import is_under_way
from fedinfer.wire import Most, Name, Shown, decode, encode

MOST_BYTES = 4096
MOST_AGE_SECONDS = 3600
MOST_WAIT_SECONDS = 86_400
SKEW_SECONDS = 300
"""By how much the clock of an operator may be ahead."""
NONCE_BYTES = 16
FORWARD = frozenset({Order.APPROVE, Order.RESUME})
"""Orders that let a model go on; the others stop it."""
START = "start"
MOST_WAVES = 50
_LABEL = b"fedinfer/order/v1\0"

Verify = Callable[[bytes, bytes, bytes], bool]
"""Public key, message, signature -> whether the signature holds."""


class Standing(StrEnum):
    """What became of a request."""

    SUBMITTED = "submitted"
    WAITING = "waiting"
    DONE = "carried_out"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What an operator asks for.

    Args:
        server: id of the server, from its list of operators.
        rollout: name.
        order: what shall happen.
        wave: that the operator saw as current, from 1.
        by: name of the operator.
        reason: for the log.
        at: seconds since 1970, by the operator's clock.
        nonce: 16 random bytes; two equal orders are two requests.
    """

    server: Annotated[str, Most(64)]
    rollout: Annotated[str, Most(200)]
    order: Order
    wave: int
    by: Annotated[str, Name()]
    reason: Annotated[str, Shown(500)]
    at: int
    nonce: Annotated[bytes, Most(NONCE_BYTES)]


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What an operator asks for who wants a version on the devices: a rollout of its own.

    Args:
        server: id of the server, from its list of operators.
        rollout: newest one that the operator saw; it is over.
        version: that the server's repository holds, >= 1.
        waves: part of the fleet that has the version after each wave, growing to 1; empty: the scenario's.
        by: name of the operator.
        reason: for the log.
        at: seconds since 1970, by the operator's clock.
        nonce: 16 random bytes.

    Raises:
        ConfigError: no version, or waves that do not grow to 1.
    """

    order: ClassVar[str] = START
    wave: ClassVar[int] = 0

    server: Annotated[str, Most(64)]
    rollout: Annotated[str, Most(200)]
    version: int
    waves: Annotated[tuple[float, ...], Most(MOST_WAVES)]
    by: Annotated[str, Name()]
    reason: Annotated[str, Shown(500)]
    at: int
    nonce: Annotated[bytes, Most(NONCE_BYTES)]

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ConfigError(f"version {self.version}: versions are counted from 1")
        grow = all(0 < a < b for a, b in pairwise(self.waves))
        if self.waves and not (grow and self.waves[-1] == 1.0 and len(self.waves) <= MOST_WAVES):
            raise ConfigError(f"waves {', '.join(f'{wave:g}' for wave in self.waves)}: they must grow and end at 1")


Asked: TypeAlias = OrderRequest | StartRequest


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """A request and the signature of its operator.

    Args:
        request: what is asked.
        signature: Ed25519 over a label and the request, 64 bytes.
    """

    request: OrderRequest
    signature: Annotated[bytes, Most(64)]


@dataclass(frozen=True, slots=True)
class SignedStart:
    """As `SignedOrder`, of a start.

    Args:
        request: what is asked.
        signature: Ed25519 over a label and the request, 64 bytes.
    """

    request: StartRequest
    signature: Annotated[bytes, Most(64)]


Signed: TypeAlias = SignedOrder | SignedStart


@dataclass(frozen=True, slots=True)
class Operators:
    """Who may give orders to a server.

    Args:
        server: its id.
        keys: public key of each operator by name, 32 bytes.
        approvers: different operators that must ask for `approve`, `resume` or a start, >= 1.
    """

    server: str
    keys: Mapping[str, bytes]
    approvers: int = 1


@dataclass(frozen=True, slots=True)
class Earlier:
    """A request that was judged before.

    Args:
        signed: as it was handed in.
        standing: what became of it.
    """

    signed: Signed
    standing: Standing

    @property
    def request(self) -> Asked:
        """What was asked for."""
        return self.signed.request


@dataclass(frozen=True, slots=True)
class Judged:
    """What follows from a request.

    Args:
        standing: WAITING, DONE or REFUSED; DONE: `command` is to be given to the rollout, or one is to be started.
        why: of a refusal, or what is waited for; for people.
        by: names of all who asked, separated by commas; empty unless DONE.
        command: in their names; None unless DONE, and for a start.
        together: waiting requests of others for the same thing, which are carried out with it; empty unless DONE.
    """

    standing: Standing
    why: str = ""
    by: str = ""
    command: Command | None = None
    together: tuple[Signed, ...] = ()


def sign_order(request: Asked, sign: Callable[[bytes], bytes]) -> bytes:
    """The bytes of a signed request.

    Args:
        request: to sign.
        sign: Ed25519 signature of a message, with the operator's key.

    Returns:
        At most MOST_BYTES.

    Raises:
        BadMessage: a field is too long, or the operator's name is none.
    """
    signature = sign(_LABEL + encode(request))
    if isinstance(request, StartRequest):
        return encode(SignedStart(request, signature))
    return encode(SignedOrder(request, signature))


def read_order(data: bytes) -> Signed:
    """Read a signed request; its signature is not checked yet.

    Args:
        data: untrusted.

    Raises:
        BadMessage: malformed.
    """
    # A message begins with two letters, its version and the length of its name.
    if data[7:].startswith(SignedStart.__name__.encode()):
        return decode(SignedStart, data, limit_bytes=MOST_BYTES)
    return decode(SignedOrder, data, limit_bytes=MOST_BYTES)


def digest_of(data: bytes) -> str:
    """By what a signed request is known.

    Args:
        data: encoded `SignedOrder`.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    return hashlib.sha256(data).hexdigest()


def judge_request(
    operators: Operators,
    earlier: Sequence[Earlier],
    state: RolloutState | None,
    data: bytes,
    now: int,
    verify: Verify,
) -> Judged:
    """What follows from a signed request; see the module's rules.

    Args:
        operators: who may give orders.
        earlier: all requests that were judged before.
        state: of the newest rollout; None: another one is named.
        data: encoded `SignedOrder`, untrusted.
        now: seconds since 1970.
        verify: checks a signature.

    Returns:
        DONE with a command that the phase of the rollout may still refuse, or for a start without one.
    """
    try:
        signed = read_order(data)
    except BadMessage as error:
        return Judged(Standing.REFUSED, f"it cannot be read: {error}")
    asked = signed.request
    problem = _not_his(operators, signed, verify) or _not_now(earlier, state, asked, now)
    if problem:
        return Judged(Standing.REFUSED, problem)
    together = tuple(each for each in _same(earlier, asked, now) if not _not_his(operators, each, verify))
    names = sorted({asked.by, *(each.request.by for each in together)})
    keys = {operators.keys[name] for name in names}
    forward = isinstance(asked, StartRequest) or asked.order in FORWARD
    if len(keys) < (needed := operators.approvers if forward else 1):
        return Judged(Standing.WAITING, f"{len(keys)} of {needed} operators asked for it")
    by = ", ".join(names)
    command = None if isinstance(asked, StartRequest) else Command(asked.order, by, asked.reason)
    return Judged(Standing.DONE, "", by, command, together)


def _not_his(operators: Operators, signed: Signed, verify: Verify) -> str:
    asked = signed.request
    if asked.server != operators.server:
        return "it is for another server"
    key = operators.keys.get(asked.by)
    if key is None:
        return f"{asked.by!r} is no operator of this server"
    if not verify(key, _LABEL + encode(asked), signed.signature):
        return f"it is not signed with the key of {asked.by!r}"
    return ""


def _not_now(earlier: Sequence[Earlier], state: RolloutState | None, asked: Asked, now: int) -> str:
    if any(each.request == asked and each.standing is not Standing.REFUSED for each in earlier):
        return "it was handed in before"
    if now - asked.at > MOST_AGE_SECONDS:
        return f"it was signed {now - asked.at} s ago, which is too long"
    if asked.at - now > SKEW_SECONDS:
        return f"it was signed {asked.at - now} s in the future: check the operator's clock"
    if state is None:
        return "it is not about the newest rollout of this server"
    if isinstance(asked, StartRequest):
        if is_under_way(state):
            return f"rollout {state.rollout!r} is {state.phase}: it has to end, or be aborted, first"
        return ""
    if asked.order in FORWARD and asked.wave != state.wave + 1:
        return f"its operator saw wave {asked.wave}, the rollout is in wave {state.wave + 1}"
    return ""


def _same(earlier: Sequence[Earlier], asked: Asked, now: int) -> list[Signed]:
    return [
        each.signed
        for each in earlier
        if each.standing is Standing.WAITING
        and _thing(each.request) == _thing(asked)
        and now - each.request.at <= MOST_WAIT_SECONDS
    ]


def _thing(asked: Asked) -> tuple[object, ...]:
    """What is asked for, whoever asks."""
    more = (asked.version, asked.waves) if isinstance(asked, StartRequest) else ()
    return (asked.rollout, asked.order, asked.wave, *more)
