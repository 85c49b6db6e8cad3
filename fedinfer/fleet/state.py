"""The state of a virtual run between two sums: to arrays and JSON, and back.

A sum that was released is never repeated; what came after the last state that was kept happens again with the same
draws, which all follow from the seed, the numbers of sums and jobs, and the generator of the selection, whose place is
part of the state. So a run that goes on ends as one that was never stopped, bit for bit.

Of the registry only devices are kept that somebody asked: the cost follows the work done, not the population.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.fleet.server import VirtualServer
from fedinfer.fleet.tally import Tally
from fedinfer.training import Checkpoint, OptimizerState
from fedinfer.types import Json

Arrays = Mapping[str, npt.NDArray[Any]]


class FleetKeeper(Protocol):
    """Keeps the state of a virtual run."""

    def keep(self, make: Callable[[], Checkpoint]) -> None:
        """Take the state after a sum, or let it pass.

        Args:
            make: the state; it costs as much as devices were asked, so it is made only when it is kept.
        """

    def end(self) -> None:
        """The run is over: nobody will go on with it."""


class NothingKept:
    """Keeper of a run that nobody goes on with."""

    def keep(self, make: Callable[[], Checkpoint]) -> None:
        """As `FleetKeeper.keep`."""

    def end(self) -> None:
        """As `FleetKeeper.end`."""


def to_checkpoint(server: VirtualServer, rng: np.random.Generator, mode: Json, arrays: Arrays) -> Checkpoint:
    """The state after a sum; equal states give equal bytes.

    Args:
        server: of the run.
        rng: of the selection.
        mode: what the kind of rounds remembers besides.
        arrays: the same, as arrays.
    """
    reached = server.reached_target
    facts = {
        "now": server.now,
        "start": server.start,
        "failed": server.failed,
        "tally": asdict(server.tally),
        "releases": server.releases,
        "reached": None if reached is None else reached["release"],
        "optimizer": str(server.state.kind),
        "rng": rng.bit_generator.state,
        "mode": mode,
    }
    own = {"weights": server.weights, **server.state.arrays(), **server.registry.touched()}
    # Metrics may be infinite or unknown, which JSON proper has not: so it is a text in the header.
    return Checkpoint(own | dict(arrays), {"facts": json.dumps(facts)})


def restore(server: VirtualServer, rng: np.random.Generator, kept: Checkpoint) -> Json:
    """Inverse of `to_checkpoint`.

    Args:
        server: at its beginning; it is moved on.
        rng: of the selection; it is moved on.
        kept: as `to_checkpoint` made it.

    Returns:
        What the kind of rounds remembers.

    Raises:
        ConfigError: it is of another run, or malformed.
    """
    arrays = kept.arrays
    if "weights" not in arrays or arrays["weights"].shape != server.weights.shape:
        raise ConfigError("the kept state has the weights of another model", hint="begin a new run")
    try:
        facts = json.loads(kept.header["facts"])
        server.weights = arrays["weights"]
        server.state = OptimizerState(facts["optimizer"], arrays["optimizer_first"], arrays["optimizer_second"])
        server.registry.put_back(arrays)
        server.now, server.start, server.failed = facts["now"], facts["start"], facts["failed"]
        server.tally, server.releases = Tally(**facts["tally"]), facts["releases"]
        reached = facts["reached"]
        server.reached_target = None if reached is None else server.releases[reached - 1]
        rng.bit_generator.state = facts["rng"]
        mode: Json = facts["mode"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"the kept state does not fit this run: {type(error).__name__}: {error}",
            hint="go on with the same scenario and program, or begin a new run",
        ) from error
    return mode


def fingerprint(parts: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of named arrays, types and shapes included.

    Args:
        parts: in any order.
    """
    found = hashlib.sha256()
    for name, array in sorted(parts.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
