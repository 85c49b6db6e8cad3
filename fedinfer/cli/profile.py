"""`fedinfer profile`: a table at a glance, in the terminal or as a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, printable, stdout
from fedinfer.data import Profile, TableProfile, profile_table
from fedinfer.errors import StoreError
from fedinfer.report import plural

BARS = " ▁▂▃▄▅▆▇█"
SHOWN_DEVICES = 10
STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;"
    "max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .6rem;vertical-align:top;"
    "border-bottom:1px solid #8884;overflow-wrap:anywhere}svg{display:block}rect{fill:#3b82c4}small{opacity:.75}"
)


def profile(
    file: Annotated[Path, typer.Argument(help="the table, as `fedinfer init` takes it")],
    device: Annotated[str, typer.Option("--device", help="column that names who holds a row")] = "",
    html: Annotated[Path | None, typer.Option("--html", help="write one self-contained page here")] = None,
    json: JsonOption = False,
) -> None:
    """Show a table: types, missing cells, distributions, devices. For its owner: it shows cells."""
    with errors_to_exit():
        found = profile_table(file, device)
        if html is not None:
            _write(html, page(found))
    if json:
        print_json(_document(found))
        return
    stdout.print(_table(found.columns))
    for line in _facts(found):
        stdout.print(line, markup=False, highlight=False)
    if html is not None:
        stdout.print(f"Wrote {html}: it shows cells of the table, so keep it as private as the table.", markup=False)


def _table(columns: Sequence[Profile]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("column", overflow="fold", max_width=18)
    for name in ("taken for", "missing", "values", "distribution", "in short"):
        table.add_column(name, overflow="fold")
    for one in columns:
        guess = one.guess
        short = guess.reason if guess.role.value in ("drop", "time") else one.summary
        table.add_row(
            escape(guess.name),
            guess.role.value,
            str(guess.missing or ""),
            str(one.different),
            spark(one),
            escape(short),
        )
    return table


def spark(column: Profile) -> str:
    """The distribution as one character per bin or value, as high as its rows.

    Args:
        column: with at least one bar, or none.
    """
    most = max((count for _, count in column.bars), default=0)
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] if most else BARS[0] for _, count in column.bars)


def _facts(found: TableProfile) -> list[str]:
    lines = [f"\n{plural(found.rows, 'row', '0')}, {plural(len(found.columns), 'column', '0')} beside the device."]
    if found.twice:
        lines.append(f"Exact copies of an earlier row: {plural(found.twice, 'row', '0')}.")
    if found.devices:
        sizes = [count for _, count in found.devices]
        lines.append(
            f"{plural(len(sizes), 'device', '0')}, {min(sizes)} to {max(sizes)} rows each: "
            + ", ".join(f"{name} {count}" for name, count in found.devices[:SHOWN_DEVICES])
            + (" ..." if len(sizes) > SHOWN_DEVICES else "")
        )
    return lines


def page(found: TableProfile) -> str:
    """The profile as one page without anything from outside.

    Args:
        found: of a table.
    """
    rows = "".join(
        f"<tr><td><b>{_html(one.guess.name)}</b><br><small>{_html(one.guess.reason)}</small></td>"
        f"<td>{one.guess.role.value}</td><td>{one.guess.missing or ''}</td><td>{one.different}</td>"
        f"<td>{_svg(one)}<small>{_html(one.summary)}</small></td></tr>"
        for one in found.columns
    )
    facts = "".join(f"<p>{_html(line.strip())}</p>" for line in _facts(found))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_html(found.name)}</title><style>{STYLE}</style></head><body><h1>{_html(found.name)}</h1>{facts}"
        "<table><tr><th>column</th><th>taken for</th><th>missing</th><th>values</th><th>distribution</th></tr>"
        f"{rows}</table></body></html>\n"
    )


def _svg(column: Profile) -> str:
    most = max((count for _, count in column.bars), default=1) or 1
    bars = "".join(
        f'<rect x="{12 * place}" y="{40 - 40 * count / most:.1f}" width="10" height="{40 * count / most:.1f}">'
        f"<title>{_html(name)}: {count}</title></rect>"
        for place, (name, count) in enumerate(column.bars)
    )
    return f'<svg width="{12 * max(len(column.bars), 1)}" height="40" role="img" aria-label="distribution">{bars}</svg>'


def _html(text: str) -> str:
    return html_escape(printable(text))


def _document(found: TableProfile) -> dict[str, object]:
    return {
        "rows": found.rows,
        "repeated_rows": found.twice,
        "columns": [
            {
                "name": one.guess.name,
                "role": one.guess.role.value,
                "reason": one.guess.reason,
                "missing": one.guess.missing,
                "different": one.different,
                "distribution": [[name, count] for name, count in one.bars],
            }
            for one in found.columns
        ],
        "devices": dict(found.devices),
    }


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
