"""Privacy: events, accounting, calibration, integer mechanisms, ledgers, audits."""
