"""How much one client of a serving device may have at once: connections and requests per second. No sockets here.

A new connection is never turned away for idle ones: where no place is left, the oldest connection that waits for its
client is cut. Some places are kept for health probes: who gets one of them when all others are at work is answered on
the open paths only. So neither idle nor busy clients keep a probe from its answer.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

Address = tuple[str, int]
"""Address and port of the other end of a connection."""
MOST_CONNECTIONS = 512
"""At once, of all clients; below the 1024 file descriptors that a process has by default."""
MOST_CLIENTS = 4096
"""Clients whose rate is remembered; the one that was quiet longest is forgotten."""


@dataclass(frozen=True)
class ServiceLimits:
    """What clients may have.

    Args:
        connections: at once, of all clients.
        reserved: places beyond those, for the open paths.
        per_client: connections of one client at once.
        per_second: requests of one client per second, > 0; the open paths do not count.
        request_seconds: from the opening of a connection, or the first byte of a later request on it, to the last byte
            of that request; and for a client that does not read its answer.
        header_bytes: of the request line and all headers together.
    """

    connections: int = MOST_CONNECTIONS
    reserved: int = 16
    per_client: int = 64
    per_second: float = 1000.0
    request_seconds: float = 20.0
    header_bytes: int = 16 * 2**10


def client_of(host: str) -> str:
    """Who an address stands for: itself, or the /64 network that one IPv6 subscriber has (RFC 4291, 2.5.4).

    Args:
        host: address in text form, with or without a zone; anything else stands for itself.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _never() -> bool:
    return False


@dataclass(slots=True)
class _Seat:
    client: str
    cut: Callable[[], None]
    is_reserved: bool
    is_busy: Callable[[], bool] = _never
    is_attached: bool = False


class Seats:
    """Who is connected. Not for several threads.

    Args:
        limits: what clients may have.
    """

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self._seats: OrderedDict[Address, _Seat] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._reserved = 0

    def __len__(self) -> int:
        return len(self._seats)

    def take(self, address: Address, cut: Callable[[], None]) -> bool:
        """A place for a new connection; False: there is none, and it is to be closed.

        Args:
            address: the other end.
            cut: ends the connection; called when its place is given to another one.
        """
        client = client_of(address[0])
        full = self._counts[client] >= self._limits.per_client
        if (full or self._taken() >= self._limits.connections) and not self._make_room(client if full else ""):
            if self._reserved >= self._limits.reserved and not self._make_room("", reserved=True):
                return False
            self._seat(address, _Seat(client, cut, is_reserved=True))
            return True
        self._seat(address, _Seat(client, cut, is_reserved=False))
        return True

    def attach(self, address: Address, is_busy: Callable[[], bool], cut: Callable[[], None]) -> None:
        """A connection speaks HTTP now.

        Args:
            address: the other end.
            is_busy: whether the next move is the server's: it answers a whole request to a client that reads.
            cut: ends the connection.
        """
        seat = self._seats.get(address)
        if seat is not None:
            seat.is_busy, seat.cut, seat.is_attached = is_busy, cut, True

    def is_attached(self, address: Address) -> bool:
        """Whether a connection speaks HTTP: over TLS only when both sides have agreed on keys.

        Args:
            address: the other end.
        """
        seat = self._seats.get(address)
        return seat is not None and seat.is_attached

    def touch(self, address: Address) -> None:
        """A new request begins: the connection goes to the end of the order in which idle ones are cut.

        Args:
            address: the other end.
        """
        if address in self._seats:
            self._seats.move_to_end(address)

    def is_reserved(self, address: Address) -> bool:
        """Whether a connection sits on a place for the open paths.

        Args:
            address: the other end.
        """
        seat = self._seats.get(address)
        return seat is not None and seat.is_reserved

    def leave(self, address: Address) -> None:
        """Free the place of a connection that is gone; nothing happens when it had none.

        Args:
            address: the other end.
        """
        seat = self._seats.pop(address, None)
        if seat is None:
            return
        if seat.is_reserved:
            self._reserved -= 1
            return
        self._counts[seat.client] -= 1
        if not self._counts[seat.client]:
            del self._counts[seat.client]

    def _taken(self) -> int:
        return len(self._seats) - self._reserved

    def _seat(self, address: Address, seat: _Seat) -> None:
        self.leave(address)
        self._seats[address] = seat
        if seat.is_reserved:
            self._reserved += 1
        else:
            self._counts[seat.client] += 1

    def _make_room(self, client: str, *, reserved: bool = False) -> bool:
        """Cut the oldest idle connection: of `client`, else of who has most. False: nobody is idle."""
        idle = [
            (address, seat)
            for address, seat in self._seats.items()
            if not seat.is_busy() and seat.is_reserved is reserved and client in ("", seat.client)
        ]
        if not idle:
            return False
        most = max(self._counts[seat.client] for _, seat in idle)
        address, seat = next((a, s) for a, s in idle if self._counts[s.client] == most)
        self.leave(address)
        seat.cut()
        return True


class Rates:
    """Requests per second and client, as a bucket of tokens: bursts up to one second's worth pass.

    Args:
        per_second: > 0.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(per_second, 1.0)  # a bucket for less than one token would let nothing pass
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> int:
        """Count a request: 0 when it may pass, else after how many whole seconds the next one may.

        Args:
            client: of `client_of`.
            now: monotonic seconds.
        """
        tokens, before = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - before) * self._per_second)
        passes = tokens >= 1.0
        self._buckets[client] = (tokens - passes, now)
        while len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if passes else max(1, math.ceil((1.0 - tokens) / self._per_second))
