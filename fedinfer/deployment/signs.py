"""What a node tells its agent through a pipe: that the SuperLink answered, that a message waits.

It imports as little as `agent`, which waits for months.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from fedinfer.flower import CONTACT, MESSAGE

if TYPE_CHECKING:
    from fedinfer.ports import Clock


class Signs:
    """The reading end of the node's reports.

    Args:
        descriptor: of the pipe.
        clock: measures the silence, from now.
    """

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._last = clock.seconds()
        self.connected = False
        """Whether the SuperLink ever answered; the node's Runtime API answers from then on."""

    def wait(self, seconds: float) -> bool:
        """Read reports until a message waits for an answer, the time is over, or the node closed its end.

        Args:
            seconds: longest wait, >= 0.

        Returns:
            Whether a message waits.
        """
        end, readable = self._clock.seconds() + seconds, select.poll()
        readable.register(self._descriptor, select.POLLIN)
        while (left := end - self._clock.seconds()) > 0:
            ready = readable.poll(1000 * left)
            reported = os.read(self._descriptor, select.PIPE_BUF) if ready else b""
            if CONTACT in reported:
                self.connected, self._last = True, self._clock.seconds()
            if MESSAGE in reported or not reported:
                return MESSAGE in reported
        return False

    @property
    def silence(self) -> float:
        """Seconds since the SuperLink answered."""
        return self._clock.seconds() - self._last
