"""Passphrases and PINs on the command line: options that name files, the environment, or a question without echo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import click
import typer

from fedinfer.artifact import PASSPHRASE, ROOT_PASSPHRASE, Secret, no_secret, secret_from

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help=f"file with the passphrase; default: {PASSPHRASE}, else it is asked for"),
]
RootPassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--root-passphrase-file",
        help=f"file with the passphrase of the root keys; default: {ROOT_PASSPHRASE}, else it is asked for",
    ),
]


def secrets(passphrase: Path | None, root_passphrase: Path | None = None, *, new: bool = False) -> Secret:
    """The source of secrets of one command.

    Args:
        passphrase: file for all keys but root keys, and for an authority's key.
        root_passphrase: file for root keys.
        new: ask twice, because what is typed protects keys that are made now.
    """

    def ask(what: str) -> str:
        again = new and not what.startswith("PIN")
        shown = what if what.startswith("PIN") else f"passphrase of {what}"
        try:
            return str(typer.prompt(shown, hide_input=True, confirmation_prompt=again, err=True))
        except click.Abort:
            return no_secret(what)

    return secret_from({PASSPHRASE: passphrase, ROOT_PASSPHRASE: root_passphrase}, os.environ, ask)
