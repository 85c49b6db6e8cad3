"""`fedinfer pilot`: a whole real deployment on this machine, up, one run, down."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinfer.cli.labelled import read_rows_file
from fedinfer.cli.output import JsonOption, errors_to_exit, print_document, print_json, stderr, stdout
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.site import PilotDevice


def pilot(
    devices: Annotated[int, typer.Option("--devices", help="4 to 32; with 4, each is a hospital of the table")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="of training")] = 2,
    out: Annotated[
        Path | None, typer.Option("--out", help="empty folder to keep everything in; default: nothing is kept")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a whole real deployment up here (SuperLink, agents, TLS, keys), run heart on it, and take it down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything is taken down
    with errors_to_exit(), _folder(out) as folder:
        from fedinfer.site import PilotSettings, run_pilot

        clock = SystemClock()
        begin = clock.seconds()

        def tell(line: str) -> None:
            stderr.print(f"{clock.seconds() - begin:6.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)

        record, made = run_pilot(PilotSettings(folder, devices, rounds), clock, SystemEntropy(), tell)
        document: Json = {
            "status": record["status"],
            "seconds": round(clock.seconds() - begin, 1),
            "rounds": [row["status"] for row in record["rounds"]],
            "secure_aggregation": record["secure_aggregation"]["mode"],
            "devices": [_answers(device) for device in made],
        }
    if as_json:
        print_json(document)
        return
    for answer in document["devices"]:
        stdout.print(
            f"{answer['device']}: version {answer['version']}, {answer['rows']} rows predicted on the device",
            highlight=False,
        )
    print_document({"status": f"{document['status']} in {document['seconds']} s"}, as_json=False)
    if out is not None:
        print_document({"kept": f"{out}; `fedinfer server up {out}` starts it again"}, as_json=False)


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="fedinfer-pilot-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _answers(device: PilotDevice) -> Json:
    """What a device predicts for its own rows with the model that it was given."""
    from fedinfer.inference import SessionCache, Slots, open_installed

    installed = open_installed(Slots(device.store / "slots"), SessionCache(1))
    predictor = installed.predictor
    matrix = predictor.reader.matrix(read_rows_file(device.table, predictor.schema))
    answers = predictor.predict_matrix(matrix)
    return {"device": device.name, "version": installed.info.version, "rows": len(answers)}
