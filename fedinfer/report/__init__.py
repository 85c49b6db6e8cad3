"""Report: reads a run folder, writes HTML. Imports no engine."""
