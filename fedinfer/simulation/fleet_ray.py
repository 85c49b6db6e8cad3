"""The sums of a virtual fleet on Ray: actors that each make the sums of many chunks, from the scenario alone.

A call carries the chunks of one actor, not one message per device; chunks are the same wherever they are computed, and
integers add up in any order, so the record is that of one process, bit for bit.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fedinfer.config import Scenario, from_flat, to_flat
from fedinfer.data import lazy_rows
from fedinfer.errors import ConfigError, MissingExtra, TransportError
from fedinfer.fleet import Bench, Chunk, Workers
from fedinfer.types import RingVector

CONNECT_SECONDS = 10.0
LOCAL_ACTORS = 2
"""Actors of a cluster that is started for one run."""


class RayBenches:
    """Benches on a cluster.

    Args:
        actors: handles of remote benches, at least one.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def sums(self, chunks: Sequence[Chunk]) -> list[RingVector]:
        """As `Workers.sums`: every actor gets every n-th chunk.

        Raises:
            TransportError: an actor failed or was lost.
        """
        import ray

        count = len(self._actors)
        calls = [actor.sums.remote(chunks[place::count]) for place, actor in enumerate(self._actors[: len(chunks)])]
        try:
            made = ray.get(calls)
        except ray.exceptions.RayError as error:
            raise TransportError(
                f"Ray: {str(error)[-800:]}", hint="run with --engine local to see the cause"
            ) from error
        return [made[number % count][number // count] for number in range(len(chunks))]


@contextmanager
def ray_benches(scenario: Scenario, address: str) -> Iterator[Workers]:
    """Connect to Ray, or start it on this machine, and stop what was started.

    Args:
        scenario: of the run.
        address: of an existing cluster, `host:port` or `ray://host:port`, whose machines have this version of fedinfer
            and see its files at the same paths; empty: a cluster of its own.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigError: no cluster answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("engine ray needs Ray", hint="pip install 'fedinfer[ray]'")
    if address:
        _check_reachable(address)
    import ray

    own: dict[str, Any] = {"address": address} if address else {"num_cpus": LOCAL_ACTORS, "include_dashboard": False}
    try:
        ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster at {address!r}: {error}", hint="`ray start --head` prints the address"
        ) from error
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = max(1, int(resources.get("CPU", 1)))
        remote = ray.remote(num_cpus=1)(_RemoteBench)
        yield RayBenches([remote.remote(to_flat(scenario)) for _ in range(count)])
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for a minute and then ends the process when nobody answers.

    Raises:
        ConfigError: no host and port, or nobody listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    hint = "`ray start --head` prints the address, HOST:PORT"
    if not host or not port.isdigit():
        raise ConfigError(f"--address {address!r} is no HOST:PORT", hint=hint)
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}", hint=hint) from error


class _RemoteBench:
    """A bench in a process of its own."""

    def __init__(self, flat: dict[str, Any]) -> None:
        scenario = from_flat(flat)
        self._bench = Bench(scenario, lazy_rows(scenario))

    def sums(self, chunks: Sequence[Chunk]) -> list[RingVector]:
        """As `Bench.sums`."""
        return self._bench.sums(chunks)
