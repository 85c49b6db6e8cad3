"""Data sources and partitions: arrays in, arrays out; never downloads."""

from fedinfer.data.checks import check_against_data, check_judging, check_qat_rows
from fedinfer.data.drifted import drifting_devices, inject
from fedinfer.data.federation import load
from fedinfer.data.guess import ColumnRole, Guess
from fedinfer.data.guess_reading import guess_reading, plain_cells, reading_lines
from fedinfer.data.lazy import LazyRows, lazy_rows
from fedinfer.data.own import all_slots, cut_of, load_own, public_schema, training_slots
from fedinfer.data.profile import Profile, TableProfile, profile_table
from fedinfer.data.proposal import Proposal, propose
from fedinfer.data.proposal_text import write_scenario
from fedinfer.data.stream import collected, stream_window, upcoming
from fedinfer.data.summary import summarize
from fedinfer.data.synthetic import synthetic_schema
from fedinfer.data.table import DeviceData, Federation, Table

__all__ = [
    "ColumnRole",
    "DeviceData",
    "Federation",
    "Guess",
    "LazyRows",
    "Profile",
    "Proposal",
    "Table",
    "TableProfile",
    "all_slots",
    "check_against_data",
    "check_judging",
    "check_qat_rows",
    "collected",
    "cut_of",
    "drifting_devices",
    "guess_reading",
    "inject",
    "lazy_rows",
    "load",
    "load_own",
    "plain_cells",
    "profile_table",
    "propose",
    "public_schema",
    "reading_lines",
    "stream_window",
    "summarize",
    "synthetic_schema",
    "training_slots",
    "upcoming",
    "write_scenario",
]
