"""Simulation: a Flower Grid in this process, and what runs scenarios on it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
