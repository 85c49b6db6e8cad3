"""Prints a nested description of a model, a build or a repository: a line for each name, or one JSON document."""

from __future__ import annotations

from fedinfer.cli.output import print_json, printable, stdout
from fedinfer.types import Json


def print_described(document: Json, as_json: bool) -> None:
    """Print a description.

    Args:
        document: names to texts, numbers, lists of texts, or documents.
        as_json: one JSON document instead of lines.
    """
    if as_json:
        print_json(document)
    else:
        _print(document, "")


def _print(document: Json, indent: str) -> None:
    for key, value in document.items():
        name = indent + key.replace("_", " ")
        if isinstance(value, dict) and value:
            stdout.print(name, markup=False, highlight=False)
            _print(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                stdout.print(name, markup=False, highlight=False)
                _print(item, indent + "  ")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else ", ".join(value) if _is_texts(value) else str(value)
            stdout.print(f"{printable(name):26s} {printable(text)}", markup=False, highlight=False, soft_wrap=True)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
