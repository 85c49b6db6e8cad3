"""Giving a model to a fleet in steps, and rolling it back: bytes and figures in, decision out.

`waves` (who is next), `gates` (is it good?), `controller` (what happens now, pure), `log` (what happened, in a hash
chain), `state` (SQLite), `plan` (the file an operator writes). docs/how-to/rollout.md starts here.
"""

from fedinfer.rollout.controller import (
    INSTALL_FAILURE,
    Action,
    Approval,
    Command,
    Measured,
    Order,
    Phase,
    RolledBack,
    RolloutState,
    Task,
    begin,
    evidence,
    todo,
)
from fedinfer.rollout.evaluations import NORM, WIDTH, gates_of, read_sum
from fedinfer.rollout.gates import Bound, Gate, GateScope, GateSettings
from fedinfer.rollout.plan import read_devices, read_plan
from fedinfer.rollout.state import RolloutStore, status
from fedinfer.rollout.waves import Wave, members, wave_sizes

__all__ = [
    "INSTALL_FAILURE",
    "NORM",
    "WIDTH",
    "Action",
    "Approval",
    "Bound",
    "Command",
    "Gate",
    "GateScope",
    "GateSettings",
    "Measured",
    "Order",
    "Phase",
    "RolledBack",
    "RolloutState",
    "RolloutStore",
    "Task",
    "Wave",
    "begin",
    "evidence",
    "gates_of",
    "members",
    "read_devices",
    "read_plan",
    "read_sum",
    "status",
    "todo",
    "wave_sizes",
]
