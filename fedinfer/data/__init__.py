"""Data: sources, partitions, injected drift. Returns arrays, never downloads."""
