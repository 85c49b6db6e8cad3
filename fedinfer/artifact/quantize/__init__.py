"""Float graphs to int8: schemes by model kind, calibration rows, compression before it."""
