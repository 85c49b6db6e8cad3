"""What a mechanism did, as immutable values with a JSON form; every ledger is a list of these.

Conventions (each has a test):
* Norms and noise multipliers are for the relation add-or-remove-one (equally zero-out-one): one unit of privacy moves
  the sum by at most `l2` (Gaussian: the clipping norm, which is 1 after division). Accounting doubles them for
  replace-one.
* Integer noise is described in integer units, after scaling and rounding, and counts only the shares that are
  guaranteed: honest devices among the least number of survivors.
* `PoissonSampled` wraps one noise event, nothing else: amplification is proved for those only.
* `InPart` says which units an event touches, where units fall into parts that are fixed beforehand: `parallel` has the
  theorem. An event without it touches every unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TypeAlias, assert_never

from fedinfer.errors import ConfigError
from fedinfer.types import Json, Relation

_LEAST, _MOST = 1e-60, 1e60
"""Sizes that mean anything lie far inside; the fourth powers in the bounds neither overflow nor underflow within."""


def moved(relation: Relation) -> float:
    """How far one unit moves a sum under a relation, in the norms that events hold.

    Args:
        relation: neighbouring relation.

    Returns:
        1 where one neighbour has a zero in place of the unit's vector; 2 where both have a vector of the clipping norm.
    """
    match relation:
        case Relation.ADD_REMOVE | Relation.ZERO_OUT:
            return 1.0
        case Relation.REPLACE_ONE:
            return 2.0
        case _:
            assert_never(relation)


def _positive(event: str, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and _LEAST <= value <= _MOST):
            raise ConfigError(f"{event}: {name} must be positive, within [{_LEAST:g}, {_MOST:g}], got {value}")


@dataclass(frozen=True, slots=True)
class GaussianEvent:
    """Continuous Gaussian noise on a sum.

    Args:
        noise_multiplier: standard deviation of the noise divided by the clipping norm, > 0.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive("gaussian", noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class SkellamEvent:
    """Symmetric Skellam noise on a sum of integer vectors.

    Args:
        variance: guaranteed variance of the summed noise, per coordinate, integer units.
        l2, l1: largest norms of one unit's integer vector.
        dimension: coordinates of the vector; 0 in ledgers of earlier versions, which did not keep it.
    """

    variance: float
    l2: float
    l1: float
    dimension: int = 0

    def __post_init__(self) -> None:
        _positive("skellam", variance=self.variance, l2=self.l2, l1=self.l1)
        if isinstance(self.dimension, bool) or not isinstance(self.dimension, int) or self.dimension < 0:
            raise ConfigError(f"skellam: dimension {self.dimension!r} is no whole number >= 0")


@dataclass(frozen=True, slots=True)
class DiscreteGaussianEvent:
    """A sum of independent discrete Gaussian shares on a sum of integer vectors.

    Args:
        variance_per_share: parameter sigma^2 of one share, integer units.
        shares: number of guaranteed shares, >= 1.
        l2, l1: largest norms of one unit's integer vector.
        dimension: coordinates of the vector: the gap to one discrete Gaussian grows with it.
    """

    variance_per_share: float
    shares: int
    l2: float
    l1: float
    dimension: int

    def __post_init__(self) -> None:
        _positive("discrete_gaussian", variance_per_share=self.variance_per_share, l2=self.l2, l1=self.l1)
        counts = (self.shares, self.dimension)
        if any(isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in counts):
            raise ConfigError(
                f"discrete_gaussian: {self.shares!r} shares, {self.dimension!r} coordinates; needed are numbers >= 1"
            )


Noise: TypeAlias = GaussianEvent | SkellamEvent | DiscreteGaussianEvent


@dataclass(frozen=True, slots=True)
class PoissonSampled:
    """A noise event on a sum over units that each take part independently with probability `rate`, in secret.

    Args:
        rate: q, in (0, 1].
        event: the noise; sampled or repeated events are refused, because no amplification theorem covers them.
    """

    rate: float
    event: Noise

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(f"sampling rate {self.rate} is outside (0, 1]")
        if not isinstance(self.event, GaussianEvent | SkellamEvent | DiscreteGaussianEvent):
            raise ConfigError(f"no amplification theorem covers {type(self.event).__name__} under Poisson sampling")


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """A release without protection: epsilon is infinite from here on."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """`count` adaptive repetitions of an event, each with fresh noise and fresh sampling.

    Args:
        event: any event, also one that is made of others.
        count: >= 0.
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"an event cannot be repeated {self.count} times")


@dataclass(frozen=True, slots=True)
class Composed:
    """Several events after each other, each of which may depend on what the earlier ones released.

    Args:
        events: in any order.
    """

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class InPart:
    """An event that touches only the units in one part of a split, whatever it releases.

    Args:
        split: names a division of all units into parts, fixed before anything is released; not empty.
        name: of the part; every unit is in one part of a split at most.
        event: any event but another part.
    """

    split: str
    name: str
    event: Event

    def __post_init__(self) -> None:
        if not (isinstance(self.split, str) and isinstance(self.name, str) and self.split and self.name):
            raise ConfigError(f"a part needs the names of a split and of itself, got {self.split!r}, {self.name!r}")


Event: TypeAlias = (
    GaussianEvent | SkellamEvent | DiscreteGaussianEvent | PoissonSampled | NonPrivate | Repeated | Composed | InPart
)
Plain: TypeAlias = GaussianEvent | SkellamEvent | DiscreteGaussianEvent | PoissonSampled | NonPrivate
"""An event that is not made of others and touches every unit."""
Single: TypeAlias = Plain | InPart
"""An event that is not made of others; an `InPart` holds one `Plain` event then."""


def flatten(events: Sequence[Event]) -> tuple[tuple[Single, int], ...]:
    """Equal events with their counts, in a fixed order: what accounting depends on, and nothing else.

    Args:
        events: any events; order and grouping do not matter (composition is commutative).

    Returns:
        Pairs (event, count >= 1), sorted by JSON form. Sampling at rate 1 is dropped.
    """
    counts: dict[Single, int] = {}
    for event in events:
        _count(event, 1, None, counts)
    return tuple(sorted(((event, n) for event, n in counts.items() if n), key=lambda pair: place_of(pair[0])))


@lru_cache(maxsize=4096)
def place_of(event: Single) -> str:
    """What events of a history are sorted by: their text, kept, because a ledger asks for the same few again and again.

    Args:
        event: one that is not made of others.
    """
    return event_to_json(event)


def _count(event: Event, times: int, part: InPart | None, counts: dict[Single, int]) -> None:
    if isinstance(event, Repeated):
        _count(event.event, times * event.count, part, counts)
    elif isinstance(event, Composed):
        for each in event.events:
            _count(each, times, part, counts)
    elif isinstance(event, InPart):
        if part is not None:
            raise ConfigError(f"part {event.name!r} of {event.split!r} inside part {part.name!r} of {part.split!r}")
        _count(event.event, times, event, counts)
    else:
        plain = event.event if isinstance(event, PoissonSampled) and event.rate == 1 else event
        single = plain if part is None else InPart(part.split, part.name, plain)
        counts[single] = counts.get(single, 0) + times


_SIMPLE: dict[str, type[GaussianEvent | SkellamEvent | DiscreteGaussianEvent | NonPrivate]] = {
    "gaussian": GaussianEvent,
    "skellam": SkellamEvent,
    "discrete_gaussian": DiscreteGaussianEvent,
    "non_private": NonPrivate,
}
_NAMES = {kind: name for name, kind in _SIMPLE.items()}


def to_json(event: Event) -> Json:
    """A JSON object that `from_json` reads back.

    Args:
        event: any event.

    Returns:
        A new dict with the key "kind"; numbers are kept as they are, so that the cost does not change on the way.
    """
    if isinstance(event, PoissonSampled):
        return {"kind": "poisson_sampled", "rate": event.rate, "event": to_json(event.event)}
    if isinstance(event, Repeated):
        return {"kind": "repeated", "count": event.count, "event": to_json(event.event)}
    if isinstance(event, Composed):
        return {"kind": "composed", "events": [to_json(part) for part in event.events]}
    if isinstance(event, InPart):
        return {"kind": "part", "split": event.split, "name": event.name, "event": to_json(event.event)}
    fields = {"kind": _NAMES[type(event)], **asdict(event)}
    if isinstance(event, SkellamEvent) and not event.dimension:  # as earlier ledgers have it: equal events, equal text
        del fields["dimension"]
    return fields


def from_json(data: Json) -> Event:
    """Inverse of `to_json`.

    Args:
        data: what `to_json` made, or what was read from a file.

    Raises:
        ConfigError: when the object is not an event; nothing is guessed.
    """
    try:
        fields = dict(data)
        kind = fields.pop("kind")
        if kind == "poisson_sampled":
            return PoissonSampled(float(fields.pop("rate")), from_json(fields.pop("event")), **fields)  # type: ignore[arg-type]  # the constructor checks the kind
        if kind == "repeated":
            return Repeated(from_json(fields.pop("event")), int(fields.pop("count")), **fields)
        if kind == "composed":
            return Composed(tuple(from_json(part) for part in fields.pop("events")), **fields)
        if kind == "part":
            return InPart(event=from_json(fields.pop("event")), **fields)
        return _SIMPLE[kind](**fields)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(f"event cannot be read: {error!r}") from error


def event_to_json(event: Event) -> str:
    """Canonical text of an event: equal events give equal text.

    Args:
        event: any event.

    Returns:
        JSON with sorted keys and no spaces; the ledger tells events apart by it.
    """
    return json.dumps(to_json(event), sort_keys=True, separators=(",", ":"))


def event_from_json(text: str) -> Event:
    """Inverse of `event_to_json`.

    Args:
        text: what `event_to_json` made.

    Raises:
        ConfigError: when the text is not an event.
    """
    try:
        return from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"event cannot be read: {error}") from error
