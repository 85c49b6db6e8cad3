"""Many runs of one scenario, in parallel and resumable: every combination of values, its table, page and advice."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
