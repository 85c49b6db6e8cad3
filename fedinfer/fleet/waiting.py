"""How long a server waits for devices, in virtual time."""

from __future__ import annotations

from fedinfer.errors import TooFewSurvivors
from fedinfer.fleet.server import VirtualServer

STEP_SECONDS = 900.0
PATIENCE_SECONDS = 7 * 86_400.0


class ClockPatience:
    """Waits in steps, and gives up after a week of virtual time without a release.

    Args:
        server: whose clock moves.
    """

    def __init__(self, server: VirtualServer) -> None:
        self._server, self._since = server, server.now

    def renew(self) -> None:
        """Something was released: the week begins anew."""
        self._since = self._server.now

    def wait(self, wanted: str) -> None:
        """Move the clock on by a step.

        Args:
            wanted: what is waited for, for people.

        Raises:
            TooFewSurvivors: see `check`.
        """
        self._server.now += STEP_SECONDS
        self.check(wanted)

    def check(self, wanted: str) -> None:
        """Give up when nothing was released for too long.

        Args:
            wanted: what is waited for, for people.

        Raises:
            TooFewSurvivors: it was waited for too long.
        """
        if self._server.now - self._since <= PATIENCE_SECONDS:
            return
        registry = self._server.registry
        used_up = int((registry.participations >= registry.most).sum())
        raise TooFewSurvivors(
            f"{len(self._server.releases)} sums released, then 7 virtual days without {wanted}: of {registry.devices} "
            f"devices {used_up} are in {registry.most} sums already, as many as planned",
            hint="more devices, more [fleet.clock] participations, a smaller cohort, or a later deadline_seconds",
        )
