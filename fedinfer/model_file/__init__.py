"""Model files before anything trusts them: read without onnx, checked against a table of limits, opened, confined.

`check_model` is the only way to a `CheckedModel`, and `open_checked` the only place that makes a session of one.
"""

from fedinfer.model_file.inspection import CheckedModel, check_model
from fedinfer.model_file.limits import LIMITS, GraphLimits
from fedinfer.model_file.session import open_checked

__all__ = ["LIMITS", "CheckedModel", "GraphLimits", "check_model", "open_checked"]
