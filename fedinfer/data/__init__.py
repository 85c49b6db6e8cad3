"""Data sources and partitions: arrays in, arrays out; never downloads."""

from fedinfer.data.checks import check_against_data
from fedinfer.data.drifted import drifting_devices, inject
from fedinfer.data.federation import load
from fedinfer.data.own import load_own, public_schema, training_slots
from fedinfer.data.stream import stream_window
from fedinfer.data.table import DeviceData, Federation, Table

__all__ = [
    "DeviceData",
    "Federation",
    "Table",
    "check_against_data",
    "drifting_devices",
    "inject",
    "load",
    "load_own",
    "public_schema",
    "stream_window",
    "training_slots",
]
