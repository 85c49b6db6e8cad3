"""Watching for drift without seeing data. numpy only, so a device can import all of it.

Device: `sketch` (what a window looks like). Both: `channels` (which histograms, in which order). Server: `reference`,
`statistics`, `sequential`, `monitor` (is it drift?), `power` (what it can see), `reuse` (has this been before?),
`policy` (what to do about it).
docs/how-to/drift.md starts here.
"""

from fedinfer.drift.channels import CONFIDENCE, Channel, Outputs, Source, report_channels, split, tally, width
from fedinfer.drift.estimate import (
    BLIND_SPOT,
    AccuracyEstimate,
    ConfidenceCalibration,
    calibrate_confidence,
    estimate_accuracy,
    labelled_accuracy,
)
from fedinfer.drift.flags import judge_window, named, pack_reference, unpack_reference
from fedinfer.drift.forecast import SHIFT, Forecast, chance, enough, forecast, stated_change
from fedinfer.drift.inputs import ERRORS, chosen_channels, local_channels, possible_names, report_names
from fedinfer.drift.monitor import MonitorPlan
from fedinfer.drift.policy import Decision, WatchAction
from fedinfer.drift.power import POWER, smallest_shift
from fedinfer.drift.reuse import Worlds
from fedinfer.drift.sketch import Sketch, report_norm, window_report
from fedinfer.drift.state import MonitorState
from fedinfer.drift.statistics import NoisySum
from fedinfer.drift.verdict import BinChange, ChannelResult, WindowResult

__all__ = [
    "BLIND_SPOT",
    "CONFIDENCE",
    "ERRORS",
    "POWER",
    "SHIFT",
    "AccuracyEstimate",
    "BinChange",
    "Channel",
    "ChannelResult",
    "ConfidenceCalibration",
    "Decision",
    "Forecast",
    "MonitorPlan",
    "MonitorState",
    "NoisySum",
    "Outputs",
    "Sketch",
    "Source",
    "WatchAction",
    "WindowResult",
    "Worlds",
    "calibrate_confidence",
    "chance",
    "chosen_channels",
    "enough",
    "estimate_accuracy",
    "forecast",
    "judge_window",
    "labelled_accuracy",
    "local_channels",
    "named",
    "pack_reference",
    "possible_names",
    "report_channels",
    "report_names",
    "report_norm",
    "smallest_shift",
    "split",
    "stated_change",
    "tally",
    "unpack_reference",
    "width",
    "window_report",
]
