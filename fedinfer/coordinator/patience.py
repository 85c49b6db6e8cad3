"""How long a window waits for devices that really predict; a simulated device is never waited for. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """When to ask again.

    Args:
        least: devices that a report needs, >= 1.
        limit_seconds: longest wait, >= 0; 0: devices are asked once.
        pause_seconds: before devices without a window are asked again, > 0.
    """

    least: int
    limit_seconds: float
    pause_seconds: float

    def pause(self, ready: int, idle: int, waited: float) -> float | None:
        """How long to wait before the others are asked again.

        A device that did not answer is waited for only while a report has too few: it may stay away for good.

        Args:
            ready: devices that have a report, >= 0.
            idle: devices that answered, have a model, and predicted too little so far, >= 0.
            waited: seconds since they were asked first, >= 0.

        Returns:
            Seconds, > 0; None: the window goes on with those that are ready.
        """
        left = self.limit_seconds - waited
        if left <= 0 or (not idle and ready >= self.least):
            return None
        return min(self.pause_seconds, left)


ASKED_ONCE = Patience(1, 0.0, 1.0)
