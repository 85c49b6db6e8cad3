"""Coordinator: the server's use cases. Knows the order of steps; no maths, no I/O except ports."""
