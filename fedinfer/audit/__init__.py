"""Audits: a scenario run with known vectors, and everything about its privacy tested that then can be seen."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
