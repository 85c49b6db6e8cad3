"""`fedinfer version`."""

from __future__ import annotations

import platform

from fedinfer import __version__
from fedinfer.cli.output import JsonOption, print_json, stdout


def version(json: JsonOption = False) -> None:
    """Print the version."""
    if json:
        print_json({"fedinfer": __version__, "python": platform.python_version(), "machine": platform.machine()})
        return
    stdout.print(f"fedinfer {__version__}", highlight=False)
