"""`fedinfer doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer import __version__
from fedinfer.cli.output import JsonOption, print_json, stdout
from fedinfer.cli.packages import PACKAGES, Package
from fedinfer.model_file import Confinement, available

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One line of the report.

    Args:
        name: what was checked.
        ok: whether it works.
        base: whether the base install needs it.
        version: what was found; empty when absent.
        consequence: what does not work, and what to do.
    """

    name: str
    ok: bool
    base: bool
    version: str
    consequence: str


def doctor(json: JsonOption = False) -> None:
    """Say what is installed, what would not work, and why. Exit code 0 when the base install works."""
    findings = [
        _python(), _folder(Path.cwd()), sandbox(available()), *(_package(package) for package in PACKAGES)
    ]  # fmt: skip
    works = all(finding.ok for finding in findings if finding.base)
    if json:
        print_json(
            {"fedinfer": __version__, "works": works, "machine": machine(), "findings": [asdict(f) for f in findings]}
        )
    else:
        _report(findings, works)
    raise typer.Exit(0 if works else 1)


def machine() -> dict[str, str]:
    """Processor, cores and what int8 models gain on it."""
    flags = _cpu_flags()
    fast = (
        "yes"
        if flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
        else "no: int8 saves bytes, not time"
    )
    return {"system": platform.platform(), "cores": str(os.cpu_count()), "int8_instructions": fast}


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    lines = info.read_text().splitlines()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


def _python() -> ReportLine:
    found, wanted = platform.python_version(), ".".join(map(str, OLDEST_PYTHON))
    return ReportLine("python", sys.version_info >= OLDEST_PYTHON, True, found, f"Python {wanted} or newer is needed")


def _folder(folder: Path) -> ReportLine:
    free = shutil.disk_usage(folder).free
    ok = os.access(folder, os.W_OK) and free >= LEAST_FREE_BYTES
    return ReportLine(
        "run folder", ok, False, f"{free / 1e9:.1f} GB free", f"{folder}: not writable, or under 0.5 GB free; use --out"
    )


def sandbox(locks: Confinement) -> ReportLine:
    """Whether models of a server can be locked in on this machine.

    Args:
        locks: what the kernel of this machine offers.
    """
    names = {"landlock": locks.landlock > 0, "seccomp": locks.seccomp, "limits": locks.limits and not locks.closed}
    found = ", ".join(name for name, there in names.items() if there)
    consequence = (
        "a new model runs first, and meets rows, in a process that is not closed: files and network stay open to it; "
        "Linux 5.13 or newer has Landlock"
    )
    return ReportLine("model sandbox", locks.closed, False, found, consequence)


def _package(package: Package) -> ReportLine:
    base = not package.extra
    install = f"pip install 'fedinfer[{package.extra}]'" if package.extra else "pip install --force-reinstall fedinfer"
    consequence = f"{package.without}: {install}"
    try:
        version = importlib.metadata.version(package.name)
        if base:
            importlib.import_module(package.module)
    except importlib.metadata.PackageNotFoundError:
        return ReportLine(package.name, False, base, "", consequence)
    except Exception as error:  # a broken binary package may raise anything on import
        return ReportLine(package.name, False, base, "", f"{consequence} (import failed: {error})")
    return ReportLine(package.name, True, base, version, "")


def _report(findings: list[ReportLine], works: bool) -> None:
    table = Table("", "found", "version", "what would not work", box=None, pad_edge=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]no[/]" if finding.base else "[yellow]no[/]"
        table.add_row(mark, finding.name, finding.version, "" if finding.ok else escape(finding.consequence))
    stdout.print(table)
    for name, text in machine().items():
        stdout.print(f"{name.replace('_', ' ')}: {text}", highlight=False)
    stdout.print(
        "the base install works" if works else "the base install does not work", style="green" if works else "red"
    )
