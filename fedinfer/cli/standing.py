"""What `fedinfer server watch` does at each look: orders that need no device, and a coordinator for those that do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fedinfer.cli.output import printable
from fedinfer.deployment import has_work, needs_coordinator, stand_in
from fedinfer.errors import ConfigError, TransportError
from fedinfer.ports import Clock
from fedinfer.simulation import FolderInUse, alone_in
from fedinfer.site import begin_run
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.artifact import Repository
    from fedinfer.site import ServerFolder

DATABASE = "rollout.sqlite"
START_SECONDS = 120.0
"""So long a coordinator that was begun may need until it is alone in the run folder; meanwhile nobody else is in it."""


class Standby:
    """Orders are looked for again and again; a coordinator is begun once for each thing that needs one.

    Args:
        run: folder of the server's runs.
        repository: opens its signed repository.
        server: where a coordinator is begun; None: nowhere, and a start waits for a run.
        clock: time.

    Raises:
        ConfigError: the site keeps its runs in another folder.
    """

    def __init__(
        self, run: Path, repository: Callable[[], Repository], server: ServerFolder | None, clock: Clock
    ) -> None:
        if server is not None and server.run.resolve() != run.resolve():
            raise ConfigError(f"{run} is not the run folder of {server.plan.name}", hint=str(server.run))
        self._run, self._repository, self._server, self._clock = run, repository, server, clock
        self._begun, self._quiet_until = "", 0.0

    def look(self) -> list[str]:
        """Carry out what waits.

        Returns:
            What was done, in lines for people.

        Raises:
            ConfigError: no operators are listed.
            LogTampered: a rollout's state is not the one that its log speaks of.
            StoreError: a file cannot be written.
        """
        begun = (self._run / DATABASE).exists()  # by a run: before there is nothing to order about
        if not begun or self._clock.seconds() < self._quiet_until or not has_work(self._run):
            return []
        lines, need = list[str](), ""
        with suppress(FolderInUse), alone_in(self._run):  # a coordinator carries out orders itself
            lines = [_told(each.to_json()) for each in stand_in(self._run, self._repository, self._clock)]
            need = needs_coordinator(self._run)
        if self._server is not None and need and need != self._begun:
            lines.append(self._begin(self._server, need))
        return [printable(f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ} {line}") for line in lines]

    def _begin(self, server: ServerFolder, need: str) -> str:
        """Once for each need: what a coordinator could not do, the next one cannot either."""
        self._begun = need
        try:
            number = begin_run(server, orders=True)
        except (ConfigError, TransportError) as error:
            self._begun = ""  # the server is down: again when it is up
            return f"no coordinator for a started rollout: {error}"
        self._quiet_until = self._clock.seconds() + START_SECONDS
        return f"run {number} begun: it carries out a started rollout"


def _told(order: Json) -> str:
    why = f" ({order['why']})" if order["why"] else ""
    return f"{order['order']} {order['rollout']} by {order['by']}: {order['standing']}{why}"
