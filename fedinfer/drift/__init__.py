"""Watching for drift without seeing data. numpy only, so a device can import all of it.

Device: `sketch` (what a window looks like). Both: `channels` (which histograms, in which order). Server: `reference`,
`statistics`, `sequential`, `monitor` (is it drift?), `power` (what it can see), `policy` (what to do about it).
docs/how-to/drift.md starts here.
"""

from fedinfer.drift.channels import Outputs, report_channels, width
from fedinfer.drift.monitor import ChannelResult, WindowResult
from fedinfer.drift.policy import Decision, WatchAction
from fedinfer.drift.power import POWER, smallest_shift
from fedinfer.drift.sketch import Sketch, report_norm, window_report

__all__ = [
    "POWER",
    "ChannelResult",
    "Decision",
    "Outputs",
    "Sketch",
    "WatchAction",
    "WindowResult",
    "report_channels",
    "report_norm",
    "smallest_shift",
    "width",
    "window_report",
]
