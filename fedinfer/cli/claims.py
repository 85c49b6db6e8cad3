"""Privacy statements that are named on a command line: of a run, a build, a manifest, or a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

from fedinfer.cli.files import read_bytes
from fedinfer.errors import ArtifactRejected, ConfigError
from fedinfer.manifest import NO_CLAIM, Privacy, Statement, read_statement

KNOWN = ("run.json", "manifest.json")
"""Files of a run folder and of a build that hold a statement."""


def statement_in(path: Path) -> Statement:
    """The statement in a run folder, a build, run.json, a manifest or a file of its own.

    Args:
        path: file or folder.

    Raises:
        ConfigError: there is none, or it is not what a statement may be.
    """
    file = next((path / name for name in KNOWN if (path / name).is_file()), path) if path.is_dir() else path
    if file.is_dir():
        raise ConfigError(f"{path}: no run.json or manifest.json in it", hint="give a run folder or a build")
    try:
        found = json.loads(read_bytes(file))
        found = found.get("privacy", found) if "format" in found else found
        found = found.get("statement", found)
        return read_statement(found)
    except (ValueError, AttributeError, TypeError, ArtifactRejected, RecursionError) as error:
        raise ConfigError(
            f"{file}: no privacy statement can be read: {error}", hint="runs of this version have one"
        ) from error


def claim_of(path: Path | None) -> Privacy:
    """What a manifest says about the training of a model file: what its statement says, or that nothing is claimed.

    Args:
        path: as for `statement_in`; None: nobody claims anything.

    Raises:
        ConfigError: see `statement_in`.
    """
    if path is None:
        return NO_CLAIM
    statement = statement_in(path)
    return Privacy(statement.epsilon, statement.delta, statement.sentence(), statement)
