"""What a mechanism cost: events, accountants, calibration, ledgers, audits."""
