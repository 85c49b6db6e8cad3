"""One site: all that a server and its devices need, made from one small file; started, watched, checked, stopped."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
