"""Run every test in three groups and print one summary line per group; the exit code is 0 only if all pass.

All run in two processes. The end-to-end and browser tests start programs of their own and come last, a file in one
process. Without chromium the browser tests are left out and the summary says so; FEDINFER_TEST_REQUIRE_BROWSER=1 (set
by .ci/run) makes that a failure. The tests of keys on a token are left out in the same way without softhsm2, those of
the alert rules without promtool. Generated examples are the same in every run; `pytest tests/property` tries new ones,
and `make soak` runs what is marked so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

ALONE = "(e2e or browser or token or promtool) and not soak"
NOT_HERE = "not soak and not (e2e or browser or token or promtool)"
IN_PAIRS = ("-n", "2", "--dist", "loadfile")
"""Tests of a file share pages and programs."""
GROUPS = {
    "fast": ["-n", "2", "-m", f"not slow and {NOT_HERE}"],
    "slow": ["-n", "2", "-m", f"slow and {NOT_HERE}"],
    "end to end": [*IN_PAIRS, "-m", ALONE],
}
NEEDED = {
    "browser": ("chromium", "chromium"),
    "token": ("softhsm2-util", "softhsm2"),
    "promtool": ("promtool", "prometheus"),
}
"""Program and Debian package that a group of tests needs."""


def main() -> int:
    """Run the groups in order; later ones run even when an earlier one fails."""
    lines, failed = [], False
    absent = [mark for mark, (program, _) in NEEDED.items() if shutil.which(program) is None]
    for name, arguments in GROUPS.items():
        if name == "end to end":
            arguments = [*IN_PAIRS, "-m", " and ".join([ALONE, *(f"not {mark}" for mark in absent)])]
        code, summary, seconds = _pytest(arguments)
        failed = failed or code != 0
        lines.append(f"{name}: {summary} (exit code {code}, {seconds:.0f} s)")
    for mark in absent:
        program, package = NEEDED[mark]
        failed = failed or os.environ.get(f"FEDINFER_TEST_REQUIRE_{mark.upper()}") == "1"
        lines.append(f"{mark}: NOT RUN, {program} is not installed (apt-get install {package})")
    print("\n" + "\n".join(lines))
    return int(failed)


def _pytest(arguments: list[str]) -> tuple[int, str, float]:
    """Run pytest, pass its output through, and return (exit code, its last line, seconds)."""
    start = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--hypothesis-profile=ci",
        "--durations=5",
        *arguments,
        *sys.argv[1:],
    ]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line.strip() or last
    return process.returncode, last, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
