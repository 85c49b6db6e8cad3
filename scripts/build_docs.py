"""Build the documentation with every warning an error. Usage: python scripts/build_docs.py [FOLDER]"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile


def main() -> int:
    """Build into the folder named, or into a temporary one that is thrown away."""
    if len(sys.argv) > 1:
        return _build(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        return _build(folder)


def _build(folder: str) -> int:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement of the theme
    return subprocess.run(command, check=False, env=quiet).returncode


if __name__ == "__main__":
    sys.exit(main())
