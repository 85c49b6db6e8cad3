"""Coordinator: the server's use cases. Knows the order of steps; no maths, no I/O except ports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
