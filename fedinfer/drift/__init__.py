"""Watching for drift without seeing data. numpy only, so a device can import all of it.

Device: `sketch` (what a window looks like). Both: `channels` (which histograms, in which order). Server: `reference`,
`statistics`, `sequential`, `monitor` (is it drift?), `policy` (what to do about it). docs/how-to/drift.md starts here.
"""
