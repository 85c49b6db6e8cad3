"""What a device's ledger is asked before its rows are touched, with the parts into which the device divides them."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.device.host import Host
from fedinfer.errors import Misbehaviour
from fedinfer.messages import SumPlan
from fedinfer.privacy import Refusal, WindowRows, charge, promise_in, split_of
from fedinfer.types import DeviceId


def divided(host: Host, devices: Sequence[DeviceId]) -> dict[str, list[DeviceId]]:
    """Devices by how their rows are divided into parts; under the empty name where there are no parts.

    Args:
        host: has joined a run.
        devices: of this process.
    """
    found: dict[str, list[DeviceId]] = {}
    apart = split_of(host.joined().scenario, WindowRows.HELD_OUT)
    for device in devices:
        found.setdefault(host.rows.division(device) if apart else "", []).append(device)
    return found


def charged(
    host: Host, plan: SumPlan, split: str, devices: Sequence[DeviceId]
) -> tuple[dict[DeviceId, Refusal | None], list[DeviceId]]:
    """The ledger's verdicts; who divided its rows otherwise when the run began may not go on with it.

    The server counts every row of a run in one part. A row that moved from one to the other would be in both.

    Args:
        host: wiring of this process.
        plan: checked.
        split: how the rows of these devices are divided.
        devices: whose part is asked for.

    Returns:
        None, or why not, by device; and who leaves the run because its rows moved.
    """
    before = host.ledger.splits(devices, plan.run_id) if split else {}
    moved = [device for device in devices if before.get(device, frozenset()) - {split}]
    refused = Misbehaviour(
        "the rows of this device are divided otherwise than when the run began: its table or its task has changed",
        hint="join a new run; what this run spent stays spent",
    )
    verdicts: dict[DeviceId, Refusal | None] = dict.fromkeys(moved, refused)
    staying, reason = [device for device in devices if device not in moved], f"{plan.purpose} {plan.round_id}"
    if staying:
        promise, now = promise_in(plan, split), host.clock.now()
        verdicts |= host.ledger.reserve(
            staying, plan.run_id, plan.round_id, charge(plan, split), reason, now, promise=promise
        )
    return verdicts, moved
