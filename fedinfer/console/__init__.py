"""The console of a server: what goes on, as web pages, and orders to rollouts. Needs the extra `serve`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
