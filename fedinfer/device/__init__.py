"""Device: the device's side of the same flows. Training is imported only when it trains."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
