"""Model files before anything trusts them: read without onnx, checked against a table of limits, opened, confined.

`check_model` is the only way to a `CheckedModel`, and `open_checked` the only place that makes a session of one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
