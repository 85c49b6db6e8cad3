"""Giving a model to a fleet in steps, and rolling it back: bytes and figures in, decision out.

`waves` (who is next), `gates` (is it good?), `controller` (what happens now, pure), `log` (what happened, in a hash
chain), `state` (SQLite), `plan` (the file an operator writes), `requests`,
`operators` and `inbox` (signed orders). docs/how-to/rollout.md starts here.
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
from fedinfer.rollout.inbox import Begin, Handled, OrderInbox
from fedinfer.rollout.operators import OPERATORS, admit_operator, dismiss_operator, read_operators
from fedinfer.rollout.plan import read_devices, read_plan
from fedinfer.rollout.requests import (
    NONCE_BYTES,
    START,
    Asked,
    Operators,
    OrderRequest,
    Standing,
    StartRequest,
    sign_order,
)
from fedinfer.rollout.state import RolloutStore
from fedinfer.rollout.summary import is_under_way, possible_orders, status
from fedinfer.rollout.tables import WENT_BACK
from fedinfer.rollout.waves import Wave, members, wave_sizes

__all__ = [
    "INSTALL_FAILURE",
    "NONCE_BYTES",
    "NORM",
    "OPERATORS",
    "START",
    "WENT_BACK",
    "WIDTH",
    "Action",
    "Approval",
    "Asked",
    "Begin",
    "Bound",
    "Command",
    "Gate",
    "GateScope",
    "GateSettings",
    "Handled",
    "Measured",
    "Operators",
    "Order",
    "OrderInbox",
    "OrderRequest",
    "Phase",
    "RolledBack",
    "RolloutState",
    "RolloutStore",
    "Standing",
    "StartRequest",
    "Task",
    "Wave",
    "admit_operator",
    "begin",
    "dismiss_operator",
    "evidence",
    "gates_of",
    "is_under_way",
    "members",
    "possible_orders",
    "read_devices",
    "read_operators",
    "read_plan",
    "read_sum",
    "sign_order",
    "status",
    "todo",
    "wave_sizes",
]
