"""`fedinfer device`: the model of this device: install, inspect, predict, serve, roll back; its agent for runs.

A store is a folder with `slots/` (two versions of the model) and `metadata/` (what is trusted of the repository).
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinfer.cli import device_service, enrolment, field, following
from fedinfer.cli.answers import answers_csv, reasoned_lines, with_summands
from fedinfer.cli.labelled import read_rows_file
from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_json, stderr, stdout
from fedinfer.cli.streaming import answer_pipe, predict_streams
from fedinfer.errors import ConfigError
from fedinfer.inference import (
    MOST_CONNECTIONS,
    MOST_LATENCY_US,
    Observed,
    RowReader,
    ServiceLimits,
    SessionCache,
    Slots,
    open_installed,
    rows_in_file,
    seconds_since_refresh,
    staleness_warning,
)
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.inference import Installed, ObservationBuffer, Predictor, Rows

app = typer.Typer(no_args_is_help=True, help="The model on this device.")

DAY_SECONDS = 86_400

Store = Annotated[Path, typer.Option("--store", help="folder of this device's model")]
StaleDays = Annotated[
    float,
    typer.Option("--stale-days", min=0, callback=a_number, help="warn when the repository was not reached for longer"),
]


@app.command()
def install(
    store: Store,
    repository: Annotated[Path, typer.Option("--repository", help="folder with metadata/ and targets/")],
    root: Annotated[Path, typer.Option("--root", help="trusted root metadata the device was shipped with")],
    most_latency_us: Annotated[
        float, typer.Option(min=0, callback=a_number, help="refuse a model slower than this")
    ] = MOST_LATENCY_US,
    measure: Annotated[list[str] | None, typer.Option(help="measure this variant; repeat: the fastest is kept")] = None,
    cohort: Annotated[str, typer.Option(help="take the model of this cohort")] = "",
    stale_days: StaleDays = 7.0,
    as_json: JsonOption = False,
) -> None:
    """Verify, stage, check and activate the newest signed model."""
    with errors_to_exit():
        from fedinfer.inference import Updater, UpdateSettings, folder_fetch

        slots = Slots(store / "slots")
        settings = UpdateSettings(most_latency_us, stale_days * DAY_SECONDS, cohort, None, tuple(measure or ()))
        clock = SystemClock()
        updater = Updater(slots, _bytes(root), store / "metadata", settings, clock, SessionCache(4))
        report = updater.install(folder_fetch(repository), clock.now())
    if as_json:
        print_json(asdict(report))
        return
    for gone in report.withdrawn:
        stdout.print(f"version {gone} was withdrawn by the repository and is not served any more")
    if not report.version:
        stdout.print("this device has no model: the repository offers none")
    elif report.installed:
        stdout.print(
            f"version {report.version} ({report.variant}) is active, before: {report.previous_version or 'none'}"
        )
    else:
        stdout.print(f"version {report.version} ({report.variant}) was active already")


@app.command()
def rollback(store: Store, as_json: JsonOption = False) -> None:
    """Go back to the version before and refuse the active one from now on."""
    with errors_to_exit():
        slots = _slots(store)
        with slots.exclusive():
            active = slots.rollback()
    if as_json:
        print_json({"version": active.version, "variant": active.variant})
    else:
        stdout.print(f"version {active.version} ({active.variant}) is active again")


@app.command()
def status(
    store: Store,
    measure: Annotated[bool, typer.Option("--measure", help="also time predictions and measure their energy")] = False,
    watts: Annotated[float | None, typer.Option(min=0, callback=a_number, help="of one busy core, no meter")] = None,
    stale_days: StaleDays = 7.0,
    as_json: JsonOption = False,
) -> None:
    """Its agent and site, which model is active, where it comes from, and whether the repository is still reached."""
    with errors_to_exit():
        document = device_service.part_in_runs(store)
        if document and not (store / "slots").is_dir():
            document |= {"state": "no model yet: the first run or `fedinfer device update` brings one"}
        else:
            slots, clock = _slots(store), SystemClock()
            document |= _status(slots, store / "metadata", stale_days * DAY_SECONDS, clock)
            if measure:
                document |= _measured(open_installed(slots, SessionCache(1)), watts, clock)
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        stdout.print(f"{key.replace('_', ' '):28s} {value}", markup=False, highlight=False)


@app.command()
def policy(
    store: Annotated[Path, typer.Option("--store", help="folder of an enrolled device")],
    min_survivors: Annotated[
        int | None, typer.Option("--min-survivors", help="fewest devices in a sum that this device joins")
    ] = None,
    corruption_rate: Annotated[
        float | None,
        typer.Option("--corruption-rate", callback=a_number, help="part of all devices that may work for the attacker"),
    ] = None,
    dropout_rate: Annotated[
        float | None,
        typer.Option(
            "--dropout-rate", callback=a_number, help="part that may drop out of a sum that this device joins"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What this device's owner demands of every private sum: show it, or set what is given. No server can lower it."""
    with errors_to_exit():
        from fedinfer.deployment import Floors, open_device, set_floors

        before = open_device(store).floors
        floors = Floors(
            before.min_survivors if min_survivors is None else min_survivors,
            before.corruption_rate if corruption_rate is None else corruption_rate,
            before.dropout_rate if dropout_rate is None else dropout_rate,
        )
        if floors != before:
            set_floors(store, floors)
    if as_json:
        print_json(asdict(floors))
        return
    for name, value in asdict(floors).items():
        stdout.print(f"{name.replace('_', ' '):28s} {value:g}", markup=False, highlight=False)


@app.command()
def predict(
    store: Store,
    rows: Annotated[
        Path,
        typer.Argument(
            help="table (CSV, .gz, Parquet, Arrow, .xlsx, ARFF), .npy, .npz, .jsonl, .png, .wav, a folder, or -"
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write the CSV here")] = None,
    with_reasons: Annotated[bool, typer.Option("--explain", help="name what carried each answer")] = False,
    request: Annotated[str, typer.Option("--id", help="labels of these rows may come later under this name")] = "",
    counted: Annotated[bool, typer.Option("--count/--no-count", help="count the answers in the window")] = True,
    as_stream: Annotated[
        bool, typer.Option("--stream", help="rows are frames of one stream, state goes on; with -: JSON line by line")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict the rows of a file: label and confidence, a number with its interval, scores or tensors."""
    with errors_to_exit():
        from fedinfer.inference import explain, reference_row

        installed = _open(store)
        if as_stream and str(rows) == "-":
            answer_pipe(installed.predictor, installed.info.version, _buffer(store) if counted else None)
            return
        if as_stream:
            matrix, answers = predict_streams(installed.predictor, rows)
        else:
            matrix = _matrix(installed.predictor, rows)
            answers = installed.predictor.predict_matrix(matrix)
        if counted and len(answers):
            from fedinfer.device import recorder_of

            recorder = recorder_of(store, SystemClock())
            if recorder is not None:
                schema = installed.predictor.schema
                recorder([Observed(installed.info.version, answers.naming, schema, matrix, answers.raw, request)])
        reasons = explain(installed.predictor, matrix, reference_row(installed.manifest)) if with_reasons else None
        if as_json:
            lines = with_summands(list(reasoned_lines(answers, reasons, nested=True)), reasons)
            print_json({"version": installed.info.version, "predictions": lines})
        else:
            _write(answers_csv(answers, reasons), output)


def _buffer(store: Path) -> ObservationBuffer | None:
    """Hands answers on to the device's window; None where that cannot be written."""
    from fedinfer.device import BULK_ROWS, recorder_of
    from fedinfer.inference import ObservationBuffer

    recorder = recorder_of(store, SystemClock())
    return None if recorder is None else ObservationBuffer(BULK_ROWS, recorder)


@app.command()
def serve(
    store: Store,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="TCP port; 0: any free one, printed at the start")
    ],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="name of the model in URLs; default: its task")] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="answer to this Host, and to pages from there; repeat")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="ask for this token; a file that only you read")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate chain; with --tls-key")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM private key, not encrypted")] = None,
    client_connections: Annotated[
        int, typer.Option(min=1, max=MOST_CONNECTIONS, help="connections of one client at once")
    ] = ServiceLimits.per_client,
    client_rate: Annotated[
        float, typer.Option(min=0.1, callback=a_number, help="requests of one client per second")
    ] = ServiceLimits.per_second,
    most_failures: Annotated[
        int, typer.Option(min=1, help="failures in a row after which the model is checked on its own rows")
    ] = 5,
    access_log: Annotated[bool, typer.Option("--access-log", help="a line per request on standard error")] = False,
) -> None:
    """Serve the Open Inference Protocol v2 and /metrics; follow models installed meanwhile without losing a request."""
    with errors_to_exit():
        from fedinfer.cli.serving import Endpoint, ModelSource, serve_model, tls_of
        from fedinfer.inference import access_of, read_token

        access = access_of(host, allow_host or (), read_token(token_file) if token_file else b"")
        tls = tls_of(tls_cert, tls_key)
        limits = ServiceLimits(per_client=client_connections, per_second=client_rate)
        serve_model(
            ModelSource(_slots(store), store, name, most_failures),
            Endpoint(host, port, access, limits, tls, access_log),
            has_token=token_file is not None,
        )


@app.command()
def agent(
    store: Annotated[Path, typer.Option("--store", help="folder of this device, made at enrolment")],
    superlink: Annotated[str, typer.Option("--superlink", help="HOST:PORT of the SuperLink's fleet API")],
    root_certificates: Annotated[
        Path, typer.Option("--root-certificates", help="authority of the SuperLink's TLS certificate")
    ],
    auth: Annotated[Path | None, typer.Option("--auth", help="key with which the SuperLink lets this node in")] = None,
    poll: Annotated[
        float, typer.Option("--poll", min=0.01, callback=a_number, help="seconds between two questions for work")
    ] = 0.2,
) -> None:
    """Take part in runs: keep a SuperNode running and answer with this program, never with one that a run brings."""
    with errors_to_exit():
        from fedinfer.cli.worker import COMMAND
        from fedinfer.deployment import AgentSettings, become_agent

        for path in (root_certificates, *([auth] if auth else [])):
            _bytes(path)
        settings = AgentSettings(superlink, root_certificates, auth, poll)
        become_agent(store, settings, COMMAND, SystemClock(), SystemEntropy())


for command in (
    field.label, field.windows, device_service.up, device_service.down, enrolment.request, enrolment.join,
    enrolment.renew, following.update, following.follow,
):  # fmt: skip
    app.command()(command)


def _slots(store: Path) -> Slots:
    if not (store / "slots").is_dir():
        raise ConfigError(f"{store}: no device store", hint="fedinfer device install --store DIR ...")
    return Slots(store / "slots")


def _open(store: Path) -> Installed:
    installed = open_installed(_slots(store), SessionCache(1))
    if installed.damaged:
        stderr.print(f"warning: {installed.damaged}; version {installed.info.version} is used", markup=False)
    return installed


def _status(slots: Slots, metadata: Path, stale_seconds: float, clock: SystemClock) -> Json:
    pointer, now = slots.pointer(), clock.now()
    if pointer.active is None and pointer.withdrawn:
        return {
            "state": "withdrawn: this device has no model until a new version comes",
            "version": None,
            "withdrawn_versions": list(pointer.withdrawn),
            "seconds_since_refresh": seconds_since_refresh(metadata, now),
            "warning": staleness_warning(metadata, now, stale_seconds),
        }
    installed = open_installed(slots, SessionCache(1))
    manifest = installed.manifest
    return {
        "task": manifest.task,
        "version": installed.info.version,
        "variant": installed.info.variant,
        "slot": installed.info.slot,
        "damaged": installed.damaged,
        "previous_version": pointer.previous.version if pointer.previous and not installed.damaged else None,
        "withdrawn_versions": list(pointer.withdrawn),
        "created": manifest.created,
        "epsilon": manifest.privacy.epsilon,
        "delta": manifest.privacy.delta,
        "privacy": manifest.privacy.sentence,
        "statement": manifest.privacy.statement.to_json() if manifest.privacy.statement else None,
        "gates_ran_on": manifest.isa,
        "seconds_since_refresh": seconds_since_refresh(metadata, now),
        "warning": staleness_warning(metadata, now, stale_seconds),
    }


def _measured(installed: Installed, watts: float | None, clock: SystemClock) -> Json:
    from fedinfer.inference import check_matrix, energy_per_prediction, find_meter, median_latency_us

    matrix = check_matrix(installed.predictor, installed.manifest)
    meter = find_meter(Path("/sys"), clock, watts)
    energy = energy_per_prediction(installed.predictor, matrix, meter, repeats=max(1, 20_000 // len(matrix)))
    return {
        "latency_us": round(median_latency_us(installed.predictor, matrix, clock), 1),
        "joules_per_prediction": energy.joules_per_prediction,
        "energy_source": str(energy.source),
    }


def _matrix(predictor: Predictor, path: Path) -> Rows:
    """The rows of a file; what counts as missing without looking so is said on standard error."""
    found = rows_in_file(path, predictor.schema)
    if found is not None:
        return found
    reader, table = predictor.reader, read_rows_file(path, predictor.schema)
    for note in table.notes:
        stderr.print(f"warning: {note}", markup=False, soft_wrap=True)
    matrix = reader.matrix(table)
    unknown = reader.unknown_categories(table.columns) if isinstance(reader, RowReader) else {}
    for column, (cell, count) in unknown.items():
        stderr.print(
            f"warning: column {column}: {cell[:60]!r} is no category and counts as missing ({count} rows)",
            markup=False,
            soft_wrap=True,
        )
    return matrix


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigError(f"{output}: {error.strerror}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
