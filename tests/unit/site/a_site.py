"""A site with one joined device, made by the commands; a copy for each test. Not a test itself."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.flower.processes import free_port

PASSPHRASE = "offline: four words nobody guesses"
DEVICE = "hospital0"


def command(*words: object, code: int = 0, said: str | None = None) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words], input=said)
    assert done.exit_code == code, (words, done.output, done.exception)
    return done


def write_plan(folder: Path, **changes: str) -> None:
    """The template with free ports and other texts replaced."""
    command("server", "init", folder)
    path = folder / "site.toml"
    text = path.read_text().replace("0.0.0.0:9500", f"127.0.0.1:{free_port()}")
    text = text.replace("127.0.0.1:9501", f"127.0.0.1:{free_port()}")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def write_rows(path: Path, dataset: str = "Cleveland") -> None:
    table = resources.files("fedinfer") / "data" / "tables" / "heart_disease_uci.csv"
    rows = [row for row in csv.DictReader(table.read_text().splitlines()) if row["dataset"] == dataset]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def passphrase_file(folder: Path) -> Path:
    path = folder / "offline.pass"
    path.touch(0o600)
    path.write_text(PASSPHRASE + "\n")
    return path


def request(folder: Path, *more: object) -> str:
    """Ask for a certificate; the fingerprint that the owner tells the authority."""
    told = command(
        "device", "request", "--store", folder / "store", "--out", folder / "request", "--device", DEVICE,
        "--data", folder / "rows.csv", "--site", folder / "site" / "server" / "card", *more,
    )  # fmt: skip
    return next(line.removeprefix("fingerprint").strip() for line in told.output.splitlines() if "fingerprint" in line)


def set_up(folder: Path) -> None:
    """`folder/site`, and the device's store in `folder/store`."""
    secret = passphrase_file(folder)
    write_plan(folder / "site", **{"min_devices = 4": "min_devices = 2"})
    command("server", "init", folder / "site", "--passphrase-file", secret)
    write_rows(folder / "rows.csv")
    shown = request(folder)
    command(
        "server", "approve", folder / "request", "--site", folder / "site", "--out", folder / "approval",
        "--fingerprint", shown, "--passphrase-file", secret,
    )  # fmt: skip
    command("device", "join", folder / "approval", "--store", folder / "store")
