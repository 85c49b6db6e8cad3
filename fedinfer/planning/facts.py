"""What a plan may know: public figures about a fleet and the description of its columns."""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.coordinator import Population
from fedinfer.data import Federation
from fedinfer.schema import Schema


@dataclass(frozen=True, slots=True)
class Facts:
    """Public figures: devices declare their numbers of rows when they join.

    Args:
        schema: columns and classes.
        devices: how many.
        rows: training rows of all devices.
        least_rows: of the device with the fewest, >= 1.
        held_out: held-out rows of each device, the fewest first.
        in_order: held-out rows come in the order of time, each once before any comes again.
    """

    schema: Schema
    devices: int
    rows: int
    least_rows: int
    held_out: tuple[int, ...]
    in_order: bool

    def population(self, dimension: int) -> Population:
        """As a run is planned with.

        Args:
            dimension: number of tuned parameters.
        """
        return Population(self.devices, self.rows, self.least_rows, dimension, self.schema.classes, schema=self.schema)


def facts_of(federation: Federation) -> Facts:
    """The figures of a simulated fleet.

    Args:
        federation: every device has training rows.
    """
    devices = list(federation.devices.values())
    rows = [len(device.train_y) for device in devices]
    return Facts(
        schema=federation.schema,
        devices=len(devices),
        rows=sum(rows),
        least_rows=min(rows),
        held_out=tuple(sorted(len(device.test_y) for device in devices)),
        in_order=any(device.in_order for device in devices),
    )
