"""Is the int8 file as good as the float one? Metrics, baselines, gates, rows for the device's self-check."""
